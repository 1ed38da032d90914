"""Closed-loop episodes of one runner: several simulators step at once, and their episodes are denoised as one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch

from envs.outcomes import DETERMINISTIC_FAULTS, Outcome
from envs.process.owner import SimulatorFault, SimulatorProcess, SimulatorUnavailable
from envs.simulator import ChunkReply, ResetReply
from policies.backbones.door import FrozenWAM, History, Observation, Passed
from policies.schedule import Schedule
from policies.walk import walk
from rl.experience.records import EpisodeRecord, EpisodeTask, mix_seed
from rl.experience.timeline import Timeline

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PlayRules:
    """How episodes are played. The defaults are those of an evaluation."""

    explore: bool = False  # draw the schedule's decisions, and return their traces
    overlap: bool = False  # denoise one half of the episodes while the other half steps
    retries: int = 0  # how often an episode that was lost to a simulator fault is played again, with the same seeds
    shared_noise: bool = False  # the episodes of a group start their walks from the same noise


@dataclass
class _Active:
    """A simulator and the episode that it plays."""

    simulator: SimulatorProcess
    record: EpisodeRecord
    filming: bool
    noise_stream: tuple[int, ...]  # the stream of its walks' initial noise: its own, or that of its group
    observation: Observation | None = None  # None until the reset is answered
    frames: list[Pictures] = field(default_factory=list)  # head camera: [executed steps, H, W, 3] for each chunk
    plans: list[npt.NDArray[np.float16]] = field(default_factory=list)  # the latents of each query, if filmed
    actions: npt.NDArray[np.float32] | None = None  # the chunk that the simulator takes
    history: History | None = None  # what the next query may read of the episode before it

    @property
    def over(self) -> bool:
        return bool(self.record.outcome)

    @property
    def query(self) -> int:
        """The index of the next query in the episode, from 0."""
        return len(self.record.updates)

    @property
    def noise_seed(self) -> int:
        """The seed of the next query's initial noise. Every schedule starts from the same noise."""
        return query_noise_seed(self.record.seed, self.query, self.noise_stream)

    @property
    def walk_seed(self) -> int:
        """The seed of the policy's draws in the next query."""
        return query_noise_seed(self.record.seed, self.query, self.record.stream)

    @property
    def episode_seed(self) -> int:
        """The seed of the random numbers that the policy draws once for the whole episode."""
        return mix_seed(self.record.seed, *self.record.stream)

    def take(self) -> None:
        """Take the simulator's answer. A fault becomes the outcome; only `SimulatorUnavailable` is raised."""
        try:
            reply = self.simulator.result()
        except SimulatorUnavailable:
            raise
        except SimulatorFault as fault:
            self.record.outcome, self.record.message = str(fault.outcome), str(fault)
            return
        if isinstance(reply, ResetReply):
            self.record.instruction = reply.instruction
            self.history = History(reply.observation)
        elif isinstance(reply, ChunkReply):
            self.record.steps += reply.executed
            if reply.passed and self.history is not None and self.actions is not None:
                self.history = replace(self.history, chunks=(Passed(self.actions, reply.passed),))
            if reply.frames is not None:
                self.frames.append(reply.frames)
            if reply.success:
                self.record.outcome = str(Outcome.success)
            elif reply.done:
                self.record.outcome = str(Outcome.step_limit)
        self.observation = reply.observation  # type: ignore[union-attr]

    def start(self, actions: npt.NDArray[np.float32], every: int) -> None:
        """Start the execution of a chunk. An action that is not finite ends the episode instead.

        The simulator is seen after `every` so many actions, unless it is 0.
        """
        wrong = np.argwhere(~np.isfinite(actions))
        if not len(wrong):
            self.actions = actions
            self.simulator.start_chunk(actions, self.filming, every)
            return
        step, column = wrong[0]
        self.record.outcome = str(Outcome.not_finite)
        self.record.message = (
            f"query {len(self.record.updates)} gave {actions[step, column]} as number {column} of action {step}"
        )

    def finish(self, wam: FrozenWAM) -> EpisodeRecord:
        """Return the record of the episode. If it was filmed, its frames show executed beside imagined pictures."""
        if self.frames:
            latents = torch.from_numpy(np.stack(self.plans[: len(self.frames)]))
            imagined = wam.imagined_pictures(latents)["head"]
            self.record.frames = np.concatenate([beside(*pair) for pair in zip(self.frames, imagined, strict=True)])
        return self.record


def beside(executed: Pictures, imagined: Pictures) -> Pictures:
    """Put executed pictures [T, H, W, 3] to the left of imagined ones [T', h, w, 3]. Returns [T, H, 2 W, 3]."""
    height, width = executed.shape[1:3]
    steps = np.minimum(np.arange(len(executed)), len(imagined) - 1)
    resized = [cv2.resize(imagined[step], (width, height), interpolation=cv2.INTER_AREA) for step in steps]
    return np.concatenate([executed, np.stack(resized).astype(np.uint8)], axis=2)


def query_noise_seed(episode_seed: int, query: int, stream: Sequence[int] = ()) -> int:
    """Return the seed of the initial noise of a query, or of the policy's draws in it, which are other streams."""
    return mix_seed(episode_seed, *stream, query)


