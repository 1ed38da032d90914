"""A training run, from its start or a resume to its end. `launch` is responsible for input and output on the screen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.plain_yaml import to_yaml
from configs.schema import Config
from envs.suites import training_roles
from policies.backbones import describe
from policies.backbones.door import WAMSpec
from policies.learning import LearnedSchedule
from rl.algorithm import ScheduleAlgorithm, ScheduleAlgorithmConfig, running
from rl.engine.placement import reserve
from rl.experience.simulators import check_actions
from rl.method import charts_of, check_backbone
from rl.runs.checkpoints import Checkpoint, CheckpointError, CheckpointStore, read_checkpoint
from rl.runs.lock import run_lock
from rl.runs.metrics import POLICY_OUTCOMES
from rl.runs.scores import Score
from rl.runs.settings import check_finished
from rl.runs.snapshot import restore, snapshot, start_from
from rl.runs.tracking import Tracker

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """The state of a run when `train` returned."""

    iterations: int
    latest: Path | None  # the newest checkpoint, or None if the run was stopped before its first one
    best: Path | None  # the best checkpoint by validation
    interrupted: bool


def train(
    settings: Config,
    run_directory: Path,
    *,
    spec: WAMSpec | None = None,
    inherits: Path | None = None,
    starts_from: LearnedSchedule[Any, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[int], None] = lambda iteration: None,
    on_iteration: Callable[[int, Metrics], None] = lambda iteration, metrics: None,
    on_finished: Callable[[Callable[[], object]], None] = lambda save: None,
    on_saved: Callable[[], object] = lambda: None,
) -> TrainingResult:
    """Train the configured method for `run.iterations` iterations, resuming as `run.resume` says. Ray must be running.

    `should_stop` is called after every iteration, and while the run waits for runners; if it returns true, the run is
    saved and ends. `on_finished` is called after every iteration with a function that saves the run as it was then. The
    function needs no other process, and may be called from a signal handler in the middle of the next iteration.
    `on_saved` is called whenever a checkpoint was saved, by that function too.

    Pass `spec` to avoid describing the backbone again. Pass `inherits`, a checkpoint of another run, to reuse its
    anchors if they are valid here too. Pass `starts_from` to start a new run from trained weights. Raises ValueError if
    the directory is in use, weights do not fit or the backbone cannot be walked so, RuntimeError if the run cannot go
    on.
    """
    with run_lock(run_directory):
        store = CheckpointStore(run_directory, settings.run.keep_checkpoints, on_saved)
        checkpoint = checkpoint_to_resume(settings.run.resume, store)
        spec = spec or describe(settings.wam)
        check_actions(settings.env, spec)
        check_backbone(settings, spec)
        rollout, plays = settings.rollout, {"groups", "validation"}.intersection(training_roles(settings))
        simulators = rollout.episodes_per_runner if plays else 0
        with ExitStack() as stack:
            room = stack.enter_context(reserve("rollout.runners", rollout, rollout.runners, should_stop, simulators))
            if room is None:
                done, latest = (checkpoint.iteration, checkpoint.path) if checkpoint else (0, None)
                return TrainingResult(done, latest, store.best_path, interrupted=True)
            built = stack.enter_context(running(ScheduleAlgorithmConfig.of(settings, spec, room)))
            if checkpoint is not None:
                go_on_from(checkpoint, built, store)
            else:
                if inherits is not None:
                    built.collector.inherit(read_checkpoint(inherits))
                if starts_from is not None:
                    start_from(built, starts_from)
            on_start(built.iteration)
            tracker = Tracker(run_directory, built.iteration, charts_of(settings))
            tracker.text("run/settings", f"```yaml\n{to_yaml(settings)}```", built.iteration)
            run = _Training(built, store, tracker, on_finished)
            return run.to_the_end(should_stop, on_iteration)


def checkpoint_to_resume(resume: str, store: CheckpointStore) -> Checkpoint | None:
    """Return the checkpoint to resume, or None.

    `auto` means the newest valid checkpoint, if there is one; `never` means none, and ValueError if there are some. Any
    other value is the directory of a checkpoint.
    """
    if resume == "auto":
        latest = store.latest_valid()
        if latest is None and store.paths():
            names = ", ".join(path.name for path in store.paths())
            raise CheckpointError(
                f"None of the checkpoints in {store.directory} can be used: {names}. "
                "Repair one, or go on with the code that wrote them; to start over, choose another run.name."
            )
        return latest
    if resume == "never":
        if store.paths():
            raise ValueError(f"{store.directory} holds checkpoints: choose another run.name, or run.resume=auto.")
        return None
    return read_checkpoint(Path(resume))


def is_finished(settings: Config, run_directory: Path, spec: WAMSpec) -> bool:
    """Whether nothing is left to do for `train`.

    Raises `CheckpointError` if no checkpoint can be used, or if the run was finished under other settings or on another
    backbone.
    """
    if settings.run.resume != "auto":
        return False
    store = CheckpointStore(run_directory)
    latest = checkpoint_to_resume("auto", store)
    if latest is None or latest.iteration < settings.run.iterations:
        return False
    check_finished(latest, settings, spec)
    return not validation_is_missing(settings, store, latest.iteration)


def go_on_from(checkpoint: Checkpoint, built: ScheduleAlgorithm, store: CheckpointStore) -> None:
    """Restore a checkpoint. From then on, the store holds only checkpoints of the course that led to it."""
    restore(built, checkpoint)
    if checkpoint.path is not None and checkpoint.path.resolve() == store.path_of(checkpoint.iteration).resolve():
        store.go_back_to(checkpoint.iteration)
    else:
        store.go_back_to(0)
        store.save(snapshot(built))


def validation_is_due(settings: Config, iteration: int) -> bool:
    """Whether the run validates after this iteration: every `validation.every` iterations, and after the last one."""
    every = settings.validation.every
    return every > 0 and (iteration % every == 0 or iteration >= settings.run.iterations)


def validation_is_missing(settings: Config, store: CheckpointStore, iteration: int) -> bool:
    """Whether a checkpoint lacks its validation, because the run was stopped before it."""
    path = store.path_of(iteration)
    return path.is_dir() and validation_is_due(settings, iteration) and path.name not in store.scores


class _Training:
    """The loop over the iterations of a run, with its checkpoints and metrics."""

    def __init__(
        self,
        built: ScheduleAlgorithm,
        store: CheckpointStore,
        tracker: Tracker,
        on_finished: Callable[[Callable[[], object]], None],
    ) -> None:
        self._algorithm, self._store, self._tracker = built, store, tracker
        self._on_finished = on_finished
        self._settings = built.settings

    def to_the_end(
        self, should_stop: Callable[[], bool], on_iteration: Callable[[int, Metrics], None]
    ) -> TrainingResult:
        stopped = False
        latest = self._store.path_of(self._algorithm.iteration)
        try:
            iteration = self._algorithm.iteration
            if validation_is_missing(self._settings, self._store, iteration):
                logger.warning("Validating iteration %d, after which the run was stopped", iteration)
                self._store.add_score(iteration, score_of(self._validate()))
            while self._algorithm.iteration < self._settings.run.iterations and not stopped:
                self._algorithm.train()
                metrics = dict(self._algorithm.latest_metrics)
                stopped = should_stop()
                latest = self._after_iteration(metrics, stopped) or latest
                on_iteration(self._algorithm.iteration, metrics)
        finally:
            self._tracker.close()
        return TrainingResult(self._algorithm.iteration, latest, self._store.best_path, stopped)

    def _validate(self) -> dict[str, float]:
        """Validate, and add the metrics to the record of this iteration."""
        begin = time.perf_counter()
        metrics = self._algorithm.validate()
        metrics["time/validation_s"] = time.perf_counter() - begin
        self._algorithm.draw(self._tracker)
        self._tracker.amend(self._algorithm.iteration, metrics)
        return metrics

    def _after_iteration(self, metrics: dict[str, float], stopped: bool) -> Path | None:
        """Log, validate and save, if they are due. Returns the new checkpoint, or None."""
        iteration, score = self._algorithm.iteration, None
        self._tracker.log(iteration, metrics)
        finished = snapshot(self._algorithm)
        self._on_finished(lambda: self._store.save(finished))
        last = stopped or iteration >= self._settings.run.iterations
        validated = validation_is_due(self._settings, iteration) and not stopped
        if validated:
            metrics |= self._validate()
            score = score_of(metrics)
        if not (validated or last or iteration % self._settings.run.checkpoint_every == 0):
            return None
        saved = self._store.save(snapshot(self._algorithm), score)
        self._on_finished(lambda: None)
        return saved


def score_of(metrics: Metrics) -> Score:
    """Convert the metrics of a validation to a score."""
    found = {name: metrics.get(f"validation/{name}") for name in ("success", "return", "updates")}
    episodes = sum(int(metrics.get(f"validation/outcome_{outcome}", 0)) for outcome in POLICY_OUTCOMES)
    return Score(found["success"], episodes, found["return"], found["updates"])
