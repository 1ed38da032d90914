"""Whether a schedule adapts, from the episodes of an evaluation, and the constant schedule that it has to beat.

The variance of the updates over all queries, and that of the terminal depths, is divided by what could explain it. A
*task* is known before an episode, the *query* is its index in the episode, and the *phase* is the third of the episode
in which it lies. Phases need the length of the episode, which nobody knows before its end: episodes that fail are long.
What no combination of the three explains is left to what the schedule sees at that moment: the state, and the initial
noise of the query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from envs.ledger import Ledger, StoredCell, StoredLedger
from rl.evaluation.report import ALL, Comparison, ScheduleRow, summarise, without_nan

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

BEST, BEST_BY_TASK = "the best constant", "the best constant of each task"
PHASES = 3
QUANTILES = (0.1, 0.9)


@dataclass(frozen=True)
class Queries:
    """All queries of one schedule, without those of episodes that ended with a fault. Indices and counts: int64 [N]."""

    tasks: list[str]  # the names of the tasks
    task: IntArray  # the index in `tasks`
    episode: IntArray
    index: IntArray  # from 0, in the episode
    phase: IntArray  # 0, 1 or 2: the third of the episode
    updates: IntArray
    forwards: IntArray
    depths: FloatArray | None  # float64 [N], from 0 to 1, where the action last read; None: not noted of every query

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        entries = {cell: entry for cell, entry in ledger.entries().items() if not entry.outcome.is_fault}
        tasks = sorted({cell.task for cell in entries})
        rows = [
            (tasks.index(cell.task), episode, index, PHASES * index // len(entry.details["updates"]), updates, forwards)
            for episode, (cell, entry) in enumerate(entries.items())
            for index, (updates, forwards) in enumerate(
                zip(entry.details["updates"], entry.details["forwards"], strict=True)
            )
        ]
        depths = [depth for entry in entries.values() for depth in entry.details.get("depths", ())]
        noted = np.array(depths) if len(depths) == len(rows) else None
        task, episode, index, phase, updates, forwards = np.array(rows, dtype=np.int64).reshape(-1, 6).T
        return cls(tasks, task, episode, index, phase, updates, forwards, noted)

    def __len__(self) -> int:
        return len(self.updates)


@dataclass(frozen=True)
class AtQuery:
    """The updates of a task's episodes at one query index."""

    episodes: int
    mean: float
    low: float  # the 10% quantile
    high: float  # the 90% quantile


@dataclass(frozen=True)
class Variance:
    """The variance of a number over all queries, and the shares of it, from 0 to 1, that something explains.

    The shares of task, query and phase overlap: each is what that one explains alone. All are NaN without a query, and
    where every group holds a single query; all are 0 for a constant.
    """

    mean: float
    variance: float
    by_task: float
    by_query: float
    by_phase: float
    by_all: float  # what task, query and phase explain together
    by_state: float  # the rest


