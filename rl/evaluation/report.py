"""The results of an evaluation: success with intervals, paired differences and a table, from the episodes' ledgers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binomtest

from envs.ledger import Entry, Ledger, wilson_interval
from envs.outcomes import Outcome
from rl.evaluation.worker import Measurement

ALL = "all"  # the key of all tasks together


@dataclass(frozen=True)
class ScheduleRow:
    """The results of one schedule on one task or on all tasks. NaN means "not measured"."""

    success: float
    interval: tuple[float, float]  # the 95% Wilson interval
    episodes: int  # the number of episodes without a fault
    faults: int
    outcomes: dict[str, int]  # the outcomes of all episodes
    forwards_mean: float  # video forwards of a query, those of its planner included
    forwards_p95: float
    updates_mean: float
    latency_p50_ms: float = math.nan
    latency_p95_ms: float = math.nan
    action_error: float = math.nan  # the mean sequence error against demonstrations
    action_error_ratio: float = math.nan  # the same, divided by that of the reference schedule
    plan_forwards_mean: float = 0.0  # the forwards of the planner alone
    observe_p50_ms: float = math.nan  # encoding the observation, which the latency does not include
    plan_p50_ms: float = math.nan  # the parts of the latency
    video_p50_ms: float = math.nan
    action_p50_ms: float = math.nan
    broken_segments: int = 0  # the number of segments on which an action was not finite; then there is no error


@dataclass(frozen=True)
class Paired:
    """A schedule compared with the reference schedule, on the cells in which neither had a fault."""

    episodes: int
    only_this: int  # the episodes in which only this schedule succeeded
    only_reference: int  # the episodes in which only the reference succeeded
    difference: float  # the difference of the success rates
    p_value: float  # of the exact McNemar test


@dataclass(frozen=True)
class Comparison:
    """The results of an evaluation, by schedule and task. The task "all" stands for all tasks together."""

    rows: dict[str, dict[str, ScheduleRow]]
    paired: dict[str, dict[str, Paired]]  # without the reference schedule
    fingerprint: dict[str, Any]
    ledgers: dict[str, Any] = field(repr=False, default_factory=dict)
    measurements: dict[str, list[dict[str, Any]]] = field(repr=False, default_factory=dict)

    @property
    def reference(self) -> str:
        """The schedule with which the others are compared."""
        return str(self.fingerprint["evaluation"]["reference"])

    def to_json(self) -> dict[str, object]:
        """Convert to JSON values. NaN becomes null."""
        return {
            "rows": _plain_table(self.rows),
            f"paired_with_{self.reference.replace('-', '_')}": _plain_table(self.paired),
            "fingerprint": self.fingerprint,
            "what_the_columns_are": COLUMNS,
            "episodes": self.ledgers,
            "segments": self.measurements,
        }


COLUMNS = {
    "success": "closed-loop successes / episodes without a simulator fault, with the 95% Wilson interval; an episode "
    "with an action that is not finite (outcome not_finite) counts as not successful",
    "forwards": "video forwards of a query in closed loop, its planner's included, mean and 95th percentile",
    "latency": "ms of one walk and its action decode, batch 1, held-out segments; the observation was encoded before "
    "(observe); parts: plan (the initial noise), video, action",
    "action_error": "mean sequence error of the chunk against the demonstration on held-out segments",
    "action_error_ratio": "action_error divided by that of the reference schedule",
    "paired": "difference of success rates on the same seeds and initial noise; exact McNemar test",
}


def summarise(
    ledgers: Mapping[str, Ledger], measured: Mapping[str, Sequence[Measurement]], fingerprint: dict[str, Any]
) -> Comparison:
    """Compute all rows, for all tasks together and for each task. The fingerprint names the reference schedule."""
    tasks = {ALL: None} | {cell.task: cell.task for ledger in ledgers.values() for cell in ledger.entries()}
    compared_with = str(fingerprint["evaluation"]["reference"])
    reference = ledgers.get(compared_with)
    others = {name: ledger for name, ledger in ledgers.items() if name != compared_with}
    return Comparison(
        rows={
            name: {
                label: _row(ledger, measured.get(name, ()), measured.get(compared_with, ()), task)
                for label, task in tasks.items()
            }
            for name, ledger in ledgers.items()
        },
        paired={
            name: {label: pair(ledger, reference, task) for label, task in tasks.items()}
            for name, ledger in others.items()
            if reference is not None
        },
        fingerprint=fingerprint,
        ledgers={name: ledger.to_json() for name, ledger in ledgers.items()},
        measurements={name: [asdict(one) for one in measurements] for name, measurements in measured.items()},
    )


def _row(
    ledger: Ledger, measured: Sequence[Measurement], reference: Sequence[Measurement], task: str | None
) -> ScheduleRow:
    entries = [entry for cell, entry in ledger.entries().items() if task in (None, cell.task)]
    counted = [entry for entry in entries if not entry.outcome.is_fault]
    successes = sum(entry.outcome is Outcome.success for entry in counted)
    own = _of_task(measured, task)
    errors = _mean([_error(one) for one in own])
    reference_errors = _mean([_error(one) for one in _of_task(reference, task)])
    latency = [one.latency_ms for one in own]
    forwards = _queries(counted, "forwards")
    return ScheduleRow(
        success=successes / len(counted) if counted else math.nan,
        interval=wilson_interval(successes, len(counted)),
        episodes=len(counted),
        faults=len(entries) - len(counted),
        outcomes=dict(Counter(str(entry.outcome) for entry in entries)),
        forwards_mean=_mean(forwards),
        forwards_p95=_quantile(forwards, 0.95),
        updates_mean=_mean(_queries(counted, "updates")),
        latency_p50_ms=_quantile(latency, 0.5),
        latency_p95_ms=_quantile(latency, 0.95),
        action_error=errors,
        action_error_ratio=errors / reference_errors if reference_errors else math.nan,
        plan_forwards_mean=_mean(_queries(counted, "plan_forwards") or [0.0]),
        observe_p50_ms=_quantile([one.observe_ms for one in own if one.observe_ms is not None], 0.5),
        plan_p50_ms=_quantile([one.plan_ms for one in own if one.plan_ms is not None], 0.5),
        video_p50_ms=_quantile([one.video_ms for one in own if one.video_ms is not None], 0.5),
        action_p50_ms=_quantile([one.action_ms for one in own if one.action_ms is not None], 0.5),
        broken_segments=sum(one.sequence_error is None for one in own),
    )


def pair(ledger: Ledger, reference: Ledger, task: str | None = None) -> Paired:
    """Compare two ledgers on the cells in which neither has a fault. `task` limits the comparison to one task."""
    ours, theirs = ledger.entries(), reference.entries()
    both = [cell for cell in ours if cell in theirs and task in (None, cell.task)]
    both = [cell for cell in both if not (ours[cell].outcome.is_fault or theirs[cell].outcome.is_fault)]
    wins = [(ours[cell].outcome is Outcome.success, theirs[cell].outcome is Outcome.success) for cell in both]
    only_this, only_reference = wins.count((True, False)), wins.count((False, True))
    split = only_this + only_reference
    p_value = float(binomtest(only_this, split).pvalue) if split else 1.0
    difference = (only_this - only_reference) / len(both) if both else math.nan
    return Paired(len(both), only_this, only_reference, difference, p_value)


def comparison_table(comparison: Comparison, task: str = ALL) -> Table:
    """Return the table of one task, or of all tasks together, for a rich console."""
    quick = " [QUICK: supports no conclusion]" if comparison.fingerprint.get("quick") else ""
    table = Table(title=f"{'all tasks' if task == ALL else task}{quick}")
    table.add_column("schedule")
    columns = (
        "success (n, 95%)",
        "forwards mean / p95",
        "latency ms p50 / p95",
        f"action error vs {comparison.reference}",
        f"vs {comparison.reference}",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, rows in comparison.rows.items():
        if task in rows:
            row = rows[task]
            table.add_row(name, *_cells(row), versus_cell(comparison.paired.get(name, {}).get(task)))
    return table


def success_cell(row: ScheduleRow) -> str:
    """Return the success rate with its number of episodes and its interval."""
    low, high = row.interval
    faults = f", {row.faults} faults" if row.faults else ""
    broken = f", {count} not finite" if (count := row.outcomes.get(Outcome.not_finite, 0)) else ""
    return f"{row.success:.1%} (n={row.episodes}, {low:.0%}-{high:.0%}{faults}{broken})"


def _cells(row: ScheduleRow) -> tuple[str, ...]:
    error = "-" if math.isnan(row.action_error_ratio) else f"{row.action_error_ratio:.3f}"
    planned = f" ({row.plan_forwards_mean:.0f} plan)" if row.plan_forwards_mean else ""
    planning = f" ({row.plan_p50_ms:.0f} plan)" if row.plan_forwards_mean else ""
    return (
        success_cell(row),
        f"{row.forwards_mean:.1f} / {row.forwards_p95:.0f}{planned}",
        "-" if math.isnan(row.latency_p50_ms) else f"{row.latency_p50_ms:.0f} / {row.latency_p95_ms:.0f}{planning}",
        f"{row.broken_segments} not finite" if row.broken_segments else error,
    )


def versus_cell(paired: Paired | None) -> str:
    """Return the difference from the reference with its p; an empty text if there is none."""
    if paired is None:
        return ""
    digits = ".2f" if paired.p_value >= 0.01 else ".1g"
    return f"{paired.difference:+.1%} (p={paired.p_value:{digits}})"


def _queries(entries: Sequence[Entry], name: str) -> list[float]:
    return [float(count) for entry in entries for count in entry.details.get(name, [])]


def _of_task(measured: Sequence[Measurement], task: str | None) -> list[Measurement]:
    return [one for one in measured if task in (None, one.task)]


def _error(one: Measurement) -> float:
    return math.nan if one.sequence_error is None else one.sequence_error


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _quantile(values: Sequence[float], level: float) -> float:
    return float(np.quantile(values, level)) if len(values) else math.nan


def _plain_table(table: Mapping[str, Mapping[str, ScheduleRow | Paired]]) -> dict[str, dict[str, dict[str, object]]]:
    """Convert a table to JSON values. NaN becomes None."""
    return {name: {task: without_nan(asdict(entry)) for task, entry in tasks.items()} for name, tasks in table.items()}


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, also those of mappings among them, with None in the place of NaN, which JSON lacks."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return without_nan(value)
        return None if isinstance(value, float) and math.isnan(value) else value

    return {key: plain(value) for key, value in values.items()}
