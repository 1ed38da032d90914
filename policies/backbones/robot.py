"""The numbers of the robot on which the small backbones are trained: two arms of six joints, each with a gripper."""

from __future__ import annotations

from torch import Tensor

ARM_JOINTS = 6
GRIPPERS = (6, 13)
ACTION_DIM = 14


def relative_actions(actions: Tensor, joints: Tensor) -> Tensor:
    """Subtract the current arm joints [B, A] from absolute targets [B, T, A]. Grippers stay absolute."""
    return actions - _arm_offset(joints)


def absolute_actions(actions: Tensor, joints: Tensor) -> Tensor:
    """Undo `relative_actions`, with grippers kept in [0, 1]."""
    targets = actions + _arm_offset(joints)
    grippers = list(GRIPPERS)
    targets[..., grippers] = targets[..., grippers].clamp(0, 1)
    return targets


def _arm_offset(joints: Tensor) -> Tensor:
    offset = joints.clone()
    offset[..., list(GRIPPERS)] = 0
    return offset[:, None]
