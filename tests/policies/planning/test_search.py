"""The search alone: pairing, elites, refitting, scores of any sign, and rows that do not know each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.planning import PlanConfig
from policies.planning.scores import rate
from policies.planning.search import Draws, Found, Gaussian, elites_of, judged, search
from policies.streams import normal_streams
from policies.value_noise import VALUE_STREAM

CPU = torch.device("cpu")
SMALL = PlanConfig(rounds=3, videos=6, values=3, chunk=5)


def fingerprint(row: int, video: Tensor, value: Tensor) -> Tensor:
    """A return [2] that only this row, this video [D] and this value noise [V] have."""
    return torch.stack([row + video.sum() + 10 * value.sum(), video[0] * value[0] - row])


def fingerprints(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
    """The judge that gives every pair its fingerprint."""
    return torch.stack(
        [
            torch.stack([fingerprint(int(row), video, value) for value in own])
            for row, video, own in zip(rows, videos, values, strict=True)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 4)] * 3, st.integers(1, 40), st.integers(0, 2**31))
def test_every_prediction_comes_back_to_its_own_row_video_and_value(
    rows: int, videos: int, values: int, chunk: int, seed: int
) -> None:
    """It fails if candidates are laid out in one order and grouped again in another."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, videos, 3, generator=generator)
    z = torch.randn(rows, videos, values, 2, generator=generator)
    found = judged(fingerprints, x, z, chunk)
    for b in range(rows):
        for m in range(videos):
            for n in range(values):
                torch.testing.assert_close(found[b, m, n], fingerprint(b, x[b, m], z[b, m, n]))


def test_the_score_of_a_video_is_that_of_its_own_best_value() -> None:
    """One video of each row is worth something, with one of its values only. It alone may be chosen."""
    x_good, z_good = 2, 1

    def judge(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
        returns = torch.zeros(*values.shape[:2], 1)
        good = torch.isclose(videos[:, 0], wanted[rows, 0])
        returns[good, z_good] = 1.0
        return returns

    draws, first = Draws([3, 4, 5], CPU), torch.zeros(3, 2)
    config = replace(SMALL, rounds=1, final="best", score="mean")
    wanted = draws.videos(0, (6, 2))[:, x_good]
    found = search(judge, first, 2, draws, config)
    assert found.scores[:, 0].argmax(dim=1).tolist() == [x_good] * 3
    assert found.scores.sum(dim=(1, 2)).tolist() == [1.0] * 3
    torch.testing.assert_close(found.video, wanted)
    torch.testing.assert_close(found.value, draws.values(0, (18, 2))[:, 3 * x_good + z_good])


def bowl(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
    """Returns with a known best video (all 0.5) and value (all -0.5)."""
    miss = ((videos - 0.5) ** 2).flatten(1).sum(dim=1)[:, None] + ((values + 0.5) ** 2).sum(dim=2)
    return torch.stack([1 / (1 + miss), 1.5 / (1 + miss)], dim=-1)


def searched(seeds: list[int], config: PlanConfig) -> Found:
    first = Draws(seeds, CPU)._normal((2, 3), 7)
    return search(bowl, first, 2, Draws(seeds, CPU), config)


@pytest.mark.parametrize("final", ["draw", "best"])
def test_a_row_depends_neither_on_its_batch_nor_on_the_chunks(final: str) -> None:
    config = replace(SMALL, final=final)
    together = searched([11, 12, 13], config)
    for row, seed in enumerate([11, 12, 13]):
        alone = searched([seed], replace(config, chunk=1 + 4 * row))
        torch.testing.assert_close(alone.video[0], together.video[row])
        torch.testing.assert_close(alone.value[0], together.value[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row])


def test_no_chunk_is_larger_than_it_may_be() -> None:
    sizes = []

    def judge(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
        sizes.append(len(videos))
        return bowl(rows, videos, values)

    search(judge, torch.zeros(3, 4), 2, Draws([1, 2, 3], CPU), SMALL)
    assert max(sizes) == SMALL.chunk
    assert sum(sizes) == 3 * SMALL.rounds * SMALL.videos


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
def test_a_refit_is_the_formula_of_the_paper(
    count: int, share: float, alpha: float, beta: float, weighs_new: bool, seed: int
) -> None:
    """Equation 4 and the smoothing, in numpy, with the weights on the new or on the old value."""
    random = np.random.default_rng(seed)
    samples, ratings = random.normal(size=(2, count, 3, 2)), random.normal(size=(2, count))
    old = Gaussian(torch.from_numpy(random.normal(size=(2, 3, 2))), torch.from_numpy(random.random((2, 3, 2))))
    config = PlanConfig(
        mean_smoothing=alpha, std_smoothing=beta, least_std=0.2, smoothing_weighs="new" if weighs_new else "old"
    )
    new = old.refitted(torch.from_numpy(samples), torch.from_numpy(ratings), share, config)
    a, b = (alpha, beta) if weighs_new else (1 - alpha, 1 - beta)
    for row in range(2):
        best = samples[row][np.argsort(-ratings[row])[: elites_of(count, share)]]
        mean, std = best.mean(axis=0), best.std(axis=0)
        np.testing.assert_allclose(new.mean[row], a * mean + (1 - a) * old.mean[row].numpy())
        expected = np.maximum(b * std + (1 - b) * old.std[row].numpy(), 0.2)
        np.testing.assert_allclose(new.std[row], expected)


def test_at_least_two_are_elites_and_never_more_than_there_are() -> None:
    assert [elites_of(count, 0.25) for count in (1, 2, 4, 8, 30)] == [1, 2, 2, 2, 8]
    assert elites_of(8, 1.0) == 8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["shifted", "ratio", "mean"]))
def test_the_best_so_far_is_never_rated_below_the_first(seed: int, score: str) -> None:
    found = searched([seed], replace(SMALL, final="best", score=score))
    assert found.best[0] >= found.scores[0, 0, 0]
    assert found.best[0] == found.scores.max()


def test_the_best_of_one_is_the_noise_without_planning() -> None:
    found = searched([5, 6], replace(SMALL, rounds=1, videos=1, final="best"))
    torch.testing.assert_close(found.video, Draws([5, 6], CPU)._normal((2, 3), 7))


@pytest.mark.parametrize("final", ["draw", "best"])
def test_a_prediction_that_is_not_finite_never_wins(final: str) -> None:
    def judge(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
        returns = bowl(rows, videos, values)
        returns[(rows == 1) | (videos[:, 0, 0] > 0)] = torch.nan
        return returns

    first = torch.full((2, 2, 3), -0.1)
    found = search(judge, first, 2, Draws([1, 2], CPU), replace(SMALL, final=final))
    assert found.best[0].isfinite()
    assert found.best[1] == -torch.inf
    torch.testing.assert_close(found.video[1], first[1])
    own = torch.from_numpy(normal_streams([2], (2,), VALUE_STREAM)).float()
    torch.testing.assert_close(found.value[1:], own)  # as in a walk without a planner
    assert torch.equal(found.videos.std[1], torch.ones(2, 3))
    assert found.videos.mean[0, 0, 0] < 0
    assert all(part.isfinite().all() for part in (found.video, found.value, found.videos.mean, found.videos.std))


def test_the_ratio_prefers_noise_among_negative_returns_and_the_shifted_ratio_does_not() -> None:
    certain, noisy, worse_noisy = (torch.tensor(one) for one in ([-1.0, -1.2], [-0.1, -2.1], [-0.5, -4.5]))
    ratio = [float(rate(one, "ratio", -10, 1e-6)) for one in (certain, noisy, worse_noisy)]
    assert ratio[2] > ratio[0]  # a worse mean, but more noise
    assert ratio[1] > ratio[0]  # the same mean, and more noise
    shifted = [float(rate(one, "shifted", -10, 1e-6)) for one in (certain, noisy, worse_noisy)]
    assert shifted == sorted(shifted, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.floats(-9, 9), st.floats(0, 3), st.floats(0.05, 3), st.floats(0.05, 3))
def test_the_shifted_ratio_rises_with_the_mean_and_falls_with_the_spread(
    mean: float, more: float, spread: float, wider: float
) -> None:
    def rated(mean: float, spread: float) -> float:
        returns = torch.tensor([mean - spread, mean + spread], dtype=torch.float64)
        return float(rate(returns, "shifted", -10.0, 1e-6))

    assert rated(mean + more, spread) >= rated(mean, spread)
    assert rated(mean, spread + wider) <= rated(mean, spread)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=2, max_size=6), st.floats(0, 2))
