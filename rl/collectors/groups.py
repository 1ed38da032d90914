"""Groups of episodes with the same scene and instruction. Only the policy's noise differs in them (NoiseGate 4.4)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from configs.schema import EnvConfig, GroupsConfig
from envs.outcomes import Outcome
from envs.suites import Wanted, episode_seeds
from policies.learning import Charts
from rl.collector import COLLECTORS, Collector, Experience
from rl.experience.records import (
    EpisodeRecord,
    EpisodeRequest,
    EpisodeTask,
    Reply,
    split_evenly,
    warn_of_not_finite,
)
from rl.experience.rollouts import Rollouts, concatenate
from rl.experience.segments import segment_order
from rl.experience.timeline import Shares
from rl.reward import Need, Rewards
from rl.runs.checkpoints import Checkpoint
from rl.runs.metrics import group_metrics

if TYPE_CHECKING:
    from rl.engine.rllib import Engine

LEARNABLE = (Outcome.success, Outcome.step_limit)

GroupTask = tuple[EpisodeTask, ...]
"""The episodes of one group."""


@COLLECTORS.register("groups")
class GroupCollector(Collector[GroupsConfig]):
    """Plays groups in closed loop. Groups with a simulator fault are dropped, because the policy did not cause it.

    Groups with an action that is not finite are dropped too: their choices may hold numbers that ruin the weights.
    """

    settings_type = GroupsConfig
    offers = frozenset({Need.SIMULATORS})
    charts: ClassVar[Charts] = {
        "1 learning": {
            "success": ["Multiline", ["episode/success", "validation/success"]],
            "success by task": ["Multiline", [r"episode/success_.+"]],
            "informative groups": ["Multiline", ["group/informative"]],
        },
        "3 machine": {
            "simulators and model": [
                "Multiline",
                ["time/simulator_share", "time/model_share", "time/overlap_share", "time/idle_share"],
            ]
        },
    }

    def __init__(self, engine: Engine, settings: GroupsConfig, rewards: Rewards) -> None:
        super().__init__(engine, settings, rewards)
        self.cursor = 0  # the number of groups that were started since the start of the run

    def collect(self) -> Experience:
        """Play the groups of an iteration. Groups of equal return are replaced as far as the budget allows."""
        if self.settings.asynchronous:
            replies = self._gather()
        else:
            replies = self._play(self.next_groups(self.settings.per_iteration))
            budget = self.settings.resample_budget
            while budget and (missing := self.settings.per_iteration - self._count_informative(replies)) > 0:
                wanted = min(missing, budget)
                replies += self._play(self.next_groups(wanted))
                budget -= wanted
        groups = groups_of(replies)
        for group in groups:
            warn_of_not_finite(group, self.engine.settings.schedule.name)
        complete = [group for group in groups if is_complete(group)]
        rollouts = concatenate([rollouts_of(group) for group in complete]) if complete else Rollouts.empty([], [], "")
        shares = sum((reply.shares for reply in replies), start=Shares())
        informative = self._count_informative(replies)
        metrics = group_metrics(groups, complete, informative) | shares.metrics()
        if lags := [self.engine.staleness(reply) for reply in replies if not reply.lost]:
            metrics |= {"runners/staleness_mean": float(np.mean(lags)), "runners/staleness_max": max(lags)}
        return Experience(rollouts, replies, metrics)

    def next_groups(self, count: int) -> list[GroupTask]:
        """Return the tasks of the next `count` groups, and advance the cursor."""
        engine = self.engine.settings
        tasks = group_tasks(engine.env, self.settings, engine.run.seed, self.cursor, count)
        self.cursor += count
        return tasks

    def _play(self, groups: Sequence[GroupTask]) -> list[Reply]:
        return self.engine.ask([_request(part) for part in split_evenly(groups, self.engine.slots)])

    def _gather(self) -> list[Reply]:
        """Return the next replies of runners that never wait for the learner: one for each slot of an iteration."""
        slots = self.engine.slots
        each = math.ceil(self.settings.per_iteration / slots)
        replies = self.engine.dispatcher.gather(
            slots,
            lambda: self.engine.with_server(_request(self.next_groups(each))),
            lambda reply: self.engine.staleness(reply) <= self.settings.max_staleness,
        )
        self.engine.note_failures(replies)
        return replies

    def _count_informative(self, replies: Sequence[Reply]) -> int:
        """Count the complete groups whose returns differ."""
        complete = [rollouts_of(group) for group in groups_of(replies) if is_complete(group)]
        scored = [self.rewards.score(rollouts, progress=1.0).total for rollouts in complete]
        return sum(bool((returns != returns[0]).any()) for returns in scored)

    def state(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def restore(self, checkpoint: Checkpoint) -> bool:
        self.cursor = checkpoint.state["collector"]["cursor"]
        return True


def group_tasks(env: EnvConfig, groups: GroupsConfig, seed: int, cursor: int, count: int) -> list[GroupTask]:
    """Return the `count` groups from position `cursor` of the run on. They depend on seed and cursor alone.

    Tasks take turns. Each task goes through its scenes in shuffled rounds. The position is part of the noise streams,
    so a scene that comes again is played with other noise.
    """
    wanted = Wanted(groups.first_seed, groups.seeds_per_task)
    scenes = [episode_seeds(env, "groups", task, wanted) for task in env.tasks]  # once, since a suite may read files
    tasks = []
    for position in range(cursor, cursor + count):
        turn, task = divmod(position, len(env.tasks))
        (scene,) = segment_order(len(scenes[task]), seed, turn, 1)
        members = range(groups.size)
        tasks.append(
            tuple(EpisodeTask(env.tasks[task], env.mode, scenes[task][scene], (position, member)) for member in members)
        )
    return tasks


def groups_of(replies: Sequence[Reply]) -> list[list[EpisodeRecord]]:
    """Return the episodes of the replies, group by group. A stream begins with the position of its group."""
    episodes = [episode for reply in replies for episode in reply.episodes]
    return [list(group) for _, group in itertools.groupby(episodes, key=lambda episode: episode.stream[0])]


def is_complete(group: Sequence[EpisodeRecord]) -> bool:
    """Whether one can learn from the group: no episode was lost to a fault or had an action that is not finite."""
    return all(episode.outcome in LEARNABLE for episode in group)


def rollouts_of(group: Sequence[EpisodeRecord]) -> Rollouts:
    """Convert the episodes of one complete group to rollouts."""
    names = [str(episode.episode) for episode in group]
    rollouts = Rollouts.empty(names, [episode.stream[0] for episode in group], "")
    rollouts.outcomes = [episode.outcome for episode in group]
    rollouts.success = np.array([float(episode.outcome == "success") for episode in group])
    rollouts.walks = [np.stack([episode.updates, episode.forwards], axis=1) for episode in group]
    rollouts.updates, rollouts.forwards = np.array([walks.mean(axis=0) for walks in rollouts.walks]).T
    traces = [trace for episode in group for trace in episode.traces]
    if traces:
        rollouts.trace = type(traces[0]).join(traces)
        rollouts.lengths = np.array([sum(map(len, episode.traces)) for episode in group])
        counts = [(query, len(trace)) for episode in group for query, trace in enumerate(episode.traces)]
        rollouts.queries = np.concatenate([np.full(count, query, dtype=np.int64) for query, count in counts])
    rollouts.levels = [episode.levels[0] for episode in group]
    return rollouts


def _request(groups: Sequence[GroupTask]) -> EpisodeRequest:
    return EpisodeRequest(tuple(episode for group in groups for episode in group), explore=True)
