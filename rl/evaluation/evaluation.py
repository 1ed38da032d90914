"""An evaluation compares schedules on the same seeds, in parallel simulator processes. Its JSON holds every episode."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from configs.planning import NO_PLANNER
from configs.schema import Config
from envs.files import remove_leftovers, write_bytes
from envs.ledger import Cell, Ledger
from envs.outcomes import Outcome
from envs.suites import Role, env_for, episode_seeds, suite_facts, wanted_seeds
from envs.video import VideoWriter
from policies.backbones.door import WAMSpec
from rl.engine.placement import reserve
from rl.evaluation.pool import Batch, Pool, workers
from rl.evaluation.report import Comparison, summarise
from rl.evaluation.sources import ScheduleSource
from rl.evaluation.stored import partial_of, read_partial
from rl.experience.records import EpisodeRecord, EpisodeTask, warn_of_not_finite
from rl.experience.rollouts import Array
from rl.experience.segments import load_segments
from rl.experience.simulators import check_actions

logger = logging.getLogger(__name__)

WAVES_A_BATCH = 4  # the episodes of a batch for each simulator
_SETTINGS_THAT_MATTER = ("env", "demonstrations", "wam", "schedule", "action_error")
_ROWS_THAT_MATTER = ("schedules", "backbones", "reference", "segments")
REPORTED_VERSIONS = ("torch", "numpy", "ray", "diffusers", "sapien", "gymnasium")

OnProgress = Callable[[str, int, int], None]
"""Called with the schedule, its finished episodes and all of its episodes."""


def evaluate(
    settings: Config,
    sources: Sequence[ScheduleSource],
    output: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = lambda schedule, counted, wanted: None,
    split: str = "test",
    role: Role = "evaluation",
) -> Comparison | None:
    """Play the same episodes under every schedule, measure latency and action error on segments, and write `output`.

    `role` chooses the seeds and the settings of the episodes: held-out ones, or those of the validation.
    If `should_stop` returns true, it returns None and leaves `<output>.partial`, from which the same call resumes. With
    `evaluation.processes=0` everything runs in this process; otherwise Ray must be running. Raises ValueError for
    schedules that do not fit, RuntimeError if no worker is left.
    """
    evaluation, run = settings.evaluation, None
    played, rollout = dataclasses.replace(settings, env=env_for(settings.env, role)), settings.rollout
    with ExitStack() as stack:
        asked = ("evaluation.processes", rollout, evaluation.processes, should_stop, rollout.episodes_per_runner)
        room = stack.enter_context(reserve(*asked))
        if room is None:
            return None
        pool = stack.enter_context(workers(played, sources, room))
        specs = pool.specs()
        if evaluation.segments:  # what is missing is said before the episodes are played, not after hours of them
            load_segments(played, split, specs[""].action_horizon, specs[""].action_dim)
        run = _Ledgers(settings, sources, specs, output, role)
        finished = run.play(pool, should_stop, on_progress)
        if not finished:
            return None
        measured = pool.measure(split, evaluation.segments) if evaluation.segments else {}
    for name, rows in measured.items():
        for one in rows:
            if one.sequence_error is None:
                logger.warning("%s segment %d under %s: an action is not finite", one.task, one.segment, name)
    result = summarise(run.by_schedule, measured, run.fingerprint)
    write_bytes(output, json.dumps(result.to_json(), indent=1).encode())
    run.partial.unlink(missing_ok=True)
    remove_leftovers(output)
    return result


def cells_of(settings: Config, role: Role = "evaluation") -> list[Cell]:
    """Return the cells (task, mode and seed) to play. They are the same for every schedule."""
    env, wanted = settings.env, wanted_seeds(settings)[role]
    return [Cell(task, env.mode, seed) for task in env.tasks for seed in episode_seeds(env, role, task, wanted)]


def fingerprint(
    settings: Config, sources: Sequence[ScheduleSource], specs: Mapping[str, WAMSpec], role: Role = "evaluation"
) -> dict[str, Any]:
    """Return everything that the results depend on: backbones, schedules, settings, simulator, seeds and versions."""
    parts = {part: dataclasses.asdict(getattr(settings, part)) for part in _SETTINGS_THAT_MATTER}
    if any(source.planner != NO_PLANNER for source in sources):
        value = specs[""].value
        parts["plan"] = dataclasses.asdict(settings.plan) | {"value_hash": value.weights_hash if value else ""}
    del parts["env"]["options"]  # the suite itself says which of its settings matter
    del parts["demonstrations"]["failures"]  # no evaluation reads them
    facts, wanted = suite_facts(settings, role), wanted_seeds(settings)[role]
    rows = {name: getattr(settings.evaluation, name) for name in _ROWS_THAT_MATTER}
    rows |= {"episodes_per_task": wanted.count, "first_seed": wanted.first_seed}
    return {
        "backbone_hash": specs[""].weights_hash,
        "other_backbones": {checkpoint: spec.weights_hash for checkpoint, spec in specs.items() if checkpoint},
        "schedules": {source.name: source.describe() for source in sources},
        "config": parts,
        **({"simulator": facts} if facts else {}),
        "evaluation": rows if role == "evaluation" else {**rows, "role": role},
        "batch": settings.rollout.episodes_per_runner,
        "seed": settings.run.seed,
        "quick": settings.run.quick,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in REPORTED_VERSIONS}},
        "machine": platform.machine(),
        "threads_per_process": settings.wam.torch_threads,
    }


class _Ledgers:
    """The ledgers of an evaluation by schedule. They are saved after every batch."""

    def __init__(
        self,
        settings: Config,
        sources: Sequence[ScheduleSource],
        specs: Mapping[str, WAMSpec],
        output: Path,
        role: Role,
    ) -> None:
        for spec in specs.values():
            check_actions(settings.env, spec)
        output.parent.mkdir(parents=True, exist_ok=True)
        self.partial = partial_of(output)
        self.fingerprint = fingerprint(settings, sources, specs, role)
        cells = cells_of(settings, role)
        resumed = read_partial(self.partial, self.fingerprint, cells)
        self.by_schedule = resumed or {source.name: Ledger(cells) for source in sources}
        self._batch = WAVES_A_BATCH * settings.rollout.episodes_per_runner
        self._video = _Videos(cells[: settings.evaluation.record_videos], settings, output.parent / "videos")

    def play(self, pool: Pool, should_stop: Callable[[], bool], on_progress: OnProgress) -> bool:
        """Play what is missing. Return whether every cell was counted."""
        while True:
            while pool.has_room and not should_stop():
                batch = self._next_batch()
                if batch is None:
                    break
                pool.start(batch)
            if not pool.is_busy:
                return all(ledger.done for ledger in self.by_schedule.values())
            for batch, records in pool.finished():
                self._book(batch, records)
                ledgers = {name: ledger.to_json() for name, ledger in self.by_schedule.items()}
                content = {"fingerprint": self.fingerprint, "ledgers": ledgers}
                write_bytes(self.partial, json.dumps(content).encode())
                ledger = self.by_schedule[batch.schedule]
                on_progress(batch.schedule, len(ledger.entries()), len(ledger.entries()) + len(ledger.missing()))

    def _next_batch(self) -> Batch | None:
        for name, ledger in self.by_schedule.items():
            cells = [cell for cell in (ledger.take() for _ in range(self._batch)) if cell is not None]
            if cells:
                return Batch(name, cells, self._video.wanted(name, cells))
        return None

    def _book(self, batch: Batch, records: Sequence[EpisodeRecord] | None) -> None:
        """Count the episodes of a batch, or put the cells of a lost batch back."""
        ledger = self.by_schedule[batch.schedule]
        if records is None:
            for cell in reversed(batch.cells):
                ledger.give_back(cell)
            return
        warn_of_not_finite(records, batch.schedule)
        for cell, record in zip(batch.cells, records, strict=True):
            self._video.write(batch.schedule, record)
            ledger.record(
                cell,
                Outcome(record.outcome),
                steps=record.steps,
                updates=record.updates,
                forwards=record.forwards,
                **({"plan_forwards": record.plan_forwards} if any(record.plan_forwards) else {}),
                depths=[round(depth, 4) for depth in record.depths],
                instruction=record.instruction,
                message=record.message,
            )


class _Videos:
    """Writes videos of some cells of every schedule: executed beside imagined pictures of the head camera."""

    def __init__(self, filmed: Sequence[Cell], settings: Config, directory: Path) -> None:
        self._filmed, self._directory, self._rate = set(filmed), directory, settings.env.control_hz

    def wanted(self, schedule: str, cells: Sequence[Cell]) -> list[EpisodeTask]:
        return [EpisodeTask(*cell) for cell in cells if cell in self._filmed]

    def write(self, schedule: str, record: EpisodeRecord) -> None:
        if record.frames is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = video_path(self._directory, schedule, Cell(*record.episode.scene), record.outcome)
        write_video(path, record.frames, self._rate)


def video_path(directory: Path, schedule: str, cell: Cell, outcome: str) -> Path:
    """Return the file of a filmed episode."""
    return directory / f"{schedule}_{cell.task}_{cell.mode}_{cell.seed}_{outcome}.mp4"


def write_video(path: Path, frames: Array, rate: int) -> None:
    """Write frames, uint8 [T, H, W, 3], at `rate` frames per second, enlarged fourfold."""
    large = np.repeat(np.repeat(frames, 4, axis=1), 4, axis=2)
    with VideoWriter(path, (large.shape[1], large.shape[2]), rate) as video:
        video.append(large)
