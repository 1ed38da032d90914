"""What asynchronous denoising saves before the action, and what depth costs, as ratios within one run."""

from __future__ import annotations

import torch

from configs.schema import Config
from launch.measuring.measurements import Ratio, alternating_s, bench_segments
from policies.backbones.door import FrozenWAM, Want
from policies.catalogue import build_schedule
from policies.walk import walk
from rl.experience.segments import observe_segments


def measure(config: Config, wam: FrozenWAM) -> list[Ratio]:
    """Compare the schedules `sync-50` and `async-10-50` for one observation, and a forward with depth with one without.

    The first ratio ends with the action. The second one is of the forward that gives depth, and of no other.
    """
    segments = bench_segments(config, wam.spec)[:1]
    full, early = build_schedule("sync-50", wam.spec), build_schedule("async-10-50", wam.spec)
    full_s, early_s = alternating_s(
        lambda: walk(wam, observe_segments(wam, segments), full, [0]),
        lambda: walk(wam, observe_segments(wam, segments), early, [0]),
    )
    ratios = [Ratio("time to the action", full_s / early_s, "one query: sync-50 / async-10-50", at_least=3.0)]
    if Want.DEPTH not in wam.spec.gives:
        return ratios
    context = observe_segments(wam, segments)
    point = walk(wam, context, early, [0]).end

    def forwards(wants: Want) -> None:
        with torch.no_grad():
            for _ in range(10):
                wam.forward(context, point, wants)

    without_s, with_s = alternating_s(lambda: forwards(Want.VIDEO_FLOW), lambda: forwards(Want.VIDEO_FLOW | Want.DEPTH))
    ratios.append(Ratio("a forward with depth", with_s / without_s, "with depth / without", at_most=1.2))
    return ratios
