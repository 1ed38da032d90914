"""The GPU on which RoboTwin renders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envs.process.owner import SimulatorUnavailable
from tests.envs.robotwin.fake_simulator import (
    TASK,
    fact,
    start,
)

GPUS = """0, GPU-aaaa-1, 00000000:17:00.0, Disabled
1, GPU-bbbb-2, 00000000:65:00.0, [N/A]
2, GPU-cccc-3, 00000000:CA:00.0, Enabled
3, GPU-dddd-4, 00000000:31:00.0, Disabled
"""


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists `GPUS`."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{GPUS}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), os.environ["PATH"]]))


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("visible", "bus"), [("0", 0x17), ("3,0", 0x31), ("GPU-aaaa-1", 0x17), ("", 0)])
def test_it_renders_on_the_gpu_that_it_was_given(
    root: Path, monkeypatch: pytest.MonkeyPatch, visible: str, bus: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with start(root) as simulator:
        assert fact(simulator.reset(TASK, "clean", 3).observation, "bus") == bus


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ("2", r"GPU 2 \(GPU-cccc-3\) is split by MIG, and cannot render"),
        ("MIG-1234", "an instance of MIG cannot render"),
        ("7", "7 is not one GPU of this machine"),
        ("1", "Vulkan does not see GPU 1 at 0000:65:00.0, but a device"),
    ],
)
def test_a_gpu_that_cannot_render_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, visible: str, message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SimulatorUnavailable, match=message), start(root) as simulator:
        simulator.reset(TASK, "clean", 3)
