"""One of RoboTwin's task objects, and the episodes that are played with it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..outcomes import InfeasibleSeed, MissingDependency, SimulationFault
from ..simulator import Observation
from .layout import MODE_CONFIGS, Checkout, Embodiment
from .manifest import Verdict
from .observation import Contract
from .upstream import NO_PLANNER, Upstream

EXPERT_ATTRIBUTES = {
    "open_laptop": ("arm_tag",),
    "place_object_scale": ("arm_tag",),
    "put_object_cabinet": ("arm_tag", "origin_z"),
}
"""Attributes that a task's success check reads and only its expert sets. Later versions set them with the scene."""


@dataclass(frozen=True)
class EpisodeRules:
    """How episodes are played. A `step_limit` of 0 means the official one of the task."""

    planner: str
    action_type: str
    eval_mode: bool
    step_limit: int
    depth: bool = False  # whether observations have depth pictures and the poses of the cameras


@dataclass(frozen=True)
class Verification:
    """How the expert did on a seed. `info` is what it says about the scene: the values for an instruction's blanks."""

    verdict: Verdict
    info: dict[str, str]


class Stage:
    """Plays episodes of one task and mode with one task object, so that its robot keeps its planners.

    `task` is RoboTwin's object. It cannot be used again after `setup` failed with anything but `InfeasibleSeed`.
    """

    def __init__(
        self, upstream: Upstream, checkout: Checkout, robot: Embodiment, rules: EpisodeRules, task: str, mode: str
    ) -> None:
        checkout.require_task(task)
        self.task_name, self.mode = task, mode
        self.limit = rules.step_limit or checkout.step_limits()[task]
        self._upstream, self._robot, self._rules = upstream, robot, rules
        self._config = checkout.task_config(MODE_CONFIGS[mode])
        self._config["data_type"]["depth"] = rules.depth
        self._contract = Contract.of(checkout, self._config, robot.action_size)
        self.task = upstream.make_task(task)
        self._episodes = 0

    def setup(self, seed: int, **changes: Any) -> None:
        """Builds the scene of a seed. Raises `InfeasibleSeed`."""
        self._upstream.restore_defaults(type(self.task))
        try:
            self.task.setup_demo(**{**self.arguments(seed), **changes})
        except self._upstream.unstable_error as error:
            raise InfeasibleSeed(f"unstable: {error}") from error
        self._upstream.keep_shaders()

    def set_instruction(self, instruction: str) -> None:
        self.task.set_instruction(instruction=instruction)

    def act(self, action: npt.NDArray[np.float32]) -> None:
        """Takes one action. RoboTwin can take several at once, but the physics would differ."""
        before = self.task.take_action_cnt
        self.task.take_action(action.astype(np.float64), action_type=self._rules.action_type)
        if self.task.take_action_cnt != before + 1:
            raise SimulationFault(f"RoboTwin counts {self.task.take_action_cnt} actions after {before} and one more")

    @property
    def success(self) -> bool:
        """Whether the episode has succeeded so far. The check is not repeated: it changes the state of some tasks."""
        return bool(self.task.eval_success)

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.success or self.task.take_action_cnt >= self.limit

    def observe(self) -> Observation:
        """The current observation. Renders, unless RoboTwin has just done so because of a success."""
        return self._contract.read(self.task.now_obs if self.success else self.task.get_obs())

    def end(self) -> None:
        """Ends the episode. It must be called before the next one."""
        self._episodes += 1
        every = int(self._config.get("clear_cache_freq") or 1)
        self.task.close_env(clear_cache=self._episodes % every == 0)

    # About the expert:

    def require_planner(self, why: str) -> None:
        """Raises `MissingDependency` without cuRobo; `why` says what needs it."""
        if self._rules.planner == "none":
            raise MissingDependency(f"{why}: {NO_PLANNER}")

    @property
    def lacks_expert(self) -> bool:
        """Whether the success check would fail in this scene because the expert has not played it."""
        return any(not hasattr(self.task, name) for name in EXPERT_ATTRIBUTES.get(self.task_name, ()))

    def forget_expert(self) -> None:
        """Removes what the expert has set in an earlier episode."""
        for name in EXPERT_ATTRIBUTES.get(self.task_name, ()):
            vars(self.task).pop(name, None)

    def verify(self, seed: int) -> Verification:
        """The official check of a seed: the expert plays it to the end, and then the success is checked."""
        self.setup(seed)
        info = self.task.play_once()["info"]
        self.task.close_env()
        if not self.task.plan_success:
            verdict = Verdict.plan_failed
        else:
            verdict = Verdict.ok if self.task.check_success() else Verdict.expert_failed
        return Verification(verdict, {str(name): str(value) for name, value in info.items()})

    def replay(self, seed: int) -> list[Observation]:
        """Plays what the expert has just planned for `seed`. The observations, at RoboTwin's rate of recording."""
        paths = {name: copy.deepcopy(getattr(self.task, name)) for name in ("left_joint_path", "right_joint_path")}
        self.setup(seed, need_plan=False, **paths)
        observations: list[Observation] = []
        self.task._take_picture = lambda: observations.append(self._contract.read(self.task.get_obs()))
        try:
            self.task.play_once()
        finally:
            del self.task._take_picture
        self.task.close_env()
        return observations

    def arguments(self, seed: int) -> dict[str, Any]:
        """The keyword arguments of `setup_demo`. They are copies, because it changes them."""
        return {
            **copy.deepcopy(self._config),
            **self._robot.arguments(),
            "task_name": self.task_name,
            "seed": seed,
            "now_ep_num": 0,
            "is_test": True,
            "eval_mode": self._rules.eval_mode,
            "render_freq": 0,
        }