def test_without_negative_returns_the_shifted_ratio_is_the_ratio(returns: list[float], lowest: float) -> None:
    values = torch.tensor(returns)
    assert rate(values, "shifted", lowest, 1e-6) == rate(values, "ratio", lowest, 1e-6)


def test_one_refit_gives_the_numbers_of_the_authors_later_code() -> None:
    """Its `update_distribution` for eight samples of three numbers, with its defaults and with other settings.

    It weighs the old mean and standard deviation by one number, after the decay of the elites' standard deviation.
    """
    samples = torch.tensor(
        [
            [-0.820135, 0.395631, 0.898908],
            [-1.388404, -0.166996, 0.28515],
            [-0.641092, -0.893655, -0.848909],
            [-1.216929, -0.081022, 1.361485],
            [-1.303217, 0.087478, -1.384961],
            [0.503564, -0.866702, -0.564007],
            [-2.056463, -0.356723, 1.09558],
            [0.482354, 1.398918, 1.405853],
        ]
    )
    scores = torch.tensor([1.779155, -0.917931, -0.457819, -0.724473, 1.279878, -0.994066, 1.814973, -0.602848])
    old = Gaussian(torch.tensor([[0.484444, 0.579059, -0.12675]]), torch.tensor([[0.83048, 1.019577, 0.714695]]))
    for weight, share, floor, mean, std in (
        (0.9, 0.25, 0.05, [0.29217, 0.523099, -0.014351], [0.778341, 0.936428, 0.648143]),
        (0.2, 0.5, 0.4, [-0.867292, -0.037642, -0.073226], [0.4, 0.4, 0.573417]),
    ):
        config = PlanConfig(
            mean_smoothing=weight, std_smoothing=weight, std_decay=0.5, least_std=floor, smoothing_weighs="old"
        )
        new = old.refitted(samples[None], scores[None], share, config)
        torch.testing.assert_close(new.mean[0], torch.tensor(mean), atol=1e-5, rtol=0)
        torch.testing.assert_close(new.std[0], torch.tensor(std), atol=1e-5, rtol=0)


def test_with_shared_values_the_better_video_wins_and_not_the_luckier_value_noise() -> None:
    """Here a prediction is mostly its value noise, as where success and failure are both possible."""
    first = torch.randn(32, 3, generator=torch.Generator().manual_seed(5))

    def judge(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
        return (videos[:, :1] + 20 * values[..., 0])[..., None]

    def chosen(video_score: str) -> Tensor:
        config = PlanConfig(rounds=1, videos=8, values=4, score="mean", final="best", video_score=video_score)
        return search(judge, first, 1, Draws(range(32), first.device), config).video[:, 0]

    assert float(chosen("mean").mean()) > 1.2, "the largest of eight standard normal numbers is 1.42 on average"
    assert abs(float(chosen("best").mean())) < 0.5
