"""The terms of the dense reward and discounted returns: bounds, invariances, known values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.returns import DenseWeights, ReturnsConfig
from envs.demonstrations import Episode
from rl.returns import terms
from rl.returns.dense import COLUMNS, MOTION, Goal, components, scored, weights_of

VALUES = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(7)), elements=st.floats(-3, 3))
PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(4), st.just(5), st.just(3)))
NUMBERS = arrays(np.float64, st.integers(1, 20), elements=st.floats(-5, 5))


@given(PICTURES)
def test_equal_pictures_have_the_highest_reward_and_all_are_bounded(pictures: np.ndarray) -> None:
    rewards = terms.mse_reward(terms.mean_squared_error(pictures, pictures[-1]), 0.01)
    assert rewards[-1] == 1
    assert ((rewards >= 0) & (rewards <= 1)).all()
    swapped = terms.mean_squared_error(pictures[-1:], pictures[0])
    assert terms.mean_squared_error(pictures[:1], pictures[-1]) == pytest.approx(swapped)


@given(arrays(np.float64, 5, elements=st.floats(-1, 1)))
def test_the_reward_of_similarity_is_bounded_and_grows(similarities: np.ndarray) -> None:
    rewards = terms.ssim_reward(np.sort(similarities))
    assert ((rewards >= np.exp(-2)) & (rewards <= 1)).all()
    assert (np.diff(rewards) >= 0).all()


@given(VALUES, st.floats(-2, 2))
def test_proximity_is_bounded_and_depends_on_differences_alone(values: np.ndarray, shift: float) -> None:
    rewards = terms.proximity_reward(values, values[-1])
    assert rewards[-1] == 1
    assert ((rewards > 0) & (rewards <= 1)).all()
    np.testing.assert_allclose(terms.proximity_reward(values + shift, values[-1] + shift), rewards)


@given(VALUES, st.floats(-2, 2), st.floats(0, 4))
def test_motion_does_not_depend_on_the_place_and_scales(values: np.ndarray, shift: float, factor: float) -> None:
    for term in (terms.speed, terms.acceleration):
        found = term(values)
        assert found.shape == (len(values),)
        assert (found >= 0).all()
        np.testing.assert_allclose(term(values + shift), found, atol=1e-9)
        np.testing.assert_allclose(term(values * factor), found * factor, atol=1e-9)
        np.testing.assert_allclose(term(-values), found)


def test_motion_by_hand() -> None:
    values = np.array([[0.0, 0.0], [1.0, -2.0], [3.0, -2.0], [3.0, 1.0]])
    assert terms.speed(values).tolist() == [0, 3, 2, 3]
    assert terms.acceleration(values).tolist() == [0, 0, 3, 5]
    assert terms.acceleration(values[:1]).tolist() == [0]


@given(NUMBERS, st.floats(-5, 5), st.floats(0.1, 1), st.integers(1, 30))
def test_returns_are_those_of_a_plain_loop(rewards: np.ndarray, after: float, discount: float, horizon: int) -> None:
    found = terms.discounted_returns(rewards, after, discount, horizon)
    for step in range(len(rewards)):
        total = 0.0
        for ahead in range(horizon):
            reward = rewards[step + ahead] if step + ahead < len(rewards) else after
            total += discount**ahead * reward
        assert found[step] == pytest.approx(total, abs=1e-9)


@given(NUMBERS, st.floats(0.1, 1), st.integers(2, 30))
def test_returns_obey_the_recursion(rewards: np.ndarray, discount: float, horizon: int) -> None:
    longer = terms.discounted_returns(rewards, 0.0, discount, horizon)
    shorter = terms.discounted_returns(rewards, 0.0, discount, horizon - 1)
    following = np.append(shorter[1:], 0.0)
    np.testing.assert_allclose(longer, rewards + discount * following, atol=1e-9)


def episode_of(rows: int = 4, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    sizes = {"head": 16, "left_wrist": 12, "right_wrist": 12}
    images = {name: rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8) for name, size in sizes.items()}
    return Episode(images, rng.uniform(-1, 1, (rows, 14)).astype(np.float32), ("do it",), {})


def test_there_are_nine_terms_and_sixteen_numbers_with_the_weights_of_the_paper() -> None:
    assert len(COLUMNS) == len(set(COLUMNS)) == 16
    weights = dict(zip(COLUMNS, weights_of(DenseWeights()), strict=True))
    assert len(vars(DenseWeights())) == 9
    assert sum(weights[name] for name in COLUMNS[:8]) == pytest.approx(8 / 16)
    assert weights["joint_velocity_left"] == weights["joint_acceleration_right"] == -1 / 16
    assert weights["action_velocity_right"] == weights["action_acceleration_left"] == -0.1 / 16
    assert sum(MOTION) == 8


def test_components_by_hand() -> None:
    episode = episode_of()
    episode.images["head"][:-1] = episode.images["head"][-1] // 2 + 20
    flat = np.full((4, 12, 12, 3), 100, np.uint8)
    flat[0] = 110
    episode.images["left_wrist"][:] = flat
    episode.joints[:] = 0
    episode.joints[1, 0], episode.joints[2, 0] = 0.5, 0.2  # the left arm moves
    episode.joints[1:, 13] = 1.0  # the right gripper opens
    found = dict(zip(COLUMNS, components(episode, Goal.of(episode), 0.01).T, strict=True))
    np.testing.assert_allclose(found["wrist_mse_left"], [np.exp(-1.0), 1, 1, 1], rtol=1e-6)
    c1 = (0.01 * 255) ** 2
    similarity = (2 * 110 * 100 + c1) / (110**2 + 100**2 + c1)
    np.testing.assert_allclose(found["wrist_ssim_left"], [np.exp(similarity - 1), 1, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(found["joint_proximity_left"], np.exp([0, -0.5, -0.2, 0]), rtol=1e-6)
    np.testing.assert_allclose(found["joint_proximity_right"], [np.exp(-1), 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(found["joint_velocity_left"], [0, 0.5, 0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(found["joint_acceleration_left"], [0, 0, 0.8, 0.1], rtol=1e-6)
    np.testing.assert_allclose(found["action_velocity_left"], [0, 0.3, 0.2, 0], rtol=1e-6)
    np.testing.assert_allclose(found["action_acceleration_left"], [0, 0, 0.1, 0.2], rtol=1e-5)
    np.testing.assert_allclose(found["joint_velocity_right"], [0, 1, 0, 0])
    np.testing.assert_allclose(found["action_velocity_right"], [0, 0, 0, 0])
    assert found["top_mse"][-1] == found["top_ssim"][-1] == 1


def test_a_mirrored_episode_has_the_mirrored_numbers() -> None:
    episode = episode_of()
    halves = np.split(episode.joints, 2, axis=1)
    left, right = episode.images["left_wrist"], episode.images["right_wrist"]
    images = {"head": episode.images["head"], "left_wrist": right, "right_wrist": left}
    mirrored = Episode(images, np.concatenate(halves[::-1], axis=1), ("do it",), {})
    found, other = (
        dict(zip(COLUMNS, components(one, Goal.of(one), 0.01).T, strict=True)) for one in (episode, mirrored)
    )
    for name, values in found.items():
        twin = name.replace("left", "#").replace("right", "left").replace("#", "right")
        np.testing.assert_allclose(other[twin], values, rtol=1e-6)


def test_after_the_end_the_robot_stands_still_or_there_is_nothing() -> None:
    rows = np.zeros((3, 16), np.float32)
    rows[:, 0], rows[:, COLUMNS.index("joint_velocity_left")] = [0.0, 0.5, 1.0], [0.0, 2.0, 4.0]
    rewards = [0.0, 0.5 / 16 - 2 / 16, 1 / 16 - 4 / 16]
    held = scored(rows, ReturnsConfig(discount=0.5, horizon=3))
    np.testing.assert_allclose(held.rewards, rewards)
    assert held.returns[2] == pytest.approx(rewards[2] + (0.5 + 0.25) / 16)
    cut = scored(rows, ReturnsConfig(discount=0.5, horizon=3, after_end="zero"))
    assert cut.returns[2] == pytest.approx(rewards[2])
    assert cut.returns[0] == held.returns[0] == pytest.approx(0.5 * rewards[1] + 0.25 * rewards[2])


def test_what_cannot_be_compared_is_named() -> None:
    episode, goal = episode_of(), Goal.of(episode_of())
    narrow = Goal(goal.images, goal.joints[:12])
    with pytest.raises(ValueError, match="14 joints and grippers cannot be compared with a last frame of 12"):
        components(episode, narrow, 0.01)
    small = Goal({**goal.images, "head": goal.images["head"][:12]}, goal.joints)
    with pytest.raises(ValueError, match="its head pictures are"):
        components(episode, small, 0.01)
