"""A world whose depth is known in closed form: a table, and a ball that rolls over it, before three cameras."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl.evaluation.futures.clips import Clip, Future

Array = npt.NDArray[np.float64]

SIZES = {"head": 64, "left_wrist": 32, "right_wrist": 32}
EYES = {"head": (0.0, -0.7, 0.8), "left_wrist": (-0.4, -0.2, 0.45), "right_wrist": (0.4, -0.2, 0.45)}
TARGET = (0.0, 0.1, 0.0)
BALL_RADIUS = 0.12
TABLE = 0.6  # half its side; beyond it there is nothing


def intrinsics_of(size: int, field: float = 1.0) -> Array:
    focal = size / 2 / np.tan(field / 2)
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def looking(eye: npt.ArrayLike, target: npt.ArrayLike) -> Array:
    """A camera's pose in the world, [4, 4]: x to the right, y down, z forward."""
    z = np.subtract(target, eye)
    z = z / np.linalg.norm(z)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x = x / np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, np.asarray(eye, float)], axis=1)
    return pose


def ball_at(time: float) -> Array:
    return np.array([-0.35 + 0.7 * time, 0.1, BALL_RADIUS])


def seen(size: int, pose: Array, ball: Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """What a camera sees: uint8 [size, size, 3], and float32 [size, size] in metres along the optical axis."""
    rows, columns = np.indices((size, size)) + 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    rays = pixels @ np.linalg.inv(intrinsics_of(size)).T @ pose[:3, :3].T  # their camera z is 1: factors are depths
    eye = pose[:3, 3]
    table = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], 0)
    where = eye + rays * table[..., None]
    table = np.where((np.abs(where[..., :2]) <= TABLE).all(axis=-1), table, 0)
    b, a = ((eye - ball) * rays).sum(axis=-1), (rays**2).sum(axis=-1)
    inside = b**2 - a * (((eye - ball) ** 2).sum() - BALL_RADIUS**2)
    sphere = np.where(inside > 0, (-b - np.sqrt(inside.clip(0))) / a, 0)
    hit = (sphere > 0) & ((table == 0) | (sphere < table))
    checks = (np.floor(where[..., 0] / 0.15) + np.floor(where[..., 1] / 0.15)) % 2
    rgb = np.full((size, size, 3), (150, 170, 190), np.uint8)
    rgb[table > 0] = (120 + 80 * checks[table > 0])[:, None] * np.array([1.0, 0.85, 0.65])
    rgb[hit] = (200, 50, 40)
    return rgb, np.where(hit, sphere, table).astype(np.float32)


def clips(moments: int, slower: float = 1.0) -> dict[str, Clip]:
    """All cameras over time; the ball rolls so much slower."""
    found = {}
    for name, size in SIZES.items():
        pose = looking(EYES[name], TARGET)
        pictures, depths = zip(
            *(seen(size, pose, ball_at(slower * time)) for time in np.linspace(0, 1, moments)), strict=True
        )
        found[name] = Clip(np.stack(pictures), np.stack(depths), intrinsics_of(size), np.stack([pose] * moments))
    return found


def future(moments: int = 6) -> Future:
    """The imagined ball rolls too slowly, and the imagined pictures and depths are noisy."""
    noise = np.random.default_rng(0)
    imagined = {
        name: (
            (clip.rgb + noise.normal(0, 8, clip.rgb.shape)).clip(0, 255).astype(np.uint8),
            (clip.depth * noise.normal(1.02, 0.01, clip.depth.shape)).astype(np.float32),
        )
        for name, clip in clips(moments, slower=0.8).items()
    }
    return Future.of(clips(moments), imagined)
