"""Orientations as unit quaternions (w, x, y, z) and as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


def quaternion_from_matrix(rotation: Array) -> Array:
    """Unit quaternions wxyz [..., 4] with w >= 0 from rotation matrices [..., 3, 3]."""
    trace = np.einsum("...ii->...", rotation)
    diagonal = np.einsum("...ii->...i", rotation)
    squares = np.concatenate([trace[..., None], 2 * diagonal - trace[..., None]], axis=-1) + 1
    outer = np.empty((*rotation.shape[:-2], 4, 4))
    for i in range(4):
        outer[..., i, i] = squares[..., i]
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        outer[..., 0, i + 1] = outer[..., i + 1, 0] = rotation[..., k, j] - rotation[..., j, k]
        outer[..., i + 1, j + 1] = outer[..., j + 1, i + 1] = rotation[..., i, j] + rotation[..., j, i]
    row = np.argmax(squares, axis=-1)[..., None, None]
    largest = np.take_along_axis(outer, row, axis=-2)[..., 0, :]
    unit: Array = largest / np.linalg.norm(largest, axis=-1, keepdims=True)
    return np.where(unit[..., :1] < 0, -unit, unit)


def matrix_from_quaternion(quaternion: npt.ArrayLike) -> Array:
    """Rotation matrix [3, 3] of one unit quaternion wxyz."""
    w, x, y, z = np.asarray(quaternion, dtype=float)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_between(first: Array, second: Array) -> Array:
    """The quaternion [..., 4] that turns `first` into `second`: `conj(first) * second`."""
    w1, v1 = first[..., :1], -first[..., 1:]
    w2, v2 = second[..., :1], second[..., 1:]
    scalar = w1 * w2 - np.sum(v1 * v2, axis=-1, keepdims=True)
    return np.concatenate([scalar, w1 * v2 + w2 * v1 + np.cross(v1, v2)], axis=-1)


def geodesic_angle(first: Array, second: Array) -> Array:
    """Angle [...] in radians between orientations [..., 4], in [0, pi]; q and -q are the same orientation."""
    turn = rotation_between(first, second)
    return 2 * np.arctan2(np.linalg.norm(turn[..., 1:], axis=-1), np.abs(turn[..., 0]))
