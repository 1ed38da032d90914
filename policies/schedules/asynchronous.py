"""The schedules of X-WAM (section 4.3.4): the action takes a few large steps while the video takes small ones.

`async-10-50` denoises the action in 10 forwards, on a grid of 10 steps of its own. The video takes the first 10 of 50
steps meanwhile. Then the action is handed over. `policies.imagining.imagine` goes on with the video, if it is wanted.
`sync-50` takes 50 steps with both. A final `-unipc` moves by UniPC, as X-WAM's authors do, instead of Euler's method.
"""

from __future__ import annotations

from policies.backbones.flow import shifted_grid
from policies.catalogue import Argument, ScheduleRequest, register
from policies.grids import GridSchedule
from policies.schedule import Schedule

ACTION_STEPS, VIDEO_STEPS = 10, 50
UNIPC = "unipc"
BOTH = Argument(rf"[1-9]\d*-[1-9]\d*(-{UNIPC})?", f"[-<action steps>-<video steps>[-{UNIPC}]]", optional=True)
ONE = Argument(rf"[1-9]\d*(-{UNIPC})?", f"-<steps>[-{UNIPC}]")


@register("async", BOTH)
def build_asynchronous(request: ScheduleRequest) -> Schedule:
    """`async-a-v`: hand the action over after a forwards, with the video after a of its v steps.

    Raises ValueError if the video's grid is the coarser one: the video would be clean before the action is.
    """
    action_steps, video_steps = ACTION_STEPS, VIDEO_STEPS
    argument, unipc = _solver(request.argument)
    if argument:
        action_steps, video_steps = map(int, argument.split("-"))
    if video_steps < action_steps:
        raise ValueError(f"{request.name}: the video needs at least as many steps as the action ({action_steps})")
    levels = shifted_grid(video_steps, request.spec.video_shift)[: action_steps + 1]
    action_grid = shifted_grid(action_steps, request.spec.action_shift)
    return GridSchedule.joint(request, levels[:, None], action_grid, unipc=unipc)


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
