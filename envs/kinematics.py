"""Joint targets as tool poses: a radian at the shoulder and one at the wrist are not the same error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from envs.rotations import Array

ToolPose = Callable[[Array], tuple[Array, Array]]
"""Joints [..., N] of one arm -> position [..., 3] in metres, quaternion wxyz [..., 4] of unit length."""


@dataclass(frozen=True)
class Poses:
    """What both grippers do over a chunk, float64. Axis -2 of position and quaternion is the arm: left, right."""

    position: Array  # [..., T, 2, 3], metres
    quaternion: Array  # [..., T, 2, 4], wxyz, unit length
    gripper: Array  # [..., T, 2], 0 closed .. 1 open


@dataclass(frozen=True)
class Kinematics:
    """Of a robot with two arms; picklable.

    Each arm's poses are in a frame of its own that stands still: differences between poses of one arm are all that
    errors are made of, and they are the same in every such frame.
    """

    joints: tuple[int, int]  # of the left and of the right arm, without grippers
    tools: tuple[ToolPose, ToolPose]

    @property
    def action_size(self) -> int:
        """Of `[left joints, left gripper, right joints, right gripper]`."""
        return sum(self.joints) + 2

    def poses(self, targets: npt.ArrayLike) -> Poses:
        """Of absolute joint targets [..., T, action_size]. ValueError for those of another robot."""
        values = np.asarray(targets, dtype=np.float64)
        if values.shape[-1] != self.action_size:
            raise ValueError(f"actions of {values.shape[-1]} numbers, and this robot's have {self.action_size}")
        gripper = self.joints[0]
        arms = values[..., :gripper], values[..., gripper + 1 : -1]
        placed = [tool(joints) for tool, joints in zip(self.tools, arms, strict=True)]
        return Poses(
            position=np.stack([position for position, _ in placed], axis=-2),
            quaternion=np.stack([quaternion for _, quaternion in placed], axis=-2),
            gripper=values[..., [gripper, -1]],
        )
