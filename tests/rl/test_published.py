"""A published backbone under the runner and the path reward that the tiny one has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.schema import Config
from policies.backbones import describe
from rl.algorithm import ScheduleAlgorithmConfig
from rl.engine.runner import WAMEnvRunner
from rl.experience.records import PathRequest, PathTask
from rl.experience.segments import Segment
from tests.analytic import make_segments
from tests.policies.published.small_mixture import INSTRUCTIONS, observations, write_mixture
from tests.rl.recipes import analytic_settings

SEGMENTS = 4


def load_segments(config: Config, split: str, horizon: int) -> list[Segment]:
    """What `demonstrations.segments` may name: segments with pictures, and with instructions that have features."""
    return [
        replace(segment, observation={**seen, **segment.observation}, instruction=INSTRUCTIONS[number % 2])
        for number, (segment, seen) in enumerate(zip(make_segments(SEGMENTS), observations(SEGMENTS), strict=True))
    ]


def test_paths_of_sants_are_walked_and_measured_on_fast_wam(tmp_path: Path) -> None:
    settings = analytic_settings()
    settings.wam = write_mixture(tmp_path, "fastwam-idm")
    settings.demonstrations.segments = f"{__name__}:load_segments"
    spec = describe(settings.wam)
    runner = WAMEnvRunner(config=ScheduleAlgorithmConfig.of(settings, spec), worker_index=0)
    tasks = tuple(PathTask(segment, 5, 100 + segment) for segment in range(SEGMENTS))
    reply = runner.sample(request=PathRequest(tasks, "train", frozenset(task.anchor_key for task in tasks)))
    assert not reply.failures
    assert reply.anchors.keys() == {task.anchor_key for task in tasks}
    assert reply.paths is not None
    assert reply.paths.trace is not None
    assert np.isfinite(reply.paths.errors).all()
    assert ((reply.paths.forwards >= 1) & (reply.paths.forwards <= 1 + spec.reference_updates)).all()
    pooled = reply.paths.trace.columns()["pooled"]
    assert pooled.shape == (reply.paths.lengths.sum(), spec.feature_dim)
