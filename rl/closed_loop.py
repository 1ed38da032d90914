"""Closed-loop episodes of one runner: several simulators step at once, all active episodes denoise as one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from envs.outcomes import Outcome
from envs.process import SimulatorFault, SimulatorProcess, SimulatorUnavailable
from envs.simulator import ChunkReply, ResetReply
from policies.schedules.base import Schedule
from policies.walk import walk
from policies.wam.interface import FrozenWAM, Observation
from rl.records import EpisodeRecord, EpisodeTask, mix_seed


@dataclass
class _Active:
    """One simulator and the episode in it."""

    simulator: SimulatorProcess
    record: EpisodeRecord
    filming: bool
    observation: Observation | None = None  # None: the reset has not been answered
    frames: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return bool(self.record.outcome)

    @property
    def noise_seed(self) -> int:
        """A function of the episode and the query alone, so that every schedule starts from the same noise."""
        return query_noise_seed(self.record.seed, len(self.record.updates))

    def take(self) -> None:
        """Take the simulator's answer; its fault is the episode's outcome. A simulator that cannot be built is ours."""
        try:
            reply = self.simulator.result()
        except SimulatorUnavailable:
            raise
        except SimulatorFault as fault:
            self.record.outcome, self.record.message = str(fault.outcome), str(fault)
            return
        if isinstance(reply, ResetReply):
            self.record.instruction = reply.instruction
        elif isinstance(reply, ChunkReply):
            self._advance(reply)
        self.observation = reply.observation  # type: ignore[union-attr]

    def _advance(self, reply: ChunkReply) -> None:
        self.record.steps += reply.executed
        if reply.frames is not None:
            self.frames.append(reply.frames)
        if reply.success:
            self.record.outcome = str(Outcome.success)
        elif reply.done:
            self.record.outcome = str(Outcome.step_limit)

    def finish(self) -> EpisodeRecord:
        if self.frames:
            self.record.frames = np.concatenate(self.frames)
        return self.record


def query_noise_seed(episode_seed: int, query: int) -> int:
    return mix_seed(episode_seed, query)


def play(
    wam: FrozenWAM,
    schedule: Schedule,
    simulators: Sequence[SimulatorProcess],
    episodes: Sequence[EpisodeTask],
    record: Sequence[EpisodeTask] = (),
) -> list[EpisodeRecord]:
    """Play every episode once, deterministically; records in the order of `episodes`.

    The simulators step in waves and a finished one takes the next episode at once, so that which episodes share a batch
    depends on the list alone, never on timing. Exceptions of the backbone propagate after the simulators were stopped.
    """
    waiting, idle = deque(episodes), list(simulators)
    active: list[_Active] = []
    finished: dict[EpisodeTask, EpisodeRecord] = {}
    try:
        while waiting or active:
            while waiting and idle:
                active.append(_begin(idle.pop(0), waiting.popleft(), record))
            for one in active:
                one.take()
            for one in [one for one in active if one.over]:
                finished[EpisodeTask(one.record.task, one.record.mode, one.record.seed)] = one.finish()
                active.remove(one)
                idle.append(one.simulator)
            _query(wam, schedule, active)
    except BaseException:
        for one in active:
            one.simulator.kill()
        raise
    return [finished[episode] for episode in episodes]


def _begin(simulator: SimulatorProcess, episode: EpisodeTask, record: Sequence[EpisodeTask]) -> _Active:
    simulator.start_reset(episode.task, episode.mode, episode.seed)
    return _Active(simulator, EpisodeRecord(episode.task, episode.mode, episode.seed, outcome=""), episode in record)


def _query(wam: FrozenWAM, schedule: Schedule, active: Sequence[_Active]) -> None:
    """One batched walk for all live episodes, and the start of their chunks."""
    if not active:
        return
    observations = [one.observation for one in active if one.observation is not None]
    context = wam.observe(observations, [one.record.instruction for one in active])
    walked = walk(wam, context, schedule, [one.noise_seed for one in active])
    for one, actions, updates, forwards in zip(active, walked.actions, walked.updates, walked.forwards, strict=True):
        one.record.updates.append(int(updates))
        one.record.forwards.append(int(forwards))
        one.simulator.start_chunk(actions, one.filming)
