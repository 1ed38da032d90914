"""Depth as pictures for a video autoencoder: inverse depth, linear between two planes, in three equal channels.

A camera has a near and a far plane, in metres. Inverse depth 1 / near becomes 255 (signal +1), 1 / far becomes 0
(signal -1), and the rest lies linearly between them. Depth nearer than the near plane becomes 255 too. Depth that is
invalid (0 or less, or not finite) or farther than the far plane becomes 0, and what is 0 or within half a step of it
is decoded as 0, which means "no depth known". So the depths just before the far plane, at most half a step of inverse
depth away, are lost as well.

Rounding to a byte changes inverse depth by at most (1 / near - 1 / far) / 510, which is about depth^2 times that in
metres: for planes at 0.2 and 2 m it is 9 mm at 1 m.

The planes are numbers, or arrays that broadcast against the depth: of shape [cameras, 1, 1] for depth
[..., cameras, H, W].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LARGEST = 255
"""The value of a byte that stands for the near plane."""

Depth = npt.NDArray[np.float32]
"""Metres along the optical axis, float32 [..., H, W]; 0: not known."""


def inverse_depth_picture(depth: npt.ArrayLike, near: npt.ArrayLike, far: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Convert depth [..., H, W] in metres to a picture, uint8 [..., H, W, 3]."""
    levels = np.rint(_share(depth, near, far) * LARGEST).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)


def depth_of_picture(picture: npt.NDArray[np.uint8], near: npt.ArrayLike, far: npt.ArrayLike) -> Depth:
    """Convert a picture, uint8 [..., H, W, 3], to metres [..., H, W]. The mean of its three channels counts."""
    if picture.dtype != np.uint8:
        raise ValueError(f"a picture of bytes is needed, not {picture.dtype}: depth_of_signal takes floats")
    return _metres(picture.mean(axis=-1) / LARGEST, near, far)


def inverse_depth_signal(depth: npt.ArrayLike, near: npt.ArrayLike, far: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Convert depth [..., H, W] in metres to what a video autoencoder reads: float32 [..., H, W, 3] in [-1, 1].

    Nothing is rounded.
    """
    signal = (_share(depth, near, far) * 2 - 1).astype(np.float32)
    return np.repeat(signal[..., None], 3, axis=-1)


def depth_of_signal(signal: npt.NDArray[np.floating], near: npt.ArrayLike, far: npt.ArrayLike) -> Depth:
    """Convert what a video autoencoder returns, floats [..., H, W, 3], to metres [..., H, W].

    The mean of the three channels counts; it is clamped to [-1, 1]. NaN stays NaN.
    """
    if not np.issubdtype(signal.dtype, np.floating):
        raise ValueError(f"floats are needed, not {signal.dtype}: depth_of_picture takes bytes")
    return _metres((signal.astype(np.float64).mean(axis=-1) + 1) / 2, near, far)


def _share(depth: npt.ArrayLike, near: npt.ArrayLike, far: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return where inverse depth lies between the far plane (0) and the near plane (1), in the shape of the depth."""
    metres = np.asarray(depth, np.float64)
    nearest, farthest = _inverse_planes(near, far)
    known = np.isfinite(metres) & (metres > 0)
    inverse = 1 / np.where(known, metres, 1)
    share: npt.NDArray[np.float64] = np.where(known, (inverse - farthest) / (nearest - farthest), 0)
    return share.clip(0, 1)


def _metres(share: npt.NDArray[np.float64], near: npt.ArrayLike, far: npt.ArrayLike) -> Depth:
    nearest, farthest = _inverse_planes(near, far)
    inverse = farthest + share.clip(0, 1) * (nearest - farthest)
    return np.where(share <= 0.5 / LARGEST, 0, 1 / inverse).astype(np.float32)


def _inverse_planes(near: npt.ArrayLike, far: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    nearest, farthest = np.asarray(near, np.float64), np.asarray(far, np.float64)
    if not ((nearest > 0) & (nearest < farthest) & np.isfinite(farthest)).all():
        raise ValueError(
            f"the planes of a camera must lie at 0 < near < far, not at {nearest.tolist()} and {farthest.tolist()} m"
        )
    return 1 / nearest, 1 / farthest
