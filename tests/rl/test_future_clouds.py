"""Point clouds of a world whose shapes are known, and their files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.evaluation.futures.clips import Clip, Future, View
from rl.evaluation.futures.clouds import Box, Cloud, camera_points, cloud_of, read_ply, write_ply
from tests.rl.raycast import BALL_RADIUS, ball_at, clips, intrinsics_of, looking


def view(depth: float = 2.0, size: int = 4) -> View:
    """A wall in front of a camera at the origin, whose field of view is a right angle."""
    rgb = np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3)
    wall = np.full((size, size), depth, np.float32)
    return View(rgb, wall, intrinsics_of(size, field=math.pi / 2), np.eye(4))


def test_pixels_look_through_their_middles() -> None:
    points = camera_points(view().depth, view().intrinsics)
    assert points[0, 0] == pytest.approx([-1.5, -1.5, 2])
    assert points[1, 3] == pytest.approx([1.5, -0.5, 2])


def test_the_pose_leads_from_the_camera_to_the_world() -> None:
    pose = looking((0, 0, 1), (1, 0, 1))  # along x; right is -y, down is -z
    cloud = cloud_of([replace(view(), pose=pose)])
    assert cloud.points[0] == pytest.approx([2, 1.5, 2.5], abs=1e-6)
    assert (cloud.points.dtype, cloud.colours.dtype, len(cloud)) == (np.float32, np.uint8, 16)
    assert (cloud.colours == view().rgb.reshape(-1, 3)).all()


@pytest.mark.parametrize("nothing", [0.0, -1.0, math.nan, math.inf])
def test_pixels_without_depth_have_no_point(nothing: float) -> None:
    seen = view()
    seen.depth[1, 2] = nothing
    cloud = cloud_of([seen])
    assert len(cloud) == 15
    assert seen.rgb[1, 2].tolist() not in cloud.colours.tolist()


def test_all_cameras_see_one_world() -> None:
    """Every point lies on the table or on the ball, whichever camera saw it."""
    cloud = cloud_of(clip.at(1) for clip in clips(3).values())
    to_ball = np.abs(np.linalg.norm(cloud.points - ball_at(0.5), axis=1) - BALL_RADIUS)
    assert np.minimum(to_ball, np.abs(cloud.points[:, 2])).max() < 1e-5
    assert len(cloud) == sum((clip.depth[1] > 0).sum() for clip in clips(3).values())
    assert (cloud.colours[(to_ball < 1e-5) & (cloud.points[:, 2] > 1e-3)] == (200, 50, 40)).all()


def test_the_box_crops_and_holds_its_surface() -> None:
    box = Box((-0.5, -1.5, 2), (1.5, 0, 2))
    cloud = cloud_of([view()], box)
    assert len(cloud) == 6
    assert cloud.points.min(axis=0) == pytest.approx([-0.5, -1.5, 2])
    assert len(cloud_of([view()], Box((5, 5, 5), (6, 6, 6)))) == 0
    assert len(cloud_of([])) == 0


@given(count=st.integers(0, 40), seed=st.integers(0, 99))
def test_a_file_holds_the_same_cloud(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, 3)).astype(np.float32)
    cloud = Cloud(points, random.integers(0, 256, (count, 3), dtype=np.uint8))
    path = tmp_path_factory.mktemp("ply") / "cloud.ply"
    write_ply(path, cloud)
    found = read_ply(path)
    assert (found.points == cloud.points).all()
    assert (found.colours == cloud.colours).all()
    assert (found.points.dtype, found.colours.dtype) == (np.float32, np.uint8)


def test_the_bytes_of_a_file(tmp_path: Path) -> None:
    """As the format says: little-endian floats, then bytes, after a header of ASCII lines."""
    path = tmp_path / "cloud.ply"
    write_ply(path, Cloud(np.float32([[1, 0, -2]]), np.uint8([[7, 8, 9]])))
    header = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    )
    assert path.read_bytes() == header.encode() + bytes.fromhex("0000803f 00000000 000000c0 070809")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    write_ply(path, cloud_of([view()]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a whole PLY file"):
        read_ply(path)


def test_clips_are_checked() -> None:
    clip = clips(2)["head"]
    with pytest.raises(ValueError, match="a clip needs"):
        Clip(clip.rgb, clip.depth, clip.intrinsics, clip.poses[0])
    with pytest.raises(ValueError, match="differ in cameras"):
        Future(clips(2), {"head": clip})
    with pytest.raises(ValueError, match="differ in cameras"):
        Future(clips(2), clips(3))
    assert len(Future(clips(2), clips(2))) == 2
