"""Coloured point clouds from the RGB-D views of several cameras, and binary PLY files of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from envs.files import replaced_atomically
from rl.evaluation.futures.clips import Array, Depth, View

PIXEL_CENTRE = 0.5
"""Where the middle of the first pixel lies on the axes of the intrinsics. SAPIEN measures depth there."""

_VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
)  # one point of a PLY file
_PLY_TYPE = {"<f4": "float", "|u1": "uchar"}


@dataclass(frozen=True)
class Box:
    """The part of the world that counts: two opposite corners, in metres. Its surface belongs to it."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def holds(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return which of the points [N, 3] lie in the box, bool [N]."""
        inside: npt.NDArray[np.bool_] = ((points >= self.low) & (points <= self.high)).all(axis=1)
        return inside


@dataclass(frozen=True)
class Cloud:
    """Points with their colours."""

    points: npt.NDArray[np.float32]  # float32 [N, 3], metres in the world
    colours: npt.NDArray[np.uint8]  # uint8 [N, 3], RGB

    def __len__(self) -> int:
        return len(self.points)

    def within(self, box: Box) -> Cloud:
        """Return the points in the box."""
        inside = box.holds(self.points)
        return Cloud(self.points[inside], self.colours[inside])


def camera_points(depth: Depth, intrinsics: Array) -> Array:
    """Return the point that each pixel shows, float64 [H, W, 3], in metres on the axes of the camera.

    `depth` [H, W] is measured along the optical axis, in the middle of each pixel. Where it is 0, so is the point.
    """
    rows, columns = np.indices(depth.shape) + PIXEL_CENTRE
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    rays: Array = pixels @ np.linalg.inv(np.asarray(intrinsics, np.float64)).T
    return rays * depth[..., None]


def cloud_of(views: Iterable[View], box: Box | None = None) -> Cloud:
    """Return the points that the views of several cameras show, in the world, without those outside the box.

    Pixels whose depth is 0, negative or not finite have no point. The points of a view follow its rows.
    """
    clouds = [_cloud_of_view(view) for view in views]
    cloud = Cloud(
        np.concatenate([np.empty((0, 3), np.float32), *(cloud.points for cloud in clouds)]),
        np.concatenate([np.empty((0, 3), np.uint8), *(cloud.colours for cloud in clouds)]),
    )
    return cloud if box is None else cloud.within(box)


def _cloud_of_view(view: View) -> Cloud:
    known = np.isfinite(view.depth) & (view.depth > 0)
    pose = np.asarray(view.pose, np.float64)
    local = camera_points(np.where(known, view.depth, 0), view.intrinsics)[known]
    return Cloud((local @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32), view.rgb[known])


def write_ply(path: Path, cloud: Cloud) -> None:
    """Write a cloud as a binary little-endian PLY file, which MeshLab, Blender, CloudCompare and Open3D read.

    The format needs a few lines for points and colours alone, so no package is taken on for it.
    """
    vertices = np.empty(len(cloud), _VERTEX)
    for axis, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colours[:, channel]
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(_header(len(cloud)) + vertices.tobytes())


def read_ply(path: Path) -> Cloud:
    """Read a file that `write_ply` wrote. Raises ValueError if it is something else or is cut short."""
    header, end, body = path.read_bytes().partition(b"end_header\n")
    count = len(body) // _VERTEX.itemsize
    if header + end != _header(count) or len(body) != count * _VERTEX.itemsize:
        raise ValueError(f"{path} is not a whole PLY file of points and colours as written here")
    vertices = np.frombuffer(body, _VERTEX)
    return Cloud(
        np.stack([vertices[name] for name in "xyz"], axis=1),
        np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1),
    )


def _header(count: int) -> bytes:
    properties = [f"property {_PLY_TYPE[_VERTEX[name].str]} {name}" for name in _VERTEX.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *properties, "end_header"]
    return ("\n".join(lines) + "\n").encode("ascii")
