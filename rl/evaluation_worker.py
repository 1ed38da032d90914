"""One process of an evaluation: the backbone, the schedules, and its simulators."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from configs.schema import Config
from policies.schedules.base import Schedule
from policies.walk import walk
from policies.wam.interface import WAMSpec
from rl.closed_loop import play
from rl.paths import PathSampler
from rl.records import EpisodeRecord, EpisodeTask, mix_seed
from rl.runners import load_wam, make_simulators
from rl.schedule_sources import ScheduleSource
from rl.segments import load_segments, spread_indices


@dataclass(frozen=True)
class Measurement:
    """One schedule on one held-out segment, alone in its batch."""

    segment: int
    task: str
    latency_ms: float  # walk and action decode; the observation was encoded before
    forwards: int
    sequence_error: float
    difference_error: float


class EvaluationWorker:
    """Plays episodes, or measures walks at batch 1."""

    def __init__(self, settings: Config, sources: Sequence[ScheduleSource]) -> None:
        torch.set_num_threads(settings.wam.torch_threads)
        self._settings = settings
        self._wam = load_wam(settings.wam)
        self._schedules: Mapping[str, Schedule] = {
            source.name: source.load(self._wam.spec, settings.scheduler) for source in sources
        }
        self._simulators = make_simulators(settings.env, settings.rollout.episodes_per_runner)

    def play(
        self, schedule: str, episodes: Sequence[EpisodeTask], record: Sequence[EpisodeTask] = ()
    ) -> list[EpisodeRecord]:
        return play(self._wam, self._schedules[schedule], self._simulators, episodes, record)

    def measure(self, split: str, count: int) -> dict[str, list[Measurement]]:
        """Every schedule on the same segments and noise, one after the other so that all see the same machine."""
        sampler = PathSampler(self._wam, self._settings.reward)
        source = load_segments(self._settings, split, self._wam.spec.action_horizon)
        measured: dict[str, list[Measurement]] = {name: [] for name in self._schedules}
        indices = spread_indices(len(source), count)
        for index in [*indices[:1], *indices]:  # the first one twice: it warms up
            segment = source[index]
            context = sampler.observe([segment])
            for name, schedule in self._schedules.items():
                begin = time.perf_counter()
                record = walk(self._wam, context, schedule, [mix_seed(self._settings.run.seed, index)]).records[0]
                elapsed_ms = 1e3 * (time.perf_counter() - begin)
                sequence, difference = sampler.errors(record.actions[None], [segment])[0]
                measured[name].append(
                    Measurement(index, segment.task, elapsed_ms, record.forwards, float(sequence), float(difference))
                )
        return {name: rows[1:] for name, rows in measured.items()}

    def spec(self) -> WAMSpec:
        return self._wam.spec

    def close(self) -> None:
        for simulator in self._simulators:
            simulator.close()
