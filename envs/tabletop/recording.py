"""Recording the scripted expert: this is how demonstrations are made."""

from __future__ import annotations

import numpy as np

from envs.outcomes import Outcome
from envs.simulator import ExpertReply
from envs.tabletop.env import TabletopEnv
from envs.tabletop.planning import PlanningFailure


def record_expert(env: TabletopEnv, seed: int) -> ExpertReply:
    """One episode of the scripted expert. A plan that fails ends it with that outcome. Raises `InfeasibleSeed`.

    The script runs to its end, beyond the moment of success: the expert also lets go and moves away.
    """
    observations = [env.reset(seed=seed)[0]]
    failure = Outcome.step_limit
    try:
        observations.extend(env.step(action)[0] for action in env.task.expert(env.script()))
    except PlanningFailure:
        failure = Outcome.planner_fail
    columns = {name: np.stack([observation[name] for observation in observations]) for name in observations[0]}
    return ExpertReply.of(columns, env.instruction, Outcome.success if env.success else failure, env.style)
