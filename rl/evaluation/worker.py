"""A worker process of an evaluation, with the backbones, the schedules and its simulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import torch

from configs.schema import Config, WAMConfig
from envs.process.owner import SimulatorProcess
from envs.suites import kinematics_of
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.schedule import Schedule
from policies.walk import walk
from policies.walk_record import now_s
from rl.evaluation.sources import ScheduleSource
from rl.experience.closed_loop import play
from rl.experience.paths import PathSampler
from rl.experience.records import EpisodeRecord, EpisodeTask, mix_seed
from rl.experience.segments import load_segments, observe_segments, spread_indices
from rl.experience.simulators import load_for, make_simulators

Found = TypeVar("Found")


@dataclass(frozen=True)
class Measurement:
    """The measurement of one schedule on one held-out segment, at batch size 1."""

    segment: int
    task: str
    latency_ms: float  # the time of the walk and of decoding the action, without encoding the observation
    forwards: int  # video forwards, those of the planner included
    sequence_error: float | None  # None: an action is not finite
    difference_error: float | None
    # The parts of a query: encoding the observation, then the walk. None: an older measurement.
    observe_ms: float | None = None
    plan_ms: float | None = None
    video_ms: float | None = None
    action_ms: float | None = None


def for_each_backbone(
    settings: Config, sources: Sequence[ScheduleSource], read: Callable[[WAMConfig], Found]
) -> dict[str, Found]:
    """Call `read`, such as `describe`, once for each backbone of the rows. The results have the checkpoints as keys.

    The key "" stands for the backbone of the settings.
    """
    others = {source.backbone for source in sources if source.backbone}
    return {"": read(settings.wam)} | {
        checkpoint: read(settings.wam.of_another(checkpoint)) for checkpoint in sorted(others)
    }


def load_schedules(
    settings: Config, sources: Sequence[ScheduleSource], specs: Mapping[str, WAMSpec]
) -> dict[str, Schedule]:
    """Load the schedules by row. Raises ValueError for an unknown name, a damaged checkpoint or another backbone."""
    return {source.name: source.load(specs[source.backbone], settings.schedule, settings.plan) for source in sources}


class EvaluationWorker:
    """Plays episodes, and measures walks at batch size 1."""

    def __init__(self, settings: Config, sources: Sequence[ScheduleSource]) -> None:
        """Load nothing yet: if an actor fails in its constructor, Ray keeps the traceback only as text."""
        torch.set_num_threads(settings.wam.torch_threads)
        self._settings, self._sources = settings, list(sources)
        self._simulators: list[SimulatorProcess] = []

    @cached_property
    def _wams(self) -> dict[str, FrozenWAM]:
        return for_each_backbone(self._settings, self._sources, partial(load_for, self._settings.env))

    @cached_property
    def _rows(self) -> dict[str, tuple[str, Schedule]]:
        """The backbone and the schedule of each row."""
        schedules = load_schedules(self._settings, self._sources, self.specs())
        return {source.name: (source.backbone, schedules[source.name]) for source in self._sources}

    def play(
        self, row: str, episodes: Sequence[EpisodeTask], filmed: Sequence[EpisodeTask] = ()
    ) -> list[EpisodeRecord]:
        """Play episodes under the schedule of a row, and return their records in the same order."""
        backbone, schedule = self._rows[row]
        if not self._simulators:
            self._simulators = make_simulators(self._settings.env, self._settings.rollout.episodes_per_runner)
        return play(self._wams[backbone], schedule, self._simulators, episodes, filmed)

    def measure(self, split: str, count: int) -> dict[str, list[Measurement]]:
        """Measure every schedule on the same segments and noise. They take turns, so that all see the same machine."""
        robot = kinematics_of(self._settings.env)
        samplers = {
            backbone: PathSampler(wam, self._settings.action_error, robot) for backbone, wam in self._wams.items()
        }
        spec = self.specs()[""]
        source = load_segments(self._settings, split, spec.action_horizon, spec.action_dim)
        measured: dict[str, list[Measurement]] = {name: [] for name in self._rows}
        indices = spread_indices(len(source), count)
        for index in [*indices[:1], *indices]:  # the first segment comes twice, because the first time is a warm-up
            segment = source[index]
            seed = mix_seed(self._settings.run.seed, index)
            contexts, observe_ms = {}, {}
            for backbone, wam in self._wams.items():
                begin = now_s()
                contexts[backbone] = observe_segments(wam, [segment])
                observe_ms[backbone] = 1e3 * (now_s() - begin)
            for name, (backbone, schedule) in self._rows.items():
                begin = now_s()
                walked = walk(self._wams[backbone], contexts[backbone], schedule, [seed], allow_not_finite=True)
                record = walked.records[0]
                elapsed_ms = 1e3 * (now_s() - begin)
                errors: list[float | None] = [None, None]
                if record.is_finite:
                    errors = samplers[backbone].errors(record.actions[None], [segment])[0].tolist()
                times = walked.times
                parts = (observe_ms[backbone], *(1e3 * one for one in (times.plan_s, times.video_s, times.action_s)))
                found = Measurement(index, segment.task, elapsed_ms, record.all_forwards, *errors, *parts)
                measured[name].append(found)
        return {name: rows[1:] for name, rows in measured.items()}

    def specs(self) -> dict[str, WAMSpec]:
        """Return the descriptions of the backbones by checkpoint. The key "" is the backbone of the settings."""
        return {backbone: wam.spec for backbone, wam in self._wams.items()}

    def close(self) -> None:
        """Stop the simulators."""
        for simulator in self._simulators:
            simulator.close()
