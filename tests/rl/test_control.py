"""The control with a known answer: if this passes and a real run fails, the failure is not in the learning."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config, SegmentsConfig
from launch.shell.cli import parse, resolve
from policies.catalogue import build_schedule
from policies.schedule import Schedule
from policies.walk import WalkBatch, walk
from rl.evaluation.sources import schedule_of
from rl.experience.action_errors import action_errors
from rl.experience.rollouts import FloatArray
from rl.objectives.path_ppo import PathPPOConfig
from rl.rewards.cost import CostConfig
from rl.rewards.path import Calibration, path_score
from rl.runs.checkpoints import read_checkpoint
from rl.runs.training import train
from tests.analytic import OPTIMUM, ROBOT, SPEC, AnalyticWAM, Best, anchors_of, best_walk, calibration_of, load_segments
from tests.rl.recipes import analytic_settings

SEEDS = range(5)
FIXED = [f"fixed-{updates}" for updates in ("full", 1, 2, 3, 4, 5, 6, 8, 10, 12)]
REACHED = 0.95
RECIPE = Path(__file__).resolve().parents[2] / "configs/sants_paper.yaml"


def control_settings(seed: int, *, moving_average: bool = False) -> Config:
    """The usual start; objective, rewards and batches of the recipe, for as long as it takes seconds.

    `moving_average`: the paper's baseline over one path a segment, its cost ramp and a constant rate, where the recipe
    compares the four paths of a segment, charges for updates earlier and lets the rate fall.
    """
    recipe = resolve(parse([str(RECIPE)], {}))
    settings = analytic_settings(iterations=200, seed=seed)
    settings.objective, settings.reward = recipe.objective, recipe.reward
    assert isinstance(recipe.collector, SegmentsConfig)
    settings.collector = replace(recipe.collector, validation_paths=64)
    if moving_average:
        assert isinstance(settings.objective, PathPPOConfig)
        settings.objective.baseline, settings.collector.paths_per_segment = "moving_average", 1
        settings.objective.learning_rate_end = PathPPOConfig().learning_rate_end
        settings.reward["cost"].ramp_fraction = CostConfig().ramp_fraction
    settings.reward["path"].calibration_segments = 64
    settings.validation.every = 20
    settings.run.checkpoint_every = 1000
    return settings


SETTINGS = control_settings(0)
PATH, COST = SETTINGS.reward["path"], SETTINGS.reward["cost"]
HELD_OUT = load_segments(SETTINGS, "test", SPEC.action_horizon)
FINE = np.array([segment.task == "fine" for segment in HELD_OUT])


@cache
def scales() -> Calibration:
    return calibration_of(load_segments(SETTINGS, "train", SPEC.action_horizon), PATH)


@cache
def best_walks() -> list[Best]:
    return [best_walk(segment, scales(), PATH, COST.weight) for segment in HELD_OUT]


def deploy(schedule: Schedule) -> tuple[WalkBatch, FloatArray]:
    """Deterministic walks on segments that training never saw, and the return of each under the full cost."""
    wam = AnalyticWAM()
    context = wam.observe([s.observation for s in HELD_OUT], [s.instruction for s in HELD_OUT])
    walks = walk(wam, context, schedule, range(len(HELD_OUT)))
    target, valid = (np.stack([getattr(s, name) for s in HELD_OUT]) for name in ("chunk", "weight"))
    errors = action_errors(walks.actions, target, valid, ROBOT, SETTINGS.action_error)
    quality = path_score(errors, anchors_of(HELD_OUT, PATH), scales(), PATH).quality
    return walks, quality - COST.weight * walks.updates / SPEC.reference_updates


def mean_return(schedule: Schedule) -> float:
    return float(deploy(schedule)[1].mean())


def test_the_known_answer_is_an_upper_bound_worth_reaching() -> None:
    best = float(np.mean([found.path_return for found in best_walks()]))
    fixed = max(mean_return(build_schedule(name, SPEC)) for name in FIXED)
    untrained = mean_return(build_schedule("sants", SPEC))
    assert best * REACHED > fixed + 0.05
    assert best * REACHED > untrained + 0.05
    assert {found.updates for found, fine in zip(best_walks(), FINE, strict=True) if not fine} == {1}
    assert all(abs(found.sigma - OPTIMUM) < 0.1 for found, fine in zip(best_walks(), FINE, strict=True) if fine)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_up")
@pytest.mark.parametrize(("seed", "moving_average"), [*((seed, False) for seed in SEEDS), (0, True)])
def test_path_ppo_finds_the_known_answer(seed: int, moving_average: bool, tmp_path: Path) -> None:
    result = train(control_settings(seed, moving_average=moving_average), tmp_path, spec=SPEC)
    assert result.best is not None
    walks, returns = deploy(schedule_of(read_checkpoint(result.best), SPEC))
    best = np.array([found.path_return for found in best_walks()])
    assert returns.mean() >= REACHED * best.mean()
    assert returns.mean() > max(mean_return(build_schedule(name, SPEC)) for name in FIXED)
    assert walks.updates[~FINE].mean() <= 1.5  # at once: one update is the least
    stopped_at = np.array([record.sigma_video[-1].mean() for record in walks.records])
    assert np.abs(stopped_at[FINE] - OPTIMUM).mean() < 0.15
