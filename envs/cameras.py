"""The cameras of a robot: how they see, and where they are at given joints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from envs.kinematics import Kinematics
from envs.rotations import Array


@dataclass(frozen=True, eq=False)
class RobotCamera:
    """A camera. Its frame is in the OpenCV convention: x right, y down, z forward."""

    intrinsics: (
        Array  # [3, 3], in pixels of its pictures; the middle of the pixel in row v, column u is (u + .5, v + .5)
    )
    mount: Array  # [4, 4], its pose in the world, or, on an arm, in the frame of the arm's tool (hand-eye transform)
    arm: int | None = None  # the arm that carries it: 0 left, 1 right; None: it does not move


@dataclass(frozen=True, eq=False)
class RobotCameras:
    """The cameras of a robot by name, and its kinematics, whose tool poses must be in the world."""

    cameras: Mapping[str, RobotCamera]
    kinematics: Kinematics

    def camera_poses(self, joints: npt.ArrayLike) -> dict[str, Array]:
        """The pose [..., 4, 4] of each camera in the world for joints [..., A], as an observation has them.

        On an arm it is the pose of the tool times the hand-eye transform. Observed joints are drive targets, which the
        arms follow with a delay: while an arm moves, its camera is not yet where this says, in the built-in suite by up
        to 5 mm in an expert's episode, and where an arm pushes against something it never is. With the measured angles
        of the joints the poses are exact.
        """
        tools = self.kinematics.poses(joints)
        found = {}
        for name, camera in self.cameras.items():
            if camera.arm is None:
                found[name] = np.broadcast_to(camera.mount, (*tools.position.shape[:-2], 4, 4))
                continue
            tool = np.zeros((*tools.position.shape[:-2], 4, 4))
            turn = Rotation.from_quat(tools.quaternion[..., camera.arm, :], scalar_first=True)
            tool[..., :3, :3], tool[..., :3, 3] = turn.as_matrix(), tools.position[..., camera.arm, :]
            tool[..., 3, 3] = 1.0
            found[name] = tool @ camera.mount
        return found


def pinhole(width: int, height: int, vertical_field: float) -> Array:
    """The intrinsics [3, 3] of a camera that looks through the middle of its pictures. The field is in radians."""
    focal = height / 2 / np.tan(vertical_field / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def unproject(depth: Array, intrinsics: Array, pose: Array) -> Array:
    """The points [H, W, 3] in the world, in metres, that a depth picture [H, W] shows; NaN where nothing was hit.

    `intrinsics` [3, 3] and `pose` [4, 4] are those of an observation.
    """
    rows, columns = np.indices(depth.shape) + 0.5
    rays = np.stack([columns, rows, np.ones(depth.shape)], axis=-1) @ np.linalg.inv(intrinsics.astype(float)).T
    points = rays * np.where(depth > 0, depth, np.nan)[..., None]
    world: Array = points @ pose[:3, :3].T.astype(float) + pose[:3, 3]
    return world
