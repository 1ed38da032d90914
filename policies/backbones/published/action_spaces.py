"""What the numbers of a published model's actions and states are, and how they become what a robot takes.

This is the one place where they become joint targets, and where joints become them. A suite here takes the joint
targets of two arms. Spaces of tool poses reach them through `Arms`, the kinematics of the suite's robot. A model whose
actions are others is described and loaded, and is refused when it is asked to move that robot.

Shapes: B batch, T actions, A = 14 joints and grippers of both arms.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from policies.backbones.arms import Arms, Array, rotation_vector
from policies.backbones.door import ActsOn
from policies.backbones.robot import ACTION_DIM, GRIPPERS, absolute_actions, relative_actions
from policies.backbones.tool_poses import by_arm, follow, joined, split_joints

X_WAM_WORLD = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # the suite's world, turned by -90 degrees about z
X_WAM_TOOL = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])  # its x and z axes change places, and y is turned round


class ActionSpace(Protocol):
    """This turns the physical numbers of a model into the joints of a robot, and joints into such numbers.

    `arms` are those of the robot, which spaces with `acts_on` "arms" need.
    """

    described: str  # what the numbers of an action are, in words
    acts_on: ActsOn

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        """Return states [B, N] of joints [B, A]. Raises ValueError if the robot's joints do not say them."""
        ...

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        """Return joint targets [B, T, A] of physical actions [B, T, n] and the joints [B, A] of the observation."""
        ...

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        """Return the physical actions [B, T, n] that mean the joint targets [B, T, A]: the inverse of `targets`."""
        ...


class AbsoluteJoints:
    """Actions and states are the joints of both arms with their grippers. Gripper targets are kept in [0, 1]."""

    described = "absolute joint targets of both arms"
    acts_on: ActsOn = "joints"

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return joints

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        targets = actions.clone()
        targets[..., list(GRIPPERS)] = targets[..., list(GRIPPERS)].clamp(0, 1)
        return targets

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return targets


class ToolPoses:
    """OpenWAM's 20 numbers: of each arm the tool's position (metres), two columns of its rotation, and its gripper.

    The columns are the first two of the rotation matrix, one after the other. Numbers that are no rotation are made one
    by Gram and Schmidt. Positions and rotations are those of `Arms`, in the world, but for `relabelled`.
    """

    described = "poses of two tools with 6-D rotations"
    acts_on: ActsOn = "arms"
    size = 3 + 6 + 1

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        angles, grippers = split_joints(joints)
        position, rotation = known(arms).poses(angles)
        columns = relabelled(rotation)[..., :2].swapaxes(-1, -2)
        return joined(joints, position, columns.reshape(*position.shape[:-1], 6), grippers)

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        numbers = by_arm(actions, self.size)
        rotation = unlabelled(_from_columns(numbers[..., 3:6], numbers[..., 6:9]))
        return follow(known(arms), numbers[..., :3], rotation, numbers[..., 9:], joints)

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return self.states(targets, arms)


class ToolPosesFromFirst:
    """LingBot-VA's 16 numbers: of each arm the tool's position, its orientation as a quaternion xyzw, and its gripper.

    Both are relative to the tool at the first frame that the model reads, which is that of the episode's first query:
    the position is the difference in the world, in metres, and the orientation is `R_first^T R`. Grippers are absolute.
    The network keeps them among 30 numbers, of which the others belong to other robots.
    """

    described = "poses of two tools with quaternions, relative to those of the episode's first observation"
    acts_on: ActsOn = "arms"
    size = 3 + 4 + 1

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return self.actions(joints[:, None], joints, arms)[:, 0]

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None, first: Tensor | None = None) -> Tensor:
        """See `ActionSpace`. `first` are the joints [B, A] at the first frame, if that is not the observation."""
        numbers = by_arm(actions, self.size)
        position, rotation = _here(arms, joints if first is None else first)
        length = np.linalg.norm(numbers[..., 3:7], axis=-1, keepdims=True)
        quaternion = np.where(length > 1e-6, numbers[..., 3:7], [0.0, 0.0, 0.0, 1.0])  # without a direction: no turn
        turned = unlabelled(rotation @ Rotation.from_quat(quaternion).as_matrix())
        return follow(known(arms), position + numbers[..., :3], turned, numbers[..., 7:], joints)

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        angles, grippers = split_joints(targets)
        position, rotation = known(arms).poses(angles)
        here, turned = _here(arms, joints)
        turn = Rotation.from_matrix(turned.swapaxes(-1, -2) @ relabelled(rotation), assume_valid=True)
        return joined(targets, position - here, turn.as_quat(canonical=True), grippers)


