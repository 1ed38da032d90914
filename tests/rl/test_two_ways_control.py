"""A control with a known answer: at a fork, the error against one demonstration asks for a crash.

The error against the nearest of several futures that the backbone draws itself asks for one of the ways.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import Config, SegmentsConfig
from policies.catalogue import build_schedule
from policies.grids import GridSchedule
from policies.reference import reference_walk
from policies.schedule import Schedule
from policies.schedules.sants import SantsSettings
from policies.walk import WalkBatch, walk
from rl.evaluation.sources import schedule_of
from rl.experience.action_errors import ChunkErrors
from rl.experience.references import ReferencePlan, References, nearest_errors
from rl.experience.rollouts import FloatArray
from rl.experience.segments import observe_segments
from rl.rewards.path import Calibration, PathConfig, anchor_errors, calibrate, path_score
from rl.runs.checkpoints import read_checkpoint
from rl.runs.training import train
from tests.analytic import ROBOT
from tests.rl.test_control import control_settings
from tests.two_ways import TWO_WAYS, TwoWaysWAM, commitment, load_segments

REACHED = 0.95


def settings_of(reference: str, root: Path) -> Config:
    settings = control_settings(0)
    settings.run.root, settings.run.iterations = str(root), 120
    settings.wam.backbone, settings.demonstrations.segments = "tests.two_ways", "tests.two_ways:load_segments"
    assert isinstance(settings.collector, SegmentsConfig)
    assert isinstance(settings.reward["path"], PathConfig)
    settings.collector.stops, settings.collector.noise_seeds = "all", 2
    settings.schedule = SantsSettings(untrained_updates=3, max_decisions=6)
    settings.reward["path"].reference = reference
    return settings


SETTINGS = settings_of("samples", Path("unused"))
PATH, COST = SETTINGS.reward["path"], SETTINGS.reward["cost"]
assert isinstance(PATH, PathConfig)
DEPTHS = (PATH.shallow_updates, TWO_WAYS.reference_updates)
HELD_OUT = load_segments(SETTINGS, "test", TWO_WAYS.action_horizon)
FORK = np.array([segment.task == "fine" for segment in HELD_OUT])
NOISE = range(len(HELD_OUT))


class Judge:
    """Scores chunks in the states of a split against the futures that the backbone draws."""

    def __init__(self, split: str, folder: Path) -> None:
        self.segments = load_segments(SETTINGS, split, TWO_WAYS.action_horizon)
        self.wam = TwoWaysWAM()
        self.context = observe_segments(self.wam, self.segments)
        plan = ReferencePlan(demonstration=False, samples=16)
        self.references = References(self.wam, plan, folder).of(self.segments, self.context)

    def errors(self, chunks: FloatArray) -> FloatArray:
        """[N, P, 2] of chunks [N, P, T, A]."""
        valid = np.stack([segment.weight for segment in self.segments])
        return nearest_errors(chunks, self.references, valid, ROBOT, SETTINGS.action_error)

    def anchors(self) -> FloatArray:
        walked = reference_walk(self.wam, self.context, list(NOISE), DEPTHS)
        return self.errors(np.moveaxis(walked, 0, 1)).reshape(len(self.segments), -1)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge("test", tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def scales(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return calibrate(anchor_errors(Judge("train", tmp_path_factory.mktemp("references")).anchors()), PATH)


def returns_of(judge: Judge, scales: Calibration, chunks: FloatArray, updates: FloatArray) -> FloatArray:
    """The returns [N, P] of chunks [N, P, T, A] after so many updates, under the full cost."""
    errors = judge.errors(chunks)
    flat, anchors = errors.reshape(-1, 2), judge.anchors().repeat(chunks.shape[1], axis=0)
    quality = path_score(ChunkErrors(flat[:, 0], flat[:, 1]), anchor_errors(anchors), scales, PATH).quality
    return quality.reshape(errors.shape[:2]) - COST.weight * updates / TWO_WAYS.reference_updates


def best_returns(judge: Judge, scales: Calibration) -> FloatArray:
    """The best that any walk can do, [N]: equal jumps integrate best, so only their number and their end count."""
    updates, ends = (column.ravel() for column in np.meshgrid(np.arange(1, 7), np.linspace(0, 0.9, 31)))
    grids = [np.linspace(1, end, count + 1) for count, end in zip(updates, ends, strict=True)]
    chunks = [walk_on(judge, grid).actions for grid in grids]
    return returns_of(judge, scales, np.stack(chunks, axis=1), updates.astype(np.float64)[None]).max(axis=1)


def walk_on(judge: Judge, levels: FloatArray) -> WalkBatch:
    table = torch.tensor(levels, dtype=torch.float32)
    schedule = GridSchedule(
        "grid", table[None, :, None], None, torch.tensor([len(levels) - 1]), torch.tensor([1.0, 0.0])
    )
    return walk(judge.wam, judge.context, schedule, list(NOISE))


def crashes(walks: WalkBatch) -> float:
    """The share of forks at which a walk ended nearer to the mean of both ways than to one of them."""
    reached = [
        float(commitment(torch.tensor(levels[-1]), torch.tensor((np.diff(levels) ** 2).sum())))
        for record, fork in zip(walks.records, FORK, strict=True)
        if fork
        for levels in [record.sigma_video[:, 0]]
    ]
    return float(np.mean(np.array(reached) < 0.5))


def deploy(schedule: Schedule, judge: Judge, scales: Calibration) -> tuple[WalkBatch, FloatArray]:
    walks = walk(judge.wam, judge.context, schedule, list(NOISE))
    return walks, returns_of(judge, scales, walks.actions[:, None], walks.updates[:, None])[:, 0]


def test_a_single_update_crashes_and_several_pay(judge: Judge, scales: Calibration) -> None:
    best = best_returns(judge, scales).mean()
    once, once_returns = deploy(build_schedule("fixed-1", TWO_WAYS), judge, scales)
    full, full_returns = deploy(build_schedule("fixed-full", TWO_WAYS), judge, scales)
    assert (crashes(once), crashes(full)) == (1.0, 0.0)
    assert best * REACHED > max(once_returns.mean(), full_returns.mean()) + 0.05


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_up")
@pytest.mark.parametrize("reference", ["samples", "demonstration"])
def test_path_ppo_finds_a_way_by_futures_and_crashes_by_one_demonstration(
    reference: str, judge: Judge, scales: Calibration, tmp_path: Path
) -> None:
    result = train(settings_of(reference, tmp_path), tmp_path / "run", spec=TWO_WAYS)
    assert result.best is not None
    walks, returns = deploy(schedule_of(read_checkpoint(result.best), TWO_WAYS), judge, scales)
    share = returns.mean() / best_returns(judge, scales).mean()
    if reference == "demonstration":
        assert crashes(walks) > 0.9
        assert share < 0.5
    else:
        assert crashes(walks) == 0
        assert share >= REACHED
        assert walks.updates[~FORK].mean() <= 1.5
        assert walks.updates[FORK].mean() >= 2 * walks.updates[~FORK].mean()
