"""The numbers of a robot as a network sees them: states between -1 and 1, actions as differences that are only scaled.

The action space is that of joint targets: an action is the target of each arm joint minus the joint of the observation,
and the gripper's opening. Scaling without an offset leaves 0 at "no motion" (X-WAM, implementation details).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from policies.backbones.robot import absolute_actions, relative_actions

LOW, HIGH = 0.01, 0.99
SMALLEST = 1e-2


@dataclass
class Quantities:
    """The 1% and 99% quantiles of a data set, float32 [A] each."""

    state_low: Tensor
    state_high: Tensor
    action_scale: Tensor  # the larger absolute value of both quantiles

    @classmethod
    def measured(cls, joints: Tensor, actions: Tensor) -> Self:
        """Measure them on the states [N, A] and the absolute joint targets [N, T, A] of clips."""
        quantiles = torch.quantile(joints, torch.tensor([LOW, HIGH]), dim=0)
        relative = relative_actions(actions, joints).flatten(0, 1)
        bounds = torch.quantile(relative, torch.tensor([LOW, HIGH]), dim=0)
        low = quantiles[0].clone()
        high = torch.maximum(quantiles[1], low + SMALLEST)
        return cls(low, high, bounds.abs().amax(0).clamp_min(SMALLEST))

    def to(self, device: torch.device) -> Self:
        return type(self)(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    def normalise_states(self, joints: Tensor) -> Tensor:
        return 2 * (joints - self.state_low) / (self.state_high - self.state_low) - 1

    def denormalise_states(self, normalised: Tensor) -> Tensor:
        return (normalised + 1) / 2 * (self.state_high - self.state_low) + self.state_low

    def normalise_actions(self, actions: Tensor, joints: Tensor) -> Tensor:
        """Return chunks [B, T, A] of absolute targets as scaled differences to the joints [B, A]."""
        return relative_actions(actions, joints) / self.action_scale

    def denormalise_actions(self, normalised: Tensor, joints: Tensor) -> Tensor:
        """Return absolute targets [B, T, A], with grippers in [0, 1]."""
        return absolute_actions(normalised * self.action_scale, joints)
