"""The pools that play the batches of an evaluation: worker processes on Ray, or one worker in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle

from configs.schema import Config
from envs.ledger import Cell
from policies.backbones.door import WAMSpec
from rl.engine.placement import Room
from rl.evaluation.sources import ScheduleSource
from rl.evaluation.worker import EvaluationWorker, Measurement
from rl.experience.records import EpisodeRecord, EpisodeTask

logger = logging.getLogger(__name__)

MAX_RESTARTS = 5  # of each worker


@dataclass(frozen=True)
class Batch:
    """The episodes of one schedule that a worker plays together."""

    schedule: str
    cells: list[Cell]
    filmed: list[EpisodeTask]

    @property
    def episodes(self) -> list[EpisodeTask]:
        return [EpisodeTask(*cell) for cell in self.cells]


Played = tuple[Batch, list[EpisodeRecord] | None]
"""A batch with its records, or with None if its worker died."""


class Pool(Protocol):
    """A set of workers, each of which plays at most one batch at a time."""

    @property
    def has_room(self) -> bool:
        """Whether a worker is idle."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether a batch was started and is not finished."""
        ...

    def start(self, batch: Batch) -> None:
        """Give a batch to an idle worker."""
        ...

    def finished(self) -> Iterator[Played]:
        """Wait for at least one batch, and yield the finished ones. Raises RuntimeError if no worker is left."""
        ...

    def specs(self) -> dict[str, WAMSpec]:
        """Return the descriptions of the backbones by checkpoint. The key "" is the backbone of the settings."""
        ...

    def measure(self, split: str, count: int) -> dict[str, list[Measurement]]:
        """Measure latency and action error on held-out segments, on one worker while the others are idle."""
        ...


class LocalPool:
    """A pool of one worker in this process. `finished` plays the batch that was started."""

    def __init__(self, worker: EvaluationWorker) -> None:
        self._worker = worker
        self._batch: Batch | None = None

    @property
    def has_room(self) -> bool:
        return self._batch is None

    @property
    def is_busy(self) -> bool:
        return self._batch is not None

    def start(self, batch: Batch) -> None:
        self._batch = batch

    def finished(self) -> Iterator[Played]:
        batch, self._batch = self._batch, None
        assert batch is not None
        yield batch, self._worker.play(batch.schedule, batch.episodes, batch.filmed)

    def specs(self) -> dict[str, WAMSpec]:
        return self._worker.specs()

    def measure(self, split: str, count: int) -> dict[str, list[Measurement]]:
        return self._worker.measure(split, count)


class RayPool:
    """A pool of worker processes. A worker that dies is restarted, and its batch is reported as lost."""

    def __init__(self, workers: Sequence[ActorHandle]) -> None:
        self._idle = list(workers)
        self._busy: dict[ray.ObjectRef, tuple[ActorHandle, Batch]] = {}  # result -> worker, batch

    @property
    def has_room(self) -> bool:
        return bool(self._idle)

    @property
    def is_busy(self) -> bool:
        return bool(self._busy)

    def start(self, batch: Batch) -> None:
        worker = self._idle.pop(0)
        self._busy[worker.play.remote(batch.schedule, batch.episodes, batch.filmed)] = (worker, batch)

    def finished(self) -> Iterator[Played]:
        for reference in ray.wait(list(self._busy), num_returns=1)[0]:
            worker, batch = self._busy.pop(reference)
            records: list[EpisodeRecord] | None = None
            try:
                records = _result(reference)
            except ray.exceptions.RayActorError as error:
                logger.warning("An evaluation worker died; its episodes run again: %s", str(error).partition("\n")[0])
            if records is not None or self._survives(worker):
                self._idle.append(worker)
            yield batch, records
        if not self._idle and not self._busy:
            raise RuntimeError(f"No evaluation worker is left: each died more than {MAX_RESTARTS} times.")

    def specs(self) -> dict[str, WAMSpec]:
        specs: dict[str, WAMSpec] = _result(self._idle[0].specs.remote())
        return specs

    def measure(self, split: str, count: int) -> dict[str, list[Measurement]]:
        measured: dict[str, list[Measurement]] = _result(self._idle[0].measure.remote(split, count))
        return measured

    def _survives(self, worker: ActorHandle) -> bool:
        """Wait until a worker is restarted after a crash. Return False if it does not come back."""
        try:
            _result(worker.specs.options(max_task_retries=-1).remote())
        except ray.exceptions.RayActorError:
            return False
        return True


def _result(reference: ray.ObjectRef) -> Any:
    """Wait for a worker's result. If the worker raised an exception, raise that exception."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


@contextmanager
def workers(settings: Config, sources: Sequence[ScheduleSource], room: Room) -> Iterator[Pool]:
    """Start `evaluation.processes` workers on Ray, in a room for so many; 0 means one worker in this process."""
    count = settings.evaluation.processes
    if count == 0:
        worker = EvaluationWorker(settings, sources)
        try:
            yield LocalPool(worker)
        finally:
            worker.close()
        return
    actor = ray.remote(EvaluationWorker).options(**room.options(), max_restarts=MAX_RESTARTS, max_task_retries=0)
    started = [actor.remote(settings, list(sources)) for _ in range(count)]
    try:
        yield RayPool(started)
    finally:
        for one in started:
            ray.kill(one)
