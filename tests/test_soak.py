"""The soak at a size that fits into the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import soak_episodes, soak_iterations


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_is_left_behind(tmp_path: Path) -> None:
    assert soak_episodes(resets=60, seed=0)["attempts"] > 60
    assert soak_iterations(iterations=40, seed=0, folder=tmp_path)["faults"]
