"""Made-up RoboTwins and their simulators, one of each for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.process.owner import SimulatorProcess
from tests.envs.robotwin.fake_root import LIMITS, write_fake_root, write_manifest
from tests.envs.robotwin.fake_simulator import (
    KNOWN,
    start,
    workers,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without cuRobo: seeds come from a manifest."""
    folder = tmp_path_factory.mktemp("fake")
    made = write_fake_root(folder / "RoboTwin")
    for task in LIMITS:
        for mode in ("clean", "randomized"):
            write_manifest(made, folder / "manifests", task, mode, {seed: {} for seed in KNOWN})
    return made


@pytest.fixture(scope="module")
def shared(root: Path) -> Iterator[SimulatorProcess]:
    with start(root) as simulator:
        yield simulator
    assert workers() == []


@pytest.fixture(scope="module")
def solving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """With cuRobo and without a manifest: every seed is verified."""
    root = write_fake_root(tmp_path_factory.mktemp("solving") / "RoboTwin", curobo=True)
    with start(root, planner="curobo", instruction_type="seen") as simulator:
        yield simulator
