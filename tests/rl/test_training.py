"""A whole run: resume is exact, damage is survived, directories have one owner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.schema import Config
from rl.checkpoints import Checkpoint, read_checkpoint
from rl.tracking import read_metrics
from rl.training import train
from tests.analytic import SPEC
from tests.rl.recipes import analytic_settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]


def run(settings: Config, directory: Path, stop_after: int | None = None) -> Checkpoint:
    seen: list[int] = []

    def count(iteration: int, metrics: object) -> None:
        seen.append(iteration)

    result = train(
        settings,
        directory,
        spec=SPEC,
        should_stop=lambda: stop_after is not None and len(seen) + 1 >= stop_after,
        on_iteration=count,
    )
    return read_checkpoint(result.latest)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    for part in ("scheduler", "optimizer", "anchors"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert one.state == other.state


def learned(directory: Path) -> list[dict[str, float]]:
    """The metrics that do not depend on the clock."""
    return [
        {name: value for name, value in record.items() if name.partition("/")[0] in ("iteration", "path", "learner")}
        for record in read_metrics(directory)
    ]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = run(analytic_settings(iterations=6), tmp_path / "straight")
    run(analytic_settings(iterations=6), tmp_path / "stopped", stop_after=3)
    resumed = run(analytic_settings(iterations=6), tmp_path / "stopped")
    assert straight.iteration == resumed.iteration == 6
    assert straight.optimizer
    assert_same(straight, resumed)
    assert learned(tmp_path / "straight") == learned(tmp_path / "stopped")


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    one = run(analytic_settings(iterations=2), tmp_path / "one")
    other = run(analytic_settings(iterations=2, seed=43), tmp_path / "other")
    assert any(not torch.equal(one.scheduler[name], other.scheduler[name]) for name in one.scheduler)
