"""Recorded episodes of the frozen backbone under a schedule, played by the same runner as those of an evaluation.

A recording simulator takes the actions of a chunk one by one and keeps the observation after each of them, so that the
runner, the schedule and the simulator's process are those that play everywhere else. The price: only the first actions
of their chunks are taken by several simulators at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from configs.factories import resolve
from configs.planning import NO_PLANNER, split_planner
from configs.schema import Config
from envs.demonstrations.failures import Played, Settings
from envs.experts.collection import Progress, settings_of
from envs.experts.failures import Counted, Report, Scenes, play_missing, scenes_to_play
from envs.outcomes import Outcome
from envs.process.owner import Reply, SimulatorFault, SimulatorProcess
from envs.simulator import (
    ChunkReply,
    ExpertReply,
    Observation,
    ResetReply,
    SimulatorSpec,
    checked_actions,
    stacked,
)
from policies.backbones import describe
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.catalogue import build_schedule, find_schedule
from policies.schedule import Schedule
from rl.experience.closed_loop import PlayRules, play
from rl.experience.records import EpisodeRecord, EpisodeTask
from rl.experience.simulators import check_actions, load_for

WAVES_A_BATCH = 4  # the episodes of a batch for each simulator
RETRIES = 2  # of an episode that was lost to a simulator fault

Scene = tuple[str, str, int]
"""Task, mode and seed."""


class RecordingSimulator(SimulatorProcess):
    """A simulator that keeps every observation of its episodes. It cannot film."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Takes what `SimulatorProcess` takes."""
        super().__init__(*arguments, **options)
        self.recordings: dict[Scene, list[Observation]] = {}  # T + 1 of each episode that met no fault
        self._scene: Scene = ("", "", 0)
        self._waiting: list[npt.NDArray[np.float32]] = []  # the actions of the chunk that were not taken yet
        self._every = 0  # after so many actions each, an observation of the chunk is wanted

    def start_reset(self, task: str, mode: str, seed: int) -> None:
        self._scene = task, mode, seed
        self.recordings[self._scene] = []
        super().start_reset(task, mode, seed)

    def start_chunk(self, actions: npt.ArrayLike, record: bool = False, every: int = 0) -> None:
        """Start the first action. Raises ValueError if the chunk should be filmed, or for wrong actions."""
        if record:
            raise ValueError("a recording simulator cannot film: its recordings have the pictures")
        chunk = checked_actions(actions, self.spec.action_size)
        super().start_chunk(chunk[:1])
        self._waiting, self._every = list(chunk[1:]), every

    def result(self) -> Reply:
        """The reply to a reset, or to a whole chunk. A fault, which is raised, takes the recording with it."""
        try:
            reply = self._recorded()
            executed = 1
            while isinstance(reply, ChunkReply) and not reply.done and self._waiting:
                super().start_chunk(self._waiting.pop(0)[None])
                reply = self._recorded()
                executed += 1
        except SimulatorFault:
            del self.recordings[self._scene]  # another simulator may play this scene again
            raise
        if not isinstance(reply, ChunkReply):
            return reply
        seen = self.recordings[self._scene][-executed:][self._every - 1 :: self._every] if self._every else []
        return replace(reply, executed=executed, passed=stacked(seen) if seen else {})

    def _recorded(self) -> Reply:
        reply = super().result()
        if isinstance(reply, ResetReply | ChunkReply):
            self.recordings[self._scene].append(reply.observation)
        return reply


def check_policy(config: Config) -> WAMSpec:
    """Return the backbone's description. Raise ValueError if it cannot play under `failures.schedule`."""
    name = config.demonstrations.failures.schedule
    if split_planner(name)[1] != NO_PLANNER or find_schedule(name)[0].learned is not None:
        raise ValueError(
            f"demonstrations.failures.schedule={name} has to be trained, or has a planner: use a fixed one, such as "
            "fixed-5"
        )
    spec = describe(config.wam)
    check_actions(config.env, spec)
    build_schedule(name, spec, config.schedule).check(spec)
    return spec


def record_policy(
    config: Config,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Report:
    """Let the backbone play in the scenes of the first `failures.policy` demonstrations, and keep the episodes.

    They are walked under the schedule `failures.schedule`, with the noise of an evaluation. Episodes that are there
    already are kept. It ends early, between two batches, once `stop_requested` says so. Raises ValueError if there are
    too few demonstrations, if the folder holds episodes of other settings or cannot be written, or for what
    `check_policy` refuses; `SimulatorUnavailable` without a working simulator.
    """
    spec = check_policy(config)
    demonstrations, name = config.demonstrations, config.demonstrations.failures.schedule
    settings: Settings = {**settings_of(config.env), "schedule": name, "backbone": spec.weights_hash}

    def record(queues: list[Scenes], counter: Counted) -> None:
        torch.set_num_threads(config.wam.torch_threads)
        wam = load_for(config.env, config.wam)
        recorder = Recorder(wam, build_schedule(name, wam.spec, config.schedule), config)
        recorder.record(queues, counter, stop_requested)

    look = partial(scenes_to_play, demonstrations, config.env, "policy", settings)
    return play_missing(look, record, Path(demonstrations.root), on_progress, stop_requested)


class Recorder:
    """Plays batches of scenes and keeps their episodes."""

    def __init__(self, wam: FrozenWAM, schedule: Schedule, config: Config) -> None:
        self._wam, self._schedule = wam, schedule
        spec: SimulatorSpec = resolve(config.env.simulator)(config.env)
        count = config.demonstrations.workers
        self._simulators = [RecordingSimulator.from_config(spec, config.env) for _ in range(count)]

    def record(self, queues: Sequence[Scenes], counter: Counted, stop_requested: Callable[[], bool]) -> None:
        """Play all missing scenes. A batch has scenes of one task and mode, and is kept when all of it is played."""
        size = WAVES_A_BATCH * len(self._simulators)
        try:
            for queue in queues:
                while queue.missing and not stop_requested():
                    self._record_batch(queue, queue.missing[:size], queues, counter)
        finally:
            for simulator in self._simulators:
                simulator.close()

    def _record_batch(self, queue: Scenes, indices: Sequence[int], queues: Sequence[Scenes], counter: Counted) -> None:
        episodes = [EpisodeTask(queue.task, queue.mode, queue.seeds[index]) for index in indices]
        for simulator in self._simulators:
            simulator.recordings.clear()
        records = play(self._wam, self._schedule, self._simulators, episodes, rules=PlayRules(retries=RETRIES))
        found = {scene: one for simulator in self._simulators for scene, one in simulator.recordings.items()}
        for index, record in zip(indices, records, strict=True):
            outcome = Outcome(record.outcome)
            if outcome.is_fault:
                played = Played(seed=record.seed, outcome=outcome, message=record.message, kept=False)
                queue.folder.note(index, played)
            else:
                queue.folder.add(index, record.seed, _reply_of(record, found[record.episode.scene]))
            queue.missing.remove(index)
            counter.advance(queues, queue, record.seed, outcome)


def _reply_of(record: EpisodeRecord, observations: Sequence[Observation]) -> ExpertReply:
    """The episode in the form in which a simulator gives an expert's."""
    return ExpertReply.of(stacked(observations), record.instruction, record.outcome, {})
