"""The schedules of X-WAM (section 4.3.4): the action takes a few large steps while the video takes small ones.

`async-10-50` denoises the action in 10 forwards, on a grid of 10 steps of its own. The video takes the first 10 of 50
steps meanwhile. Then the action is handed over. `policies.imagining.imagine` goes on with the video, if it is wanted.
`sync-50` takes 50 steps with both.
"""

from __future__ import annotations

from policies.backbones.flow import shifted_grid
from policies.catalogue import COUNT, Argument, ScheduleRequest, register
from policies.grids import GridSchedule
from policies.schedule import Schedule

ACTION_STEPS, VIDEO_STEPS = 10, 50
BOTH = Argument(r"[1-9]\d*-[1-9]\d*", "[-<action steps>-<video steps>]", optional=True)


@register("async", BOTH)
def build_asynchronous(request: ScheduleRequest) -> Schedule:
    """`async-a-v`: hand the action over after a forwards, with the video after a of its v steps.

    Raises ValueError if the video's grid is the coarser one: the video would be clean before the action is.
    """
    action_steps, video_steps = ACTION_STEPS, VIDEO_STEPS
    if request.argument:
        action_steps, video_steps = map(int, request.argument.split("-"))
    if video_steps < action_steps:
        raise ValueError(f"{request.name}: the video needs at least as many steps as the action ({action_steps})")
    levels = shifted_grid(video_steps, request.spec.video_shift)[: action_steps + 1]
    return GridSchedule.joint(request, levels[:, None], shifted_grid(action_steps, request.spec.action_shift))


@register("sync", COUNT)
def build_synchronous(request: ScheduleRequest) -> Schedule:
    """`sync-n`: n steps with all modalities, on the grid of each."""
    steps = int(request.argument)
    levels = shifted_grid(steps, request.spec.video_shift)
    return GridSchedule.joint(request, levels[:, None], shifted_grid(steps, request.spec.action_shift))
