"""The schedules of X-WAM (section 4.3.4): the action takes a few large steps while the video takes small ones.

`async-10-50` denoises the action in 10 forwards, on a grid of 10 steps of its own. The video takes the first 10 of 50
steps meanwhile. Then the action is handed over. `policies.imagining.imagine` goes on with the video, if it is wanted.
`async-4-of-10` hands it over after 4 forwards of the same walk: the fourth takes it from where it is to level 0.
`sync-50` takes 50 steps with both. A final `-unipc` moves by UniPC, as X-WAM's authors do, instead of Euler's method.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from configs.fields import Problem, setting
from configs.schema import ScheduleConfig
from policies.backbones.door import WAMSpec
from policies.backbones.flow import shifted_grid
from policies.catalogue import Argument, ScheduleRequest, register
from policies.grids import GridSchedule
from policies.schedule import Schedule

ACTION_STEPS, VIDEO_STEPS = 10, 50
UNIPC = "unipc"
BOTH = Argument(
    rf"[1-9]\d*-[1-9]\d*(-{UNIPC})?|[1-9]\d*-of-[1-9]\d*(-[1-9]\d*)?",
    f"[-<action steps>-<video steps>[-{UNIPC}] | -<forwards>-of-<action steps>[-<video steps>]]",
    optional=True,
)
ONE = Argument(rf"[1-9]\d*(-{UNIPC})?", f"-<steps>[-{UNIPC}]")


@dataclass
class AsynchronousSettings(ScheduleConfig):
    """The settings of every asynchronous schedule. A number in its name takes the place of one here."""

    action_steps: int = setting(ACTION_STEPS, at_least=2)  # P: forwards; after them the action is clean
    video_steps: int = setting(VIDEO_STEPS, at_least=2)  # P: of the whole grid; it walks its first part
    action_shift: float = setting(0.0, at_least=0)  # of the action's grid; 0: that of the backbone

    def conflicts(self) -> Iterator[Problem]:
        if self.video_steps < self.action_steps:
            wrong = f"{self.video_steps} is below action_steps: the video would be clean before the action is"
            yield Problem("video_steps", wrong, f"Use at least {self.action_steps}.")

    def grids(self, spec: WAMSpec) -> tuple[Tensor, Tensor]:
        """Return the levels of video and action, float32 [action_steps + 1] each."""
        video = shifted_grid(self.video_steps, spec.video_shift)[: self.action_steps + 1]
        return video, shifted_grid(self.action_steps, self.action_shift or spec.action_shift)


@register("async", BOTH)
def build_asynchronous(request: ScheduleRequest) -> Schedule:
    """`async-a-v`: hand the action over after a forwards, with the video after a of its v steps.

    `async-k-of-a-v` walks like it for k - 1 forwards, and hands over at the next one. Raises ValueError if the video's
    grid is the coarser one (the video would be clean before the action is), or if k is above a.
    """
    settings = request.settings_as(AsynchronousSettings)
    argument, unipc = _solver(request.argument)
    forwards = settings.action_steps
    numbers = [int(number) for number in re.findall(r"\d+", argument)]
    if "of" in argument:
        forwards, *numbers = numbers
        settings = replace(settings, action_steps=numbers.pop(0))
        if numbers:
            settings = replace(settings, video_steps=numbers[0])
    elif numbers:
        forwards = numbers[0]
        settings = replace(settings, action_steps=forwards, video_steps=numbers[1])
    if settings.video_steps < settings.action_steps:
        least = settings.action_steps
        raise ValueError(f"{request.name}: the video needs at least as many steps as the action ({least})")
    if forwards > settings.action_steps:
        raise ValueError(f"{request.name}: the action is clean after {settings.action_steps} forwards. Name fewer")
    video, action = (grid[: forwards + 1].clone() for grid in settings.grids(request.spec))
    action[-1] = 0
    return GridSchedule.joint(request, video[:, None], action, unipc=unipc, video_steps=settings.video_steps)


@register("sync", ONE)
def build_synchronous(request: ScheduleRequest) -> Schedule:
    """`sync-n`: n steps with all modalities, on the grid of each."""
    argument, unipc = _solver(request.argument)
    steps = int(argument)
    levels = shifted_grid(steps, request.spec.video_shift)
    return GridSchedule.joint(request, levels[:, None], shifted_grid(steps, request.spec.action_shift), unipc=unipc)


def _solver(argument: str) -> tuple[str, bool]:
    """Return the argument without the solver's name, and whether it is UniPC."""
    return argument.removesuffix(f"-{UNIPC}"), argument.endswith(f"-{UNIPC}")
