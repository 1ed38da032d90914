"""Depth as pictures: what they say at the planes, what is lost, and how much rounding changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.backbones.depth_pictures import (
    depth_of_picture,
    depth_of_signal,
    inverse_depth_picture,
    inverse_depth_signal,
)

NEAR, FAR = 0.2, 2.0
HALF_STEP = (1 / NEAR - 1 / FAR) / 510
LAST = 1 / (1 / FAR + HALF_STEP)
"""The farthest depth that a byte holds."""

planes = st.tuples(st.floats(0.05, 1), st.floats(1.1, 20)).map(lambda of: (of[0], of[0] * of[1]))


@pytest.mark.parametrize(
    ("depth", "level"),
    [
        (NEAR, 255),
        (0.1, 255),
        (FAR, 0),
        (2.5, 0),
        (0.0, 0),
        (-1.0, 0),
        (math.nan, 0),
        (math.inf, 0),
        (1 / (1 / FAR + 102 * 2 * HALF_STEP), 102),
    ],
)
def test_levels(depth: float, level: int) -> None:
    picture = inverse_depth_picture([[depth]], NEAR, FAR)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[level] * 3]]
    signal = inverse_depth_signal([[depth]], NEAR, FAR)
    assert signal.dtype == np.float32
    assert signal[0, 0] == pytest.approx([level / 127.5 - 1] * 3, abs=1e-6)


def test_unknown_and_far_come_back_as_unknown() -> None:
    depth = np.float32([[0, math.nan, FAR, 3 * FAR, 1.01 * LAST]])
    assert depth_of_picture(inverse_depth_picture(depth, NEAR, FAR), NEAR, FAR).tolist() == [[0] * 5]
    assert depth_of_signal(inverse_depth_signal(depth, NEAR, FAR), NEAR, FAR).tolist() == [[0] * 5]


@given(of=planes, share=st.floats(0, 1))
def test_a_byte_is_wrong_by_half_a_step_of_inverse_depth_at_most(of: tuple[float, float], share: float) -> None:
    near, far = of
    half_step = (1 / near - 1 / far) / 510
    last = 1 / (1 / far + 1.001 * half_step)
    depth = np.float32([[near + share * (last - near)]])
    found = depth_of_picture(inverse_depth_picture(depth, near, far), near, far)
    assert abs(1 / found - 1 / depth).item() <= half_step + 1e-5 / near
    assert found == pytest.approx(depth, abs=1.001 * half_step * far * float(depth[0, 0]) + 1e-5)


def test_the_error_of_a_byte_in_metres() -> None:
    """At most 9 mm at 1 m and 2.3 mm at 0.5 m for planes at 0.2 and 2 m: half a step times the square of the depth."""
    for middle, most in ((1.0, 0.009), (0.5, 0.0023)):
        depth = np.linspace(0.98 * middle, middle, 2000, dtype=np.float32)[None]
        error = np.abs(depth_of_picture(inverse_depth_picture(depth, NEAR, FAR), NEAR, FAR) - depth).max()
        assert 0.9 * HALF_STEP * middle**2 < error < most


def test_a_signal_is_not_rounded() -> None:
    depth = np.linspace(NEAR, LAST * 0.999, 100, dtype=np.float32)[None]
    assert depth_of_signal(inverse_depth_signal(depth, NEAR, FAR), NEAR, FAR) == pytest.approx(depth, rel=1e-5)


def test_the_mean_of_the_channels_counts_and_signals_are_clamped() -> None:
    picture = inverse_depth_picture([[0.5]], NEAR, FAR)
    assert depth_of_picture(picture + np.uint8([0, 3, 6]), NEAR, FAR) == pytest.approx(
        depth_of_picture(picture + np.uint8(3), NEAR, FAR)
    )
    assert depth_of_signal(np.full((1, 1, 3), 1.7, np.float32), NEAR, FAR) == pytest.approx(np.float32(NEAR))
    assert depth_of_signal(np.full((1, 1, 3), -1.7, np.float32), NEAR, FAR) == 0
    assert np.isnan(depth_of_signal(np.full((1, 1, 3), np.nan, np.float32), NEAR, FAR)).all()


def test_planes_of_each_camera() -> None:
    near, far = np.reshape([0.5, 0.1], (2, 1, 1)), np.reshape([2.0, 1.0], (2, 1, 1))
    depth = np.full((3, 2, 4, 4), 0.6, np.float32)
    both = inverse_depth_picture(depth, near, far)
    assert both.shape == (3, 2, 4, 4, 3)
    assert (both[:, 1] == inverse_depth_picture(depth[:, 1], 0.1, 1.0)).all()
    assert depth_of_picture(both, near, far) == pytest.approx(depth, abs=0.01)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="0 < near < far"):
        inverse_depth_picture([[1.0]], 1.0, 1.0)
    with pytest.raises(ValueError, match="depth_of_signal"):
        depth_of_picture(np.zeros((1, 1, 3)), NEAR, FAR)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth_of_picture"):
        depth_of_signal(np.zeros((1, 1, 3), np.uint8), NEAR, FAR)  # type: ignore[arg-type]