class ToolSteps:
    """X-WAM's 14 numbers: of each arm the tool's step from the pose before it, and its gripper's change.

    A step is a displacement (metres) and the rotation vector of `R_after R_before^T`. Steps are added up from the
    observation on, as the authors' evaluation does. A state has 16 numbers: of each arm the tool's position, its
    orientation as a quaternion wxyz with w >= 0, and its gripper. Poses are those of `Arms`, with `X_WAM_WORLD` and
    `X_WAM_TOOL` in the place of the suite's world and tool.
    """

    described = "steps of two tools, each from the pose before it"
    acts_on: ActsOn = "arms"
    size = 3 + 3 + 1

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        angles, grippers = split_joints(joints)
        position, rotation = self._poses(arms, angles)
        turn = Rotation.from_matrix(rotation, assume_valid=True)
        return joined(joints, position, turn.as_quat(canonical=True, scalar_first=True), grippers)

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        steps = by_arm(actions, self.size)
        angles, grippers = split_joints(joints)
        now, rotation = self._poses(arms, angles)
        turns, rotations = Rotation.from_rotvec(steps[..., 3:6]).as_matrix(), []
        for moment in range(steps.shape[1]):
            rotation = turns[:, moment] @ rotation
            rotations.append(rotation)
        position = (now[:, None] + np.cumsum(steps[..., :3], axis=1)) @ X_WAM_WORLD
        turned = X_WAM_WORLD.T @ np.stack(rotations, axis=1) @ X_WAM_TOOL.T
        return follow(known(arms), position, turned, grippers[:, None] + np.cumsum(steps[..., 6:], axis=1), joints)

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        angles, grippers = split_joints(torch.cat([joints[:, None], targets], dim=1))
        position, rotation = self._poses(arms, angles)
        turns = rotation_vector(rotation[:, 1:] @ rotation[:, :-1].swapaxes(-1, -2))
        return joined(targets, np.diff(position, axis=1), turns, np.diff(grippers, axis=1))

    def _poses(self, arms: Arms | None, angles: Array) -> tuple[Array, Array]:
        position, rotation = known(arms).poses(angles)
        return position @ X_WAM_WORLD.T, X_WAM_WORLD @ rotation @ X_WAM_TOOL


class RelativeJoints(AbsoluteJoints):
    """The arm joints of an action are differences to those of the observation. All else is as in `AbsoluteJoints`."""

    described = "joint targets of both arms, relative to the observed joints"

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return absolute_actions(actions, joints)

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return relative_actions(targets, joints)


class Foreign:
    """Numbers that no suite of this project can carry out."""

    acts_on: ActsOn = "nothing here"

    def __init__(self, described: str) -> None:
        self.described = described

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        raise ValueError(f"this backbone reads {self.described}, which no suite here observes")

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        raise ValueError(f"this backbone's actions are {self.described}, which no robot of a suite here carries out")

    def actions(self, targets: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        raise ValueError(f"joint targets of two arms are no {self.described}")


SPACES: dict[str, ActionSpace] = {
    "joints": AbsoluteJoints(),
    "relative_joints": RelativeJoints(),
    "tool_poses": ToolPoses(),
    "tool_motions": ToolPosesFromFirst(),
    "tool_steps": ToolSteps(),
    "none": Foreign("no actions"),
    "unified": Foreign("poses of two tools among 80 numbers that all robots share (OpenWAM)"),
    "tool_deltas": Foreign("displacements of one tool with a gripper (LIBERO)"),
}


def finished_size(space: ActionSpace, action_dim: int) -> int:
    """Return how many numbers a finished action has: those of the robot's joints where the arms carry it out."""
    return ACTION_DIM if space.acts_on == "arms" else action_dim


def relabelled(rotation: Array) -> Array:
    """Return the rotations [..., 3, 3] that OpenWAM and LingBot-VA see of RoboTwin's orientations.

    RoboTwin records an orientation as a quaternion wxyz, and both projects read its four numbers as xyzw. This is a
    fixed one-to-one map of rotations; `unlabelled` is the way back.
    """
    recorded = Rotation.from_matrix(rotation, assume_valid=True).as_quat(scalar_first=True)
    seen: Array = Rotation.from_quat(recorded).as_matrix()  # SciPy's own order is xyzw
    return seen


def unlabelled(rotation: Array) -> Array:
    """Return the rotations [..., 3, 3] whose numbers `relabelled` reads as `rotation`."""
    said = Rotation.from_matrix(rotation, assume_valid=True).as_quat()
    recorded: Array = Rotation.from_quat(said, scalar_first=True).as_matrix()
    return recorded


def known(arms: Arms | None) -> Arms:
    """Return the arms. Raises ValueError if they are not known."""
    if arms is None:
        raise ValueError("this backbone moves tools: give it the arms of the robot first (`take_arms`)")
    return arms


def _here(arms: Arms | None, joints: Tensor) -> tuple[Array, Array]:
    """Return positions [B, 1, 2, 3] and relabelled rotations [B, 1, 2, 3, 3] of the tools at joints [B, A]."""
    position, rotation = known(arms).poses(split_joints(joints)[0][:, None])
    return position, relabelled(rotation)


def _from_columns(first: Array, second: Array) -> Array:
    """Return rotations [..., 3, 3] whose first two columns are nearest to `first` and `second` [..., 3], in turn.

    NaN where both do not span a plane.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        x = first / np.linalg.norm(first, axis=-1, keepdims=True)
        across = second - (x * second).sum(-1, keepdims=True) * x
        y = across / np.linalg.norm(across, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)