@dataclass(frozen=True)
class Adaptivity:
    """The differences between the walks of one schedule."""

    queries: int
    forwards_mean: float
    updates: Variance
    depth: Variance | None  # of the terminal depths; None: an older evaluation did not note them
    by_query: dict[str, list[AtQuery]]  # the updates by task, for each query index

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values. NaN becomes null."""
        return without_nan(asdict(self))


def adaptivity(ledger: Ledger) -> Adaptivity:
    """Divide the variance of the updates and of the terminal depths of one schedule."""
    rows = Queries.of(ledger)
    return Adaptivity(
        queries=len(rows),
        forwards_mean=float(rows.forwards.mean()) if len(rows) else math.nan,
        updates=_variance(rows.updates, rows),
        depth=None if rows.depths is None else _variance(rows.depths, rows),
        by_query={name: _at_queries(rows, task) for task, name in enumerate(rows.tasks)},
    )


def _variance(values: IntArray | FloatArray, rows: Queries) -> Variance:
    together = explained(values, rows.task, rows.index, rows.phase)
    varies = len(set(values.tolist())) > 1
    return Variance(
        mean=float(values.mean()) if len(values) else math.nan,
        variance=float(values.var(ddof=1)) if varies else 0.0,
        by_task=explained(values, rows.task),
        by_query=explained(values, rows.index),
        by_phase=explained(values, rows.phase),
        by_all=together,
        by_state=1 - together if varies else together,
    )


def explained(values: IntArray | FloatArray, *groupings: IntArray) -> float:
    """Return the share of the variance of `values` [N] between the groups that all groupings [N] together make.

    It is epsilon squared: what so many groups explain of random numbers is subtracted. 0 if all values are equal; NaN
    without values, or if every group holds a single one.
    """
    if len(values) == 0:
        return math.nan
    if values.min() == values.max():
        return 0.0
    total = float(((values - values.mean()) ** 2).sum())
    _, group = np.unique(np.stack(groupings), axis=1, return_inverse=True)
    counts = np.bincount(group.ravel())
    if len(counts) == len(values):
        return math.nan
    means = np.bincount(group.ravel(), weights=values) / counts
    within = float(((values - means[group.ravel()]) ** 2).sum())
    return max(0.0, 1 - (within / (len(values) - len(counts))) / (total / (len(values) - 1)))


def _at_queries(rows: Queries, task: int) -> list[AtQuery]:
    found: list[AtQuery] = []
    for index in range(int(rows.index[rows.task == task].max(initial=-1)) + 1):
        updates = rows.updates[(rows.task == task) & (rows.index == index)]
        low, high = np.quantile(updates, QUANTILES).tolist()
        found.append(AtQuery(len(updates), float(updates.mean()), low, high))
    return found


def best_constant(rows: Mapping[str, ScheduleRow], most_forwards: float) -> str | None:
    """Return the row of the highest success whose mean forwards are at most `most_forwards`; the cheaper of equals.

    None if no row with a result is so cheap.
    """
    affordable = [
        name for name, row in rows.items() if row.forwards_mean <= most_forwards + 1e-9 and not math.isnan(row.success)
    ]
    return max(affordable, key=lambda name: (rows[name].success, -rows[name].forwards_mean), default=None)


def best_by_task(rows: Mapping[str, Mapping[str, ScheduleRow]]) -> dict[str, str]:
    """Return the best of `rows`, by schedule and task, for each task and for ALL, whatever it costs.

    A task of which no row has a result is left out.
    """
    tasks = next(iter(rows.values()))
    found = {task: best_constant({name: of[task] for name, of in rows.items()}, math.inf) for task in tasks}
    return {task: name for task, name in found.items() if name is not None}


def not_played(ledgers: Mapping[str, Ledger], best: Mapping[str, str]) -> list[str]:
    """Return the rows that `bounds` needs and that `ledgers` do not hold for every task."""
    played = {(name, cell.task) for name, ledger in ledgers.items() for cell in ledger.cells}
    wanted = [(name, task) for task in best if task != ALL for name in (best[ALL], best[task])]
    return list(dict.fromkeys(name for name, task in wanted if (name, task) not in played))


def bounds(ledgers: Mapping[str, Ledger], best: Mapping[str, str]) -> Comparison:
    """Compare the best constant with the best constant of each task on the same episodes: what the task alone gives.

    `best`, as `best_by_task` returns it, was chosen on other episodes than those of `ledgers`, which hold all its rows.
    """
    tasks = best.keys() - {ALL}
    chosen = {BEST: dict.fromkeys(tasks, best[ALL]), BEST_BY_TASK: {task: best[task] for task in tasks}}
    joined = {label: _joined(ledgers, choice) for label, choice in chosen.items()}
    return summarise(joined, {}, {"evaluation": {"reference": BEST}})


def _joined(ledgers: Mapping[str, Ledger], choice: Mapping[str, str]) -> Ledger:
    """Return the episodes of each task under the schedule that was chosen for it."""
    cells = [
        StoredCell(*cell, entry.attempts, entry)
        for task, name in sorted(choice.items())
        for cell, entry in ledgers[name].entries().items()
        if cell.task == task
    ]
    return Ledger.of(StoredLedger(0, cells))
