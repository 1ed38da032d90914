"""How the cameras of the built-in robot see, and where they are, without a simulator."""

from __future__ import annotations

import numpy as np

from envs.cameras import RobotCamera, pinhole
from envs.rotations import Array
from envs.tabletop.robot import HAND, SIDES

HEAD_FIELD, WRIST_FIELD = np.radians(31.0), np.radians(70.0)
_HEAD_EYE, _HEAD_TARGET = np.array([0.0, -0.62, 1.95]), np.array([0.0, -0.125, 0.78])
_WRIST_TILT = np.radians(20.0)
_OPENCV = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""The pose of OpenCV's frame (x right, y down, z forward) in SAPIEN's (x forward, y left, z up)."""


def _looking(eye: Array, forward: Array, up: Array) -> Array:
    """The pose [4, 4] of a camera, in SAPIEN's convention."""
    x = forward / np.linalg.norm(forward)
    y = np.cross(up, x)
    y /= np.linalg.norm(y)
    pose = np.eye(4)
    pose[:3] = np.stack([x, y, np.cross(x, y), eye], axis=1)
    return pose


HEAD_POSE = _looking(_HEAD_EYE, _HEAD_TARGET - _HEAD_EYE, np.array([0.0, 0.0, 1.0]))
"""In the world, in SAPIEN's convention."""

WRIST_MOUNT = _looking(
    np.array([0.066, 0.0, 0.072]),
    np.array([-np.sin(_WRIST_TILT), 0.0, np.cos(_WRIST_TILT)]),
    np.array([-1.0, 0.0, 0.0]),
)
"""In the frame of the link `hand`, in SAPIEN's convention."""


def robot_cameras(head_size: int, wrist_size: int) -> dict[str, RobotCamera]:
    """The three cameras by name, with square pictures of these sizes in pixels."""
    hand_eye = WRIST_MOUNT @ _OPENCV
    hand_eye[2, 3] -= HAND  # the tool is so far along the z axis of the hand
    wrist = pinhole(wrist_size, wrist_size, WRIST_FIELD)
    wrists = {f"{side}_wrist": RobotCamera(wrist, hand_eye, arm) for arm, side in enumerate(SIDES)}
    return {"head": RobotCamera(pinhole(head_size, head_size, HEAD_FIELD), HEAD_POSE @ _OPENCV), **wrists}