def play(
    wam: FrozenWAM,
    schedule: Schedule,
    simulators: Sequence[SimulatorProcess],
    episodes: Sequence[EpisodeTask],
    filmed: Collection[EpisodeTask] = (),
    rules: PlayRules | None = None,
    timeline: Timeline | None = None,
) -> list[EpisodeRecord]:
    """Play every episode, and return the records in the order of `episodes`, which must be distinct.

    All simulators of a team step together, and a finished one takes the next episode at once. So the list alone decides
    which episodes share a batch, never the timing. If the backbone raises, the simulators are killed and the exception
    is passed on. `timeline` records when simulators and model worked.
    """
    player = _Player(wam, schedule, rules or PlayRules(), timeline or Timeline(), frozenset(filmed))
    return player.play(simulators, episodes)


class _Player:
    """Plays with one or two teams of simulators. While the episodes of one team are denoised, the other team steps."""

    def __init__(
        self, wam: FrozenWAM, schedule: Schedule, rules: PlayRules, timeline: Timeline, filmed: Collection[EpisodeTask]
    ) -> None:
        self._wam, self._schedule, self._rules, self._timeline = wam, schedule, rules, timeline
        self._filmed = filmed
        self._waiting: deque[EpisodeTask] = deque()
        self._attempts: dict[EpisodeTask, int] = {}
        self._finished: dict[EpisodeTask, EpisodeRecord] = {}
        self._impossible: dict[tuple[str, str, int], EpisodeRecord] = {}  # scenes whose fault is deterministic

    def play(self, simulators: Sequence[SimulatorProcess], episodes: Sequence[EpisodeTask]) -> list[EpisodeRecord]:
        self._waiting.extend(episodes)
        count = 2 if self._rules.overlap else 1
        teams = [_Team(list(simulators[start::count])) for start in range(count)]
        try:
            for team in teams:
                self._fill(team)
            while any(team.active for team in teams):
                for team in teams:
                    self._turn(team)
        except BaseException:
            for one in (one for team in teams for one in team.active):
                one.simulator.kill()
            raise
        return [self._finished[episode] for episode in episodes]

    def _turn(self, team: _Team) -> None:
        """Take every answer of the team, replace the episodes that ended, and query the backbone for the others."""
        for one in team.active:
            one.take()
            self._timeline.simulator.append(one.simulator.worked)
        self._retire(team)
        playing = list(team.active)
        self._fill(team)
        self._query(playing)
        self._retire(team)  # episodes that the query ended
        self._fill(team)

    def _retire(self, team: _Team) -> None:
        for one in [one for one in team.active if one.over]:
            team.active.remove(one)
            team.idle.append(one.simulator)
            self._book(one)

    def _fill(self, team: _Team) -> None:
        while self._waiting and team.idle:
            episode = self._waiting.popleft()
            if episode.scene in self._impossible:
                fault = self._impossible[episode.scene]
                self._finished[episode] = EpisodeRecord.of(episode, fault.outcome, fault.message)
                continue
            simulator = team.idle.pop(0)
            simulator.start_reset(*episode.scene)
            stream = episode.stream[:1] if self._rules.shared_noise else episode.stream
            team.active.append(_Active(simulator, EpisodeRecord.of(episode), episode in self._filmed, stream))

    def _book(self, one: _Active) -> None:
        """Store the record of an ended episode, or queue a lost one for another attempt."""
        episode, outcome = one.record.episode, Outcome(one.record.outcome)
        one.record.attempts = self._attempts[episode] = self._attempts.get(episode, 0) + 1
        if outcome in DETERMINISTIC_FAULTS:
            self._impossible[episode.scene] = one.record
        elif outcome.is_fault and one.record.attempts <= self._rules.retries:
            self._waiting.appendleft(episode)
            return
        self._finished[episode] = one.finish(self._wam)

    def _query(self, playing: Sequence[_Active]) -> None:
        """Walk once for all playing episodes as one batch, and start the execution of their chunks."""
        if not playing:
            return
        spec = self._wam.spec
        observations = [one.observation for one in playing if one.observation is not None]
        with self._timeline.modelling():
            histories = [one.history for one in playing if one.history is not None] if spec.history_chunks else []
            context = self._wam.observe(observations, [one.record.instruction for one in playing], histories)
            walked = walk(
                self._wam,
                context,
                self._schedule,
                [one.noise_seed for one in playing],
                [one.walk_seed for one in playing],
                deterministic=not self._rules.explore,
                episode_seeds=[one.episode_seed for one in playing],
                queries=[one.query for one in playing],
                allow_not_finite=True,
            )
        for number, (one, row) in enumerate(zip(playing, walked.records, strict=True)):
            if spec.history_chunks and one.history is not None:
                one.history = replace(one.history, chunks=(), kept=context.history(number))
            one.record.updates.append(row.updates)
            one.record.forwards.append(row.all_forwards)
            one.record.plan_forwards.append(row.plan.forwards if row.plan else 0)
            one.record.depths.append(row.depth)
            if self._rules.explore:
                one.record.traces += [] if row.trace is None else [row.trace]
                one.record.levels.append(row.sigma_video)
            if one.filming:
                one.plans.append(row.latents)
            one.start(row.actions, spec.history_stride)


@dataclass
class _Team:
    """Simulators that wait for each other, because their episodes are denoised as one batch."""

    idle: list[SimulatorProcess]
    active: list[_Active] = field(default_factory=list)
