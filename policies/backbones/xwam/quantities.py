"""The numbers of a robot as a network sees them: states between -1 and 1, actions as differences that are only scaled.

What the numbers are says the action space (`actions.py`). Scaling without an offset leaves an action of 0 at "no
motion" (X-WAM, implementation details).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from policies.backbones.arms import Arms
from policies.backbones.weights import take_statistics
from policies.backbones.xwam.actions import ActionSpace, JointTargets, ToolMotions

LOW, HIGH = 0.01, 0.99
SMALLEST = 1e-2
SCALES = ("state_low", "state_high", "action_scale")
ARMS = ("arm_axes", "arm_points", "arm_tools")  # the fields of `Arms`
TOOLS = (*ARMS, "middle")


@dataclass
class Quantities:
    """The 1% and 99% quantiles of a data set, float32 [numbers of a state], [the same], [numbers of an action]."""

    state_low: Tensor
    state_high: Tensor
    action_scale: Tensor  # the larger absolute value of both quantiles
    space: ActionSpace = field(default_factory=JointTargets)

    @classmethod
    def measured(cls, joints: Tensor, actions: Tensor, space: ActionSpace | None = None) -> Self:
        """Measure them on the joints [N, A] and the joint targets [N, T, A] of clips. The space is joints if None."""
        space = JointTargets() if space is None else space
        low, high = torch.quantile(space.states(joints), torch.tensor([LOW, HIGH]), dim=0).clone()
        high = torch.maximum(high, low + SMALLEST)
        low[space.bounded_states()], high[space.bounded_states()] = -1.0, 1.0
        relative = space.relative(actions, joints).flatten(0, 1)
        bounds = torch.quantile(relative, torch.tensor([LOW, HIGH]), dim=0)
        return cls(low, high, bounds.abs().amax(0).clamp_min(SMALLEST), space)

    @classmethod
    def taken(cls, tensors: dict[str, Tensor], actions: str, path: Path) -> Self:
        """Take those of the action space `actions` out of the tensors of a checkpoint, the file `path`.

        Raises ValueError if some are missing, or if the checkpoint is one of another action space.
        """
        stored = "end_effector" if f"statistics.{TOOLS[0]}" in tensors else "joints"
        if stored != actions:
            raise ValueError(f"{path} was trained with pretrain.xwam.actions={stored}, not {actions}")
        low, high, scale = take_statistics(tensors, SCALES, path)
        if actions == "joints":
            return cls(low, high, scale)
        *arms, middle = (one.double().numpy() for one in take_statistics(tensors, TOOLS, path))
        return cls(low, high, scale, ToolMotions(Arms(*arms), middle))

    def tensors(self) -> dict[str, Tensor]:
        """Return what `taken` takes, float32, by the names that `save_checkpoint` takes."""
        tensors = {name: getattr(self, name) for name in SCALES}
        if isinstance(self.space, ToolMotions):
            arms = self.space.arms
            values = (arms.axes, arms.points, arms.tools, self.space.middle)
            arrays = zip(TOOLS, values, strict=True)
            tensors |= {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def signature(self) -> tuple[float, ...]:
        """Return that of the arms whose tools are moved; empty if actions are joint targets."""
        return self.space.arms.signature() if isinstance(self.space, ToolMotions) else ()

    def check_robot(self, arms: Arms | None) -> None:
        """Raise ValueError if the stored arms are others than those of the robot of the demonstrations."""
        if arms is not None and (stored := self.signature()):
            arms.check(stored, "pretrain.start_from")

    def to(self, device: torch.device) -> Self:
        low, high, scale = (getattr(self, name).to(device) for name in SCALES)
        return type(self)(low, high, scale, self.space)

    def normalise_states(self, joints: Tensor) -> Tensor:
        """Return states [..., numbers] of joints [..., A]."""
        return 2 * (self.space.states(joints) - self.state_low) / (self.state_high - self.state_low) - 1

    def denormalise_states(self, normalised: Tensor, joints: Tensor) -> Tensor:
        """Return joints [B, S, A] of states [B, S, numbers or more] that follow the joints [B, A]."""
        numbers = normalised[..., : len(self.state_low)]
        return self.space.joints((numbers + 1) / 2 * (self.state_high - self.state_low) + self.state_low, joints)

    def normalise_actions(self, actions: Tensor, joints: Tensor) -> Tensor:
        """Return actions [B, T, numbers] of absolute targets [B, T, A], scaled differences to the joints [B, A]."""
        return self.space.relative(actions, joints) / self.action_scale

    def denormalise_actions(self, normalised: Tensor, joints: Tensor) -> Tensor:
        """Return absolute targets [B, T, A], with grippers in [0, 1], of actions [B, T, numbers or more]."""
        return self.space.absolute(normalised[..., : len(self.action_scale)] * self.action_scale, joints)
