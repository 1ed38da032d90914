"""Recording the scripted expert: this is how demonstrations are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from envs.outcomes import Outcome
from envs.simulator import ExpertReply, stacked
from envs.tabletop.env import TabletopEnv
from envs.tabletop.planning import PlanningFailure
from envs.tabletop.robot import Array

Change = Callable[[Iterator[Array]], Iterator[Array]]
"""From the expert's actions [14] to those that are taken."""


def record_expert(env: TabletopEnv, seed: int, change: Change = lambda actions: actions) -> ExpertReply:
    """Record one episode of the scripted expert. A plan that fails ends it with that outcome. Raises `InfeasibleSeed`.

    The script runs to its end, beyond the moment of success: the expert also lets go and moves away. `change` is called
    once the scene is there.
    """
    observations = [env.reset(seed=seed)[0]]
    failure = Outcome.step_limit
    try:
        observations.extend(env.step(action)[0] for action in change(env.task.expert(env.script())))
    except PlanningFailure:
        failure = Outcome.planner_fail
    outcome = Outcome.success if env.success else failure
    return ExpertReply.of(stacked(observations), env.instruction, outcome, env.style)
