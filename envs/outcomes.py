"""How an episode ends. Faults are outcomes too: they are counted and masked, never scored as reward 0."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """One value an episode; `is_fault` ones say nothing about the policy."""

    success = "success"
    step_limit = "step_limit"
    sim_fault = "sim_fault"
    timeout = "timeout"
    infeasible_seed = "infeasible_seed"
    planner_fail = "planner_fail"

    @property
    def is_fault(self) -> bool:
        """Whether the episode must be left out of losses and success rates."""
        return self not in (Outcome.success, Outcome.step_limit)
