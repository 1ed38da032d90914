"""The rest of a video after a walk has handed over its actions, and the depth of what it shows.

A schedule need not denoise the video to its end. Somebody who wants to see the imagined future goes on from there. The
actions stay as they are, and a backbone whose video reads the action sees them clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from policies.backbones.door import FrozenWAM, Point, WAMSpec, Want
from policies.backbones.flow import euler_update, shifted_grid
from policies.schedule import Schedule


@dataclass
class Imagined:
    """The clean futures of B rows."""

    latents: Tensor  # float32 [B, C, F_all, h, w]
    depth: Tensor | None  # float32 [B, C, F_all, h, w]: latents of clean inverse depth; None if not asked for
    forwards: int  # the forwards that it took after the walk


@runtime_checkable
class LeavesTheVideo(Protocol):
    """A schedule whose walks may end in the middle of the video's grid."""

    @property
    def video_steps(self) -> int:
        """The steps of the whole grid, or 0 if the walks end with a clean video."""
        ...


def whole_grid(schedule: Schedule, spec: WAMSpec) -> int:
    """Return the steps of the video's whole grid: those of the schedule, or else of the backbone's reference."""
    return (schedule.video_steps if isinstance(schedule, LeavesTheVideo) else 0) or spec.reference_updates


@torch.no_grad()
def imagine(wam: FrozenWAM, context: Any, end: Point, steps: int, *, depth: bool = False) -> Imagined:
    """Denoise the video of all rows to its end, on the levels of a grid of `steps` that lie below theirs.

    `end` are the points at which the walks ended (`WalkBatch.end`). Depth costs no forward of its own unless the video
    is clean already: the last forward gives it (X-WAM 4.3.3). Raises ValueError if depth is asked of a backbone that
    has none.
    """
    spec = wam.spec
    if depth and Want.DEPTH not in spec.gives:
        raise ValueError(f"backbone {spec.weights_hash} gives no depth: use one that has a depth branch")
    grid = shifted_grid(steps, spec.video_shift).to(end.x.device)
    levels = [level for level in grid[1:] if bool((end.sigma_video > level).any())]
    point, predicted = end, None
    for number, level in enumerate(levels):
        asked = depth and number == len(levels) - 1
        output = wam.forward(context, point, Want.VIDEO_FLOW | Want.DEPTH if asked else Want.VIDEO_FLOW)
        predicted = output.depth if asked else None
        following = torch.minimum(point.sigma_video, level)
        x = euler_update(point.x, output.video_flow, point.sigma_video, following, spec.observed_frames)
        point = Point(x, point.actions, following, point.sigma_action)
    if depth and not levels:
        predicted = wam.forward(context, point, Want.DEPTH).depth
    return Imagined(point.x, predicted, len(levels) + int(depth and not levels))
