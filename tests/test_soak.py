"""The soak at a size that fits into the tests, in a process of its own: it watches what the process keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Simulators fail in many ways, and runners are killed. None hangs, since other tests wait for deadlines.
SMALL = ("resets=30", "iterations=25", "seed=2")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_is_left_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *SMALL], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"attempts"' in done.stdout
    assert '"faults"' in done.stdout
