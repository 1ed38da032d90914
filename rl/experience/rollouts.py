"""Rollouts are paths or episodes. Rewards score them, and objectives learn from them.

Shapes: N rollouts, Q queries of a rollout, K decisions of a rollout, F future frames.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from policies.trace import Trace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

PATH_ERRORS = ("path_seq", "path_dif")
ANCHOR_ERRORS = ("shallow_seq", "shallow_dif", "full_seq", "full_dif")


@dataclass
class Rollouts:
    """N rollouts. Rollout i owns `lengths[i]` consecutive entries of `trace` and `queries`.

    A path is one walk from a demonstration's state. An episode makes one walk at every query. NaN means "not measured".
    """

    names: list[str]  # names for messages
    groups: list[Hashable]  # rollouts of the same group had the same start and may be compared
    outcomes: list[str]
    lengths: IntArray  # [N]: the number of decisions
    queries: IntArray  # [sum of lengths]: the query, from 0, to which each decision belongs
    trace: Trace | None  # [sum of lengths, ...] each; None if no rollout has a decision
    updates: FloatArray  # [N]: the updates of a path, or the mean over the walks of an episode
    forwards: FloatArray  # [N]: the video forwards, likewise
    walks: list[IntArray]  # [Q, 2] each: updates and forwards of every walk of an episode; [0, 2] for a path
    success: FloatArray  # [N]: 1 or 0 for an episode
    errors: FloatArray  # [N, 2]: the errors of a path against the demonstration, with the columns PATH_ERRORS
    anchors: FloatArray  # [N, 4]: the errors of the two anchors, with the columns ANCHOR_ERRORS
    levels: list[npt.NDArray[np.float32]]  # [updates + 1, F] each: the video's noise levels on the first walk
    weights: FloatArray  # [N]: how much each counts in a mean; 1, or the probability of one of several ends of a path
    prefix_errors: FloatArray  # [sum of lengths, 2]: the errors, had the path stopped at each decision; or [0, 2]

    @classmethod
    def empty(cls, names: Sequence[str], groups: Sequence[Hashable], outcome: str) -> Rollouts:
        """Return rollouts without any data."""
        count = len(names)
        return cls(
            names=list(names),
            groups=list(groups),
            outcomes=[outcome] * count,
            lengths=np.zeros(count, dtype=np.int64),
            queries=np.zeros(0, dtype=np.int64),
            trace=None,
            updates=np.full(count, np.nan),
            forwards=np.full(count, np.nan),
            walks=[np.zeros((0, 2), dtype=np.int64)] * count,
            success=np.full(count, np.nan),
            errors=np.full((count, len(PATH_ERRORS)), np.nan),
            anchors=np.full((count, len(ANCHOR_ERRORS)), np.nan),
            levels=[np.ones((1, 1), dtype=np.float32) for _ in range(count)],
            weights=np.ones(count),
            prefix_errors=np.empty((0, len(PATH_ERRORS))),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def most_queries(self) -> int:
        """The number of queries Q of the rollout that has the most of them; at least 1."""
        return int(self.queries.max(initial=0)) + 1

    def where(self, mask: npt.NDArray[np.bool_] | Sequence[bool]) -> Rollouts:
        """Return the rollouts for which the mask is true, in order."""
        return self.select(np.flatnonzero(mask))

    def select(self, rows: Sequence[int] | IntArray) -> Rollouts:
        """Return the rollouts at these indices, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        starts = np.cumsum(self.lengths) - self.lengths
        inner = [np.arange(starts[row], starts[row] + self.lengths[row]) for row in index]
        flat = np.concatenate(inner) if inner else np.empty(0, dtype=np.int64)
        return Rollouts(
            names=[self.names[row] for row in index],
            groups=[self.groups[row] for row in index],
            outcomes=[self.outcomes[row] for row in index],
            lengths=self.lengths[index],
            queries=self.queries[flat],
            trace=None if self.trace is None else self.trace.select(torch.from_numpy(flat)),
            updates=self.updates[index],
            forwards=self.forwards[index],
            walks=[self.walks[row] for row in index],
            success=self.success[index],
            errors=self.errors[index],
            anchors=self.anchors[index],
            levels=[self.levels[row] for row in index],
            weights=self.weights[index],
            prefix_errors=self.prefix_errors[flat] if len(self.prefix_errors) else self.prefix_errors,
        )

    def traces(self) -> list[Trace]:
        """Return one trace [K, ...] for each rollout, or an empty list if no rollout has a decision."""
        if self.trace is None:
            return []
        lengths = self.lengths.tolist()
        columns = {name: values.split(lengths) for name, values in self.trace.columns().items()}
        kind = type(self.trace)
        return [kind(**{name: parts[row] for name, parts in columns.items()}) for row in range(len(self))]

    def per_decision(self, values: FloatArray) -> npt.NDArray[np.float32]:
        """Spread the values of queries [N, Q] over their decisions: float32 [N, K], 0 where a rollout has ended."""
        spread = np.zeros((len(self), int(self.lengths.max(initial=1))), dtype=np.float32)
        ends = np.cumsum(self.lengths)
        for row, (end, length) in enumerate(zip(ends, self.lengths, strict=True)):
            spread[row, :length] = values[row, self.queries[end - length : end]]
        return spread


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """Concatenate one or more parts, in order."""
    traces = [part.trace for part in parts if part.trace is not None]
    return Rollouts(
        names=[name for part in parts for name in part.names],
        groups=[group for part in parts for group in part.groups],
        outcomes=[outcome for part in parts for outcome in part.outcomes],
        lengths=np.concatenate([part.lengths for part in parts]),
        queries=np.concatenate([part.queries for part in parts]),
        trace=type(traces[0]).join(traces) if traces else None,
        updates=np.concatenate([part.updates for part in parts]),
        forwards=np.concatenate([part.forwards for part in parts]),
        walks=[walks for part in parts for walks in part.walks],
        success=np.concatenate([part.success for part in parts]),
        errors=np.concatenate([part.errors for part in parts]),
        anchors=np.concatenate([part.anchors for part in parts]),
        levels=[levels for part in parts for levels in part.levels],
        weights=np.concatenate([part.weights for part in parts]),
        prefix_errors=np.concatenate([part.prefix_errors for part in parts]),
    )


def weighted_mean(values: FloatArray, weights: FloatArray) -> float:
    """Return the mean of values [N] with weights [N]."""
    return float(np.mean(values * weights) / np.mean(weights))


def count_outcomes(outcomes: Iterable[str]) -> dict[str, int]:
    """Count the outcomes, in the order in which they first appear."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[str(outcome)] = counts.get(str(outcome), 0) + 1
    return counts
