"""Fixed cascades: the video follows a grid with as many steps as the name says, whatever the observation shows.

The name may give a number for each query of an episode: `fixed-3-then-1` takes three steps at the first query and one
at every later one, `fixed-5-5-then-1` five at the first two.
"""

from __future__ import annotations

from policies.backbones.flow import shifted_grid
from policies.catalogue import Argument, ScheduleRequest, register
from policies.grids import GridSchedule, by_query
from policies.schedule import Schedule

COUNT = r"(full|[1-9]\d*)"
COUNTS = Argument(rf"{COUNT}|{COUNT}(-{COUNT})*-then-{COUNT}", "-<full|updates>[-then-<full|updates>]")


@register("fixed", COUNTS)
def build_fixed(request: ScheduleRequest) -> Schedule:
    """`fixed-n` takes n steps on the backbone's shifted grid; `fixed-full` takes as many as the reference walk."""
    counts = [count for count in request.argument.split("-") if count != "then"]
    steps = [request.spec.reference_updates if count == "full" else int(count) for count in counts]
    cascades = [GridSchedule.cascade(request, shifted_grid(count, request.spec.video_shift)) for count in steps]
    return cascades[0] if len(cascades) == 1 else by_query(request.name, cascades)
