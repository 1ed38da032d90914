"""How a point of a walk moves to the next noise levels.

Euler's step needs nothing but the present flow. It serves every schedule. UniPC remembers the steps before it, so that
all rows must take the same steps, known before the walk: the fixed grids of X-WAM, whose authors use it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from policies.backbones.door import Point
from policies.backbones.flow import euler_update

NEARLY_ONE = 1 - 1e-6
"""Where UniPC starts: it needs the logarithm of 1 - sigma."""


class Solver(Protocol):
    """Moves the rows of a batch."""

    def __call__(
        self,
        point: Point,
        video_flow: Tensor,
        action_flow: Tensor | None,
        sigma_video: Tensor,
        sigma_action: Tensor,
        observed_frames: int,
    ) -> Point:
        """Return the point at the next levels `sigma_video` [b, F] and `sigma_action` [b].

        Without `action_flow` [b, T, A], the action stays. The observed frames stay always.
        """
        ...


def euler(
    point: Point,
    video_flow: Tensor,
    action_flow: Tensor | None,
    sigma_video: Tensor,
    sigma_action: Tensor,
    observed_frames: int,
) -> Point:
    """Take one step of Euler's method."""
    x = euler_update(point.x, video_flow, point.sigma_video, sigma_video, observed_frames)
    actions = point.actions
    if action_flow is not None:
        step = (sigma_action - point.sigma_action)[:, None, None]
        actions = torch.where(step == 0, actions, actions + step * action_flow)  # a clean one may have no flow
    return Point(x, actions, sigma_video, sigma_action)


class UniPC:
    """The multistep predictor-corrector of order 2 of diffusers, one for the video and one for the action."""

    def __init__(self, video_grid: Tensor, action_grid: Tensor) -> None:
        """Take the levels float32 [n + 1] of both, from 1 down. All rows follow them."""
        self._video, self._action = _scheduler(video_grid), _scheduler(action_grid)

    def __call__(
        self,
        point: Point,
        video_flow: Tensor,
        action_flow: Tensor | None,
        sigma_video: Tensor,
        sigma_action: Tensor,
        observed_frames: int,
    ) -> Point:
        assert action_flow is not None, "both move along their grids"
        observed, future = point.x[:, :, :observed_frames], point.x[:, :, observed_frames:]
        moved = _step(self._video, video_flow[:, :, observed_frames:], future)
        x = torch.cat([observed, moved], dim=2)  # not in place: the samples before are remembered
        return Point(x, _step(self._action, action_flow, point.actions), sigma_video, sigma_action)


def _scheduler(grid: Tensor) -> Any:
    from diffusers.schedulers import UniPCMultistepScheduler  # it takes seconds to import

    scheduler: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = grid.double().clamp(max=NEARLY_ONE).float().cpu()
    scheduler.timesteps = torch.arange(len(grid) - 1)  # it only counts them
    return scheduler


def _step(scheduler: Any, flow: Tensor, sample: Tensor) -> Tensor:
    index = scheduler.step_index or 0
    moved: Tensor = scheduler.step(flow, scheduler.timesteps[index], sample).prev_sample
    return moved
