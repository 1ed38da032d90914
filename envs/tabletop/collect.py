"""Episodes of the scripted expert, the demonstrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.outcomes import Outcome
from envs.tabletop.env import Observation, TabletopEnv
from envs.tabletop.planning import PlanningFailure
from envs.tabletop.scene import CAMERAS


@dataclass(frozen=True)
class Episode:
    """T + 1 observations; the action of step t is `joints[t + 1]`."""

    head: npt.NDArray[np.uint8]  # [T + 1, H, W, 3]
    left_wrist: npt.NDArray[np.uint8]
    right_wrist: npt.NDArray[np.uint8]
    joints: npt.NDArray[np.float32]  # [T + 1, 14] drive targets
    instruction: str
    style: dict[str, Any]  # what the expert drew from the seed
    success: bool
    outcome: Outcome

    @property
    def images(self) -> dict[str, npt.NDArray[np.uint8]]:
        return {name: getattr(self, name) for name in CAMERAS}


def expert_episode(env: TabletopEnv, seed: int) -> Iterator[Observation]:
    """The observations of an expert episode, the first one included. Raises `InfeasibleSeed` or `PlanningFailure`.

    The script runs to its end (it also lets go, retreats), beyond the moment of success; `env.success` keeps that.
    """
    observation, _ = env.reset(seed=seed)
    yield observation
    for action in env.task.expert(env.script()):
        yield env.step(action)[0]


def collect_episode(
    task: str, mode: str, seed: int, *, head_size: int = 64, wrist_size: int = 32, render: bool = True
) -> Episode:
    """One expert episode. A plan that fails ends it with that outcome. Raises `InfeasibleSeed`."""
    env = TabletopEnv(task, mode, head_size, wrist_size, render=render)
    return record_expert(env, seed)


def record_expert(env: TabletopEnv, seed: int) -> Episode:
    """One expert episode in an environment that exists."""
    observations: list[Observation] = []
    failure: Outcome = Outcome.step_limit
    try:
        observations.extend(expert_episode(env, seed))
    except PlanningFailure:
        failure = Outcome.planner_fail
    return Episode(
        **{name: np.stack([observation[name] for observation in observations]) for name in (*CAMERAS, "joints")},
        instruction=env.instruction,
        style=env.style,
        success=env.success,
        outcome=Outcome.success if env.success else failure,
    )
