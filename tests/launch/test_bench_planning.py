"""The ratio of `launch.bench` that says what a planner costs."""

from __future__ import annotations

from configs.planning import PlanConfig
from launch.measuring.measurements import ROUNDS, planning
from tests.analytic import make_segments
from tests.known_noise import KnownNoiseWAM


def test_a_planned_query_is_compared_with_the_same_without_a_planner() -> None:
    wam = KnownNoiseWAM()
    ratio = planning(wam, make_segments(2), PlanConfig(rounds=7, videos=7, depth=2))
    assert wam.forward_rows == (1 + ROUNDS) * 2 * (5 + 3 * 8 * 2 + 5)  # the name says rounds and videos, the rest stays
    assert ratio.value > 0
    assert (ratio.target, ratio.explanation) == ("<= 12", "one query: fixed-5+plan-3-8-2 / fixed-5")
