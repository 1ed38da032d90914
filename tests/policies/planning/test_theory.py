"""What the paper proves, as properties of the search: Lemma A.1, Proposition A.2 and Corollary A.3."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.planning import PlanConfig, planner_settings
from policies.planning.search import Draws, Found, search

CPU = torch.device("cpu")


def feasible_share(horizon: int, count: int = 200_000, tolerance: float = 0.5) -> float:
    """The share of uniform trajectories [-1, 1]^(2 H) within `tolerance` of those in which every action is the state.

    The distance of (s, a) from the subspace a = s is |a - s| / sqrt(2), over all steps together.
    """
    random = np.random.default_rng(horizon)
    state, action = random.uniform(-1, 1, (2, count, horizon))
    return float((np.linalg.norm(state - action, axis=1) / np.sqrt(2) <= tolerance).mean())


def test_feasible_mass_falls_exponentially_with_the_horizon() -> None:
    """Lemma A.1: there is a rate c > 0 with which exp(-c H) bounds the share at every horizon."""
    horizons = np.arange(1, 8)
    logs = np.log([feasible_share(int(horizon)) for horizon in horizons])
    falls = -np.diff(logs)
    assert (falls > 0.3).all()
    assert (logs <= -0.4 * horizons).all()
    slope, intercept = np.polyfit(horizons, logs, 1)
    residual = logs - (slope * horizons + intercept)
    assert slope < -0.5
    assert 1 - residual.var() / logs.var() > 0.97  # nearly a line


def test_a_generator_of_feasible_trajectories_keeps_their_share_at_every_horizon() -> None:
    """Proposition A.2: the advantage over uniform draws grows with the horizon."""
    failure = 0.1
    ratios = []
    for horizon in (1, 3, 5, 7):
        random = np.random.default_rng(horizon)
        state = random.uniform(-1, 1, (20_000, horizon))
        action = np.where(random.random((20_000, 1)) < failure, -state, state)
        share = (np.linalg.norm(state - action, axis=1) / np.sqrt(2) <= 0.5).mean()
        assert share >= 1 - failure - 0.01
        ratios.append(share / feasible_share(horizon))
    assert ratios == sorted(ratios)
    assert ratios[-1] > 20 * ratios[0]


def optimum(dimensions: int) -> Tensor:
    """A noise of a typical length that no direction prefers."""
    return torch.from_numpy(np.random.default_rng(dimensions).choice([-1.0, 1.0], dimensions)).float()


def landscape(rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
    """A return of 1 at the optimum, and less with the mean squared distance from it."""
    near = 1 / (1 + ((videos - optimum(videos.shape[1])) ** 2).mean(dim=1))
    return near[:, None, None].expand(-1, values.shape[1], 2)


def found_on(dimensions: int, config: PlanConfig, seeds: range = range(8)) -> Found:
    draws = Draws(list(seeds), CPU)
    return search(landscape, draws._normal((dimensions,), 1), 1, draws, config)


BUDGET = PlanConfig(rounds=8, videos=24, values=1, score="mean", final="best")


@pytest.mark.parametrize("dimensions", [4, 16, 64])
def test_iterating_beats_one_shot_at_an_equal_budget(dimensions: int) -> None:
    """Corollary A.3, on a landscape with a known optimum."""
    one_shot = planner_settings("best-of", BUDGET)
    assert one_shot is not None
    assert one_shot.rounds * one_shot.videos == BUDGET.rounds * BUDGET.videos
    iterated, single = found_on(dimensions, BUDGET), found_on(dimensions, one_shot)
    assert iterated.scores.numel() == single.scores.numel()
    assert (iterated.best > single.best).all()


def test_one_shot_is_left_behind_as_the_dimensions_grow() -> None:
    """Its best score falls towards that of a typical draw, while the search still climbs."""
    one_shot = planner_settings("best-of", BUDGET)
    assert one_shot is not None
    single = [float(found_on(dimensions, one_shot).best.mean()) for dimensions in (4, 16, 64, 256)]
    assert single == sorted(single, reverse=True)
    assert single[-1] < 1.2 * (1 / 3)  # a typical draw is at mean squared distance 2


def test_mass_concentrates_round_after_round() -> None:
    """The mean score of the candidates rises, and the distribution narrows to no less than its floor."""
    found = found_on(16, BUDGET)
    means = found.scores.mean(dim=(0, 2))
    assert (means.diff() > 0).all()
    assert (found.videos.std < 0.7).all()
    assert (found.videos.std >= BUDGET.least_std).all()


def test_the_authors_smoothing_hardly_moves() -> None:
    """Weights of .9 on the old mean leave nine tenths of the way to go in every round."""
    settings = replace(BUDGET, rounds=3, final="draw")
    ours = found_on(16, settings).videos.mean
    theirs = found_on(16, replace(settings, smoothing_weighs="old")).videos.mean
    goal = optimum(16)
    assert ((theirs - goal) ** 2).mean() > 1.5 * ((ours - goal) ** 2).mean()
