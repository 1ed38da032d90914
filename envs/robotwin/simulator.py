"""RoboTwin as a simulator: one process plays episodes of any task and mode, one after another."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..outcomes import InfeasibleSeed, MissingDependency, Outcome
from ..simulator import ChunkReply, ExpertReply, Observation, ResetReply, checked_actions, stacked
from .instructions import TYPES, episode_instructions
from .layout import MODE_CONFIGS, MissingAsset, open_checkout
from .manifest import Verdict, binding_of, find_row
from .stage import EpisodeRules, Stage
from .upstream import NO_PLANNER, installed_versions, load_upstream

ACTION_TYPES = ("qpos", "ee")
OUTCOMES = {
    Verdict.ok: Outcome.success,
    Verdict.plan_failed: Outcome.planner_fail,
    Verdict.expert_failed: Outcome.step_limit,
}


class RoboTwinSimulator:
    """See `envs.simulator.Simulator`. Runs in `worker.py` with the checkout as its current directory.

    qpos actions are absolute joint targets [left joints, left gripper, right joints, right gripper]; RoboTwin clips the
    grippers to [0, 1]. A feasible seed of a manifest in the folder `manifests` is played at once; any other is first
    played by the expert, as in the official evaluation. Without `record_expert` demonstrations have no pictures.
    Raises `MissingDependency` for what this machine lacks, and ValueError for settings that RoboTwin does not know.
    """

    def __init__(
        self,
        *,
        root: str,
        embodiment: Sequence[str],
        shader: str = "rt",
        planner: str = "curobo",
        instruction_type: str = "unseen",
        action_type: str = "qpos",
        eval_mode: bool = False,
        step_limit: int = 0,
        manifests: str = "",
        record_expert: bool = True,
        depth: bool = False,
    ) -> None:
        if action_type not in ACTION_TYPES or instruction_type not in TYPES:
            raise ValueError(f"action type {action_type!r} or instruction type {instruction_type!r} is not known")
        if action_type == "ee" and planner == "none":
            raise MissingDependency(f"end-effector actions are planned: {NO_PLANNER}")
        self._checkout = open_checkout(root)
        self._require_assets(embodiment, [], [])
        self._embodiment, self._robot = tuple(embodiment), self._checkout.embodiment(embodiment)
        self._action_size = self._robot.size_of(action_type)
        self._rules = EpisodeRules(planner, action_type, eval_mode, step_limit, depth)
        self._instruction_type, self._manifests, self._record_expert = instruction_type, manifests, record_expert
        self._upstream = load_upstream(self._checkout.root, planner, shader)
        self._stage: Stage | None = None
        self.description: dict[str, Any] = {
            "root": str(self._checkout.root),
            "package": self._upstream.package,
            "commit": self._checkout.commit,
            "layout": self._checkout.layout,
            "embodiment": list(embodiment),
            "shader": shader,
            "planner": planner,
            "versions": installed_versions(),
        }

    def reset(self, *, task: str, mode: str, seed: int) -> ResetReply:
        """Raises `InfeasibleSeed` for a scene that is not stable, or that the expert does not solve."""
        stage = self._enter(task, mode)
        instruction = self._known_instruction(task, mode, seed)
        if instruction is None:
            instruction = self._verified_instruction(stage, seed, "no manifest has it")
        stage.setup(seed)
        if stage.lacks_expert:
            self._verified_instruction(stage, seed, "its success check reads what only the expert sets")
            stage.setup(seed)
        stage.set_instruction(instruction)
        return ResetReply(stage.observe(), instruction)

    def step_chunk(self, actions: npt.NDArray[np.float32], record: bool) -> ChunkReply:
        """Takes the actions one by one until success or the limit. Renders once, or with `record` after each action."""
        stage = self._stage
        assert stage is not None, "the owner resets first"
        executed, observation, frames = 0, None, []
        for action in checked_actions(actions, self._action_size):
            if stage.over:
                break
            stage.act(action)
            executed += 1
            if record:
                observation = stage.observe()
                frames.append(observation["head"])
        observation = observation or stage.observe()
        film = np.array(frames, np.uint8).reshape(-1, *observation["head"].shape) if record else None
        return ChunkReply(observation, executed, stage.success, stage.over, film)

    def demonstrate(self, *, task: str, mode: str, seed: int) -> ExpertReply:
        """Lets RoboTwin's own expert play: once to plan and, if it succeeds, once more in front of the cameras.

        `style` holds what a manifest keeps of a seed: verdict, episode_info and instructions. Raises `InfeasibleSeed`,
        and `MissingDependency` without cuRobo.
        """
        stage = self._enter(task, mode)
        stage.require_planner("the expert plans its motions")
        verification = stage.verify(seed)
        solved = verification.verdict is Verdict.ok
        sentences = self._instructions(task, verification.info, seed) if solved else {}
        observations = stage.replay(seed) if solved and self._record_expert else []
        style = {"verdict": str(verification.verdict), "episode_info": verification.info, "instructions": sentences}
        columns: Observation = {"joints": np.zeros((0, self._robot.action_size), np.float32)}
        if observations:
            columns = stacked(observations)
        outcome = str(OUTCOMES[verification.verdict])
        return ExpertReply.of(columns, sentences.get(self._instruction_type, ""), outcome, style)

    def close(self) -> None:
        """Gives up the current scene and its memory."""
        self._stage = None
        gc.collect()

    def _enter(self, task: str, mode: str) -> Stage:
        stage = self._stage
        if stage is not None and (stage.task_name, stage.mode) == (task, mode):
            stage.end()
        else:
            self.close()
            self._require_assets(self._embodiment, [task], [mode])
            stage = Stage(self._upstream, self._checkout, self._robot, self._rules, task, mode)
            self._stage = stage
        stage.forget_expert()
        return stage

    def _require_assets(self, embodiment: Sequence[str], tasks: Sequence[str], modes: Sequence[str]) -> None:
        try:  # of the planner too, because RoboTwin always reads its files
            self._checkout.require_assets(embodiment, tasks, modes, planner=True)
        except MissingAsset as error:
            raise MissingDependency(str(error)) from error

    def _known_instruction(self, task: str, mode: str, seed: int) -> str | None:
        """The instruction of a feasible seed in a manifest; None for any other seed."""
        if not self._manifests:
            return None
        binding = binding_of(
            self._checkout, self._embodiment, task, MODE_CONFIGS[mode], eval_mode=self._rules.eval_mode
        )
        row = find_row(self._manifests, binding, seed)
        if row is None:
            return None
        sentences = row.instructions or self._instructions(task, row.episode_info, seed)
        return self._of_type(sentences, task)

    def _verified_instruction(self, stage: Stage, seed: int, why: str) -> str:
        stage.require_planner(f"{stage.task_name} seed {seed} has to be played by the expert first ({why})")
        verification = stage.verify(seed)
        if verification.verdict is not Verdict.ok:
            raise InfeasibleSeed(f"the expert does not solve it: {verification.verdict}")
        return self._of_type(self._instructions(stage.task_name, verification.info, seed), stage.task_name)

    def _instructions(self, task: str, info: dict[str, str], seed: int) -> dict[str, str]:
        return episode_instructions(self._upstream, self._checkout.root, task, info, seed)

    def _of_type(self, sentences: dict[str, str], task: str) -> str:
        if self._instruction_type not in sentences:
            raise MissingDependency(
                f"{task} has no {self._instruction_type} instruction that fits: set env.options.instruction_type"
            )
        return sentences[self._instruction_type]
