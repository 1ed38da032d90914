"""Progress bars with the most important numbers. Without a terminal, a plain line is printed from time to time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from launch.shell.console import console

PLAIN_EVERY_S = 15.0
OUTCOMES = ("path/outcome_", "episode/outcome_")
NO_FAULTS = ("completed", "success", "step_limit")


class LiveBar:
    """The base of all bars. A bar is shown during its `with` block, and only on a terminal."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._spoke_at = time.monotonic()
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _speak(self, line: str, now: bool) -> None:
        """Without a terminal, print the line if enough time has passed since the last one, or if `now` is true."""
        if not console.is_terminal and (now or time.monotonic() - self._spoke_at > PLAIN_EVERY_S):
            self._spoke_at = time.monotonic()
            console.print(line)


class TrainingProgress(LiveBar):
    """Shows iteration, return, updates of a path, validation success, KL and the remaining time."""

    def __init__(self, iterations: int) -> None:
        super().__init__(
            TextColumn("iteration", markup=False),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
        )
        self._iterations = iterations
        self._success = "-"
        self._spoke_at = 0.0
        self._task = self._bar.add_task("starting", total=iterations)

    def begin(self, iteration: int) -> None:
        """Show the start of a run, or its resume after `iteration` iterations."""
        if iteration:
            console.print(f"resumed after iteration {iteration}")
        self._bar.update(self._task, completed=iteration, description="first experience")
        self._speak("ready; the first iteration also measures what the rewards compare with", now=True)
        self._spoke_at = 0.0  # the first iteration is spoken of at once

    def advance(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of an iteration."""
        validated = "validation/success" in metrics
        if validated:
            self._success = f"{metrics['validation/success']:.0%}"
        text = metrics_line(metrics, self._success)
        self._bar.update(self._task, completed=iteration, description=text)
        faults = outcome_faults(metrics)
        if faults:
            console.print(f"iteration {iteration}: masked {faults}")
        self._speak(f"iteration {iteration}/{self._iterations}  {text}", validated or iteration == self._iterations)


class EvaluationProgress(LiveBar):
    """Shows the episodes counted of each schedule."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description:<11}", markup=False), BarColumn(bar_width=20), MofNCompleteColumn()
        )
        self._rows: dict[str, TaskID] = {}

    def advance(self, schedule: str, counted: int, wanted: int) -> None:
        if schedule not in self._rows:
            self._rows[schedule] = self._bar.add_task(schedule, total=wanted)
        self._bar.update(self._rows[schedule], completed=counted)
        self._speak(f"{schedule}: {counted}/{wanted} episodes", counted == wanted)


class SeedProgress(LiveBar):
    """Shows the accepted and the needed seeds of each task and role, and why others were refused."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description:<32}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[why]}", markup=False),
        )
        self._rows: dict[str, TaskID] = {}

    def advance(self, name: str, accepted: int, wanted: int, refused: Mapping[str, int]) -> None:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
        if name not in self._rows:
            self._rows[name] = self._bar.add_task(name, total=wanted, why=why)
        self._bar.update(self._rows[name], completed=accepted, why=why)
        self._speak(f"{name}: {accepted}/{wanted} accepted; {why or 'none refused'}", accepted == wanted)


class StageProgress(LiveBar):
    """Shows the steps of one stage and its latest loss."""

    def __init__(self, title: str, total: int) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
        )
        self._title = title
        self._task = self._bar.add_task(title, total=total, loss="")

    def advance(self, done: int, total: int, loss: float | None = None) -> None:
        text = "" if loss is None else f"loss {loss:.4f}"
        self._bar.update(self._task, completed=done, total=total, loss=text)
        self._speak(f"{self._title}: {done}/{total} {text}", done == total)


def metrics_line(metrics: Mapping[str, float], success: str) -> str:
    """Return one line with the most important metrics of an iteration. `success` is that of the last validation."""
    shown = (
        ("return", "reward/return", "+.3f"),
        ("updates", "path/updates", ".2f"),
        ("solved", "episode/success", ".0%"),
        ("informative groups", "group/informative", ".0%"),
        ("KL", "learner/approximate_kl", ".4f"),
    )
    parts = [f"{label} {metrics[key]:{form}}" for label, key, form in shown if key in metrics]
    return "  ".join([*parts, f"success {success}", f"{metrics.get('time/iteration_s', 0.0):.1f} s"])


def outcome_faults(metrics: Mapping[str, float]) -> str:
    """Return the numbers of masked paths or episodes of an iteration, by kind of fault."""
    kinds = {key.partition("/outcome_")[2]: count for key, count in metrics.items() if key.startswith(OUTCOMES)}
    return ", ".join(f"{count:.0f} {kind}" for kind, count in sorted(kinds.items()) if kind not in NO_FAULTS)
