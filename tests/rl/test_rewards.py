"""The path reward against hand-made numbers and its bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from configs.schema import ActionErrorConfig, EnvConfig
from envs.kinematics import Poses
from envs.rotations import geodesic_angle
from envs.suites import kinematics_of
from envs.tabletop.robot import HOME, fk
from rl.experience.action_errors import ChunkErrors, action_errors, chunk_errors, key_frame_weights
from rl.experience.rollouts import Rollouts
from rl.reward import Rewards
from rl.rewards.cost import CostConfig, ramp
from rl.rewards.path import (
    AnchorErrors,
    Calibration,
    PathConfig,
    PathReward,
    anchor_errors,
    calibrate,
    difficulty_gate,
    gain,
    path_score,
    quality,
)
from tests.analytic import SPEC

ERRORS = ActionErrorConfig()
CONFIG = PathConfig()
ROBOT = kinematics_of(EnvConfig())
STEPS = 8
ALL = np.ones(STEPS)
UNIT = Calibration(0.05, 0.05, 1.0, 1.0)
errors_of = st.floats(0.0, 50.0)


def still(steps: int = STEPS) -> Poses:
    """Both arms at rest, grippers open."""
    return Poses(np.zeros((steps, 2, 3)), np.tile([1.0, 0, 0, 0], (steps, 2, 1)), np.ones((steps, 2)))


def only(**weights: float) -> ActionErrorConfig:
    none = {"position_weight": 0.0, "rotation_weight": 0.0, "gripper_weight": 0.0}
    return replace(ERRORS, **(none | weights))


def turned(angle: float, steps: int = STEPS) -> np.ndarray:
    x, y, z, w = Rotation.from_rotvec([0, 0, angle]).as_quat()
    return np.tile([w, x, y, z], (steps, 2, 1))


def test_one_centimetre_of_one_arm_counts_half_a_unit() -> None:
    moved = still()
    moved.position[:, 0, 0] = 0.01
    errors = chunk_errors(moved, still(), ALL, only(position_weight=1.0))
    assert errors.sequence == pytest.approx(0.5)
    assert errors.difference == pytest.approx(0.0)


def test_a_tenth_of_a_radian_counts_one_unit_whatever_the_sign_of_the_quaternion() -> None:
    config = only(rotation_weight=1.0)
    for quaternion in (turned(0.1), -turned(0.1)):
        errors = chunk_errors(replace(still(), quaternion=quaternion), still(), ALL, config)
        assert errors.sequence == pytest.approx(1.0)
        assert errors.difference == pytest.approx(0.0, abs=1e-9)


def test_the_gripper_counts_as_binary_cross_entropy_and_as_an_absolute_difference() -> None:
    config = only(gripper_weight=1.0)
    half = replace(still(), gripper=np.full((STEPS, 2), 0.5))
    assert chunk_errors(half, still(), ALL, config).sequence == pytest.approx(np.log(2))
    closing = replace(still(), gripper=np.repeat(np.linspace(1, 0.3, STEPS)[:, None], 2, axis=1))
    assert chunk_errors(closing, still(), ALL, config).difference == pytest.approx(0.1)


def test_the_difference_error_sees_motion_and_not_place() -> None:
    drift = still()
    drift.position[:, :, 0] = 0.01 * np.arange(STEPS)[:, None] + 0.3
    assert chunk_errors(drift, still(), ALL, only(position_weight=1.0)).difference == pytest.approx(1.0)
    turning = replace(still(), quaternion=np.concatenate([turned(0.2 * step, 1) for step in range(STEPS)]))
    assert chunk_errors(turning, still(), ALL, only(rotation_weight=1.0)).difference == pytest.approx(2.0)


@given(st.floats(-3.1, 3.1), st.integers(0, 100))
def test_geodesic_angle_is_that_of_scipy(angle: float, seed: int) -> None:
    first = Rotation.random(random_state=seed)
    second = first * Rotation.from_rotvec(angle * np.array([0.0, 0.6, 0.8]))
    wxyz = [rotation.as_quat()[[3, 0, 1, 2]] for rotation in (first, second)]
    assert geodesic_angle(*wxyz) == pytest.approx((first.inv() * second).magnitude(), abs=1e-9)


def test_key_frames_are_around_gripper_events() -> None:
    target = still(10)
    target.gripper[5:, 1] = 0.0
    weights = key_frame_weights(target, np.ones(10), ERRORS)
    assert weights.tolist() == [1, 1, 1, 3, 3, 3, 3, 3, 1, 1]
    target.gripper[5:, 1] = 0.91
    assert key_frame_weights(target, np.ones(10), ERRORS).tolist() == [1] * 10


def test_key_frames_are_the_fastest_steps() -> None:
    target = still(10)
    target.position[:, 1, 0] = np.cumsum([0.0] + [0.01] * 7 + [0.05, 0.01])
    assert key_frame_weights(target, np.ones(10), ERRORS).tolist() == [1] * 8 + [2, 1]
    target.position[:, 1, 0] = 0.01 * np.arange(10)
    assert key_frame_weights(target, np.ones(10), ERRORS).tolist() == [1] * 10


@given(st.integers(1, STEPS))
def test_padded_steps_change_nothing(length: int) -> None:
    random = np.random.default_rng(length)
    joints = np.tile(np.append(HOME, 0.5), 2)
    target = joints + random.normal(0, 0.05, (STEPS, 14))
    predicted = target + random.normal(0, 0.02, (STEPS, 14))
    valid = (np.arange(STEPS) < length).astype(float)
    padded = action_errors(predicted, target, valid, ROBOT, ERRORS)
    short = action_errors(predicted[:length], target[:length], np.ones(length), ROBOT, ERRORS)
    assert padded.sequence == pytest.approx(float(short.sequence))
    assert padded.difference == pytest.approx(float(short.difference))


def test_a_batch_is_its_rows() -> None:
    random = np.random.default_rng(0)
    joints = np.tile(np.append(HOME, 0.5), 2) + random.normal(0, 0.1, (5, STEPS, 14))
    predicted, valid = joints + random.normal(0, 0.1, joints.shape), (random.random((5, STEPS)) < 0.8).astype(float)
    together = action_errors(predicted, joints, valid, ROBOT, ERRORS)
    for row in range(5):
        alone = action_errors(predicted[row], joints[row], valid[row], ROBOT, ERRORS)
        assert together.sequence[row] == pytest.approx(float(alone.sequence))
        assert together.difference[row] == pytest.approx(float(alone.difference))


def test_chunks_go_through_the_forward_kinematics_of_both_arms() -> None:
    random = np.random.default_rng(1)
    actions = np.tile(np.append(HOME, 0.5), 2) + random.normal(0, 0.2, (3, STEPS, 14))
    poses = ROBOT.poses(actions)
    for index, (side, start) in enumerate((("left", 0), ("right", 7))):
        position, quaternion = fk(actions[2, 4, start : start + 6], side)
        np.testing.assert_allclose(poses.position[2, 4, index], position)
        np.testing.assert_allclose(poses.quaternion[2, 4, index], quaternion)
        assert poses.gripper[2, 4, index] == actions[2, 4, start + 6]


def test_a_radian_at_the_shoulder_is_worse_than_one_at_the_wrist() -> None:
    target = np.tile(np.append(HOME, 0.5), (STEPS, 2))
    shoulder, wrist = target.copy(), target.copy()
    shoulder[:, 1] += 0.1
    wrist[:, 5] += 0.1
    large, small = (action_errors(moved, target, ALL, ROBOT, ERRORS).sequence for moved in (shoulder, wrist))
    assert large > 3 * small


def test_gain_is_zero_at_the_shallow_anchor_and_one_at_the_full() -> None:
    shallow, full = np.array([2.0, 1.0]), np.array([1.0, 0.2])
    np.testing.assert_allclose(gain(shallow, shallow, full, 0.05), 0)
    np.testing.assert_allclose(gain(full, shallow, full, 0.05), 1)
    np.testing.assert_allclose(gain(np.array([0.9]), np.array([1.0]), np.array([1.5]), 0.05), 2.0)


@given(errors_of, errors_of, errors_of, st.floats(1e-3, 5), st.floats(1e-3, 5))
def test_quality_is_bounded_and_worse_than_shallow_is_never_rewarded(
    path: float, shallow: float, full: float, floor: float, kappa: float
) -> None:
    gained = gain(np.array(path), np.array(shallow), np.array(full), floor)
    gate = difficulty_gate(np.array(shallow), np.array(full), kappa)
    value = float(quality(gained, gate, CONFIG))
    assert 0 <= gate < 1
    assert -CONFIG.worse_penalty <= value <= CONFIG.max_gain
    if path > shallow:
        assert value <= 0
    if full >= shallow:
        assert value <= 0  # nothing to recover: no reward for anything


@given(errors_of, errors_of, errors_of, errors_of)
def test_a_smaller_error_is_never_worse(path: float, other: float, shallow: float, full: float) -> None:
    low, high = sorted((path, other))

    def total(error: float) -> float:
        chunk = ChunkErrors(np.array(error), np.array(error))
        anchors = AnchorErrors(*(ChunkErrors(np.array(e), np.array(e)) for e in (shallow, full)))
        return float(path_score(chunk, anchors, UNIT, CONFIG).quality)

    assert total(low) >= total(high)


def sample(updates: tuple[float, float] = (5, 10)) -> Rollouts:
    """Two paths: one is as good as most of the way to the full walk, the other is worse than the shallow one."""
    rollouts = Rollouts.empty(["good", "bad"], [0, 1], "completed")
    rollouts.errors = np.array([[1.2, 0.3], [3.0, 0.6]])
    rollouts.anchors = np.array([[2.0, 0.5, 1.0, 0.25], [2.0, 0.5, 1.9, 0.5]])
    rollouts.updates = np.array(updates)
    return rollouts


def rewards_of(path: PathConfig, cost: CostConfig | None = None) -> Rewards:
    """With the scales fixed."""
    rewards = Rewards({"path": path, **({} if cost is None else {"cost": cost})}, SPEC)
    assert isinstance(rewards.terms["path"], PathReward)
    rewards.terms["path"].calibration = UNIT
    return rewards


def test_anchors_are_the_shallow_and_then_the_full_walks_errors() -> None:
    anchors = anchor_errors(sample().anchors)
    for errors, sequence, difference in (
        (anchors.shallow, [2.0, 2.0], [0.5, 0.5]),
        (anchors.full, [1.0, 1.9], [0.25, 0.5]),
    ):
        assert errors.sequence.tolist() == sequence
        assert errors.difference.tolist() == difference


def test_the_return_in_full() -> None:
    scores = rewards_of(CONFIG, CostConfig(weight=0.3)).score(sample(), progress=1.0)
    # First row: gap 1, gain 0.8, gate 1/2; gap 0.25, gain 0.8, gate 0.2. Second: worse than shallow by more than a gap.
    expected = {
        "reward/quality_seq": [0.4, -0.5],
        "reward/quality_dif": [0.16, -0.5],
        "reward/gain_seq": [0.8, -10.0],
        "reward/quality": [0.7 * 0.4 + 0.3 * 0.16, -0.5],
        "reward/cost": [0.06, 0.12],
        "reward/return": [0.7 * 0.4 + 0.3 * 0.16 - 0.06, -0.5 - 0.12],
    }
    assert scores.parts.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(scores.parts[name], values, err_msg=name)
    np.testing.assert_allclose(scores.total, expected["reward/return"])
    assert scores.means(np.ones(len(scores.total)))["reward/cost"] == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        ("anchored_gain", -0.7 * 1.2 - 0.3 * 0.3 - 0.06),
        ("difference_error", 0.7 * 0.4 - 0.06),
        ("difficulty_gate", 0.7 * 0.8 + 0.3 * 0.8 - 0.06),
    ],
)
def test_each_ablation_is_one_switch(switch: str, expected: float) -> None:
    rewards = rewards_of(replace(CONFIG, **{switch: False}), CostConfig(weight=0.3))
    assert rewards.score(sample(), progress=1.0).total[0] == pytest.approx(expected)


def test_without_the_cost_the_quality_is_left() -> None:
    scores = rewards_of(CONFIG).score(sample(), progress=1.0)
    assert scores.total[0] == pytest.approx(0.7 * 0.4 + 0.3 * 0.16)
    assert "reward/cost" not in scores.parts


def test_the_path_reward_is_not_scored_before_its_scales_are_fixed() -> None:
    rewards = Rewards({"path": CONFIG}, SPEC)
    with pytest.raises(RuntimeError, match="before its scales were fixed"):
        rewards.score(sample(), progress=1.0)
    (path,) = rewards.terms.values()
    assert path.calibration_segments == CONFIG.calibration_segments
    path.calibrate(sample().anchors)
    assert path.calibration_segments == 0
    assert np.isfinite(rewards.score(sample(), progress=1.0).total).all()


def test_a_shallow_anchor_as_long_as_the_full_walk_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward\.path\.shallow_updates: 25 updates .* makes 25\. Use at most 24"):
        Rewards({"path": PathConfig(shallow_updates=SPEC.reference_updates)}, SPEC)


def test_the_cost_ramps_up_over_the_first_fifth() -> None:
    rewards = Rewards({"cost": CostConfig()}, SPEC)
    shares = np.array([5, 10]) / SPEC.reference_updates
    for progress, weight in ((0.0, 0.0), (0.1, 0.15), (0.2, 0.3), (0.9, 0.3)):
        np.testing.assert_allclose(rewards.score(sample(), progress).total, -weight * shares)
    assert [ramp(progress, 0.2) for progress in (0.0, 0.1, 0.2, 0.9)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert ramp(0.0, 0.0) == 1.0
    found = [ramp(progress, 0.2, end=0.5) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5])
    assert (ramp(1.0, 1.0, end=0.5), ramp(0.0, 0.0, end=0.5), ramp(1.0, 0.0, end=0.5)) == (1.0, 1.0, 0.5)


def test_calibration_takes_medians() -> None:
    shallow = ChunkErrors(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]))
    full = ChunkErrors(np.array([0.5, 2.5, 1.0]), np.array([0.2, 0.3, 0.4]))
    found = calibrate(AnchorErrors(shallow, full), CONFIG)
    assert found == Calibration(
        floor_sequence=pytest.approx(0.1),
        floor_difference=pytest.approx(0.01),
        kappa_sequence=pytest.approx(1.25),  # of the gaps 0.5 and 2; the negative one does not count
        kappa_difference=pytest.approx(0.01),  # no positive gap: as small as the floor
    )
