"""How well predicted returns agree with true ones: rank correlation, calibration, and who is told apart from whom.

Shapes: N predictions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr

BINS = 8  # of a calibration

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Bin:
    """The predictions between two quantiles."""

    count: int
    predicted: float  # the mean prediction
    true: float  # the mean true return


@dataclass(frozen=True)
class Agreement:
    """The agreement of predicted with true returns. NaN: it cannot be told from these predictions."""

    count: int
    rank_correlation: float  # Spearman's
    rank_correlation_failures: float  # the same among futures of episodes that failed
    auc: float  # the chance that a future of a success is rated above one of a failure
    bins: list[Bin]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def agreement(predicted: Array, true: Array, succeeded: npt.NDArray[np.bool_]) -> Agreement:
    """Compare predicted with true returns [N] of futures whose episodes succeeded or not, bool [N]."""
    return Agreement(
        len(true),
        rank_correlation(predicted, true),
        rank_correlation(predicted[~succeeded], true[~succeeded]),
        auc(predicted, succeeded),
        calibration(predicted, true),
    )


def rank_correlation(predicted: Array, true: Array) -> float:
    """Return Spearman's rank correlation; NaN for fewer than two pairs, or if one side is constant."""
    if len(true) < 2 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return math.nan
    return float(spearmanr(predicted, true).statistic)


def auc(scores: Array, positive: npt.NDArray[np.bool_]) -> float:
    """Return the chance that a positive has a higher score than a negative; ties count half. NaN if one is missing."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return math.nan
    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * others))


def auc_within(groups: Sequence[tuple[Array, npt.NDArray[np.bool_]]]) -> float:
    """Return the chance that, of a positive and a negative of the same group, the positive has the higher score.

    All such pairs count alike. A group is its scores and which of them are positive. NaN if there is no pair.
    """
    pairs = [int(positive.sum()) * int((~positive).sum()) for _, positive in groups]
    if not sum(pairs):
        return math.nan
    areas = [auc(*group) for group, count in zip(groups, pairs, strict=True) if count]
    return float(np.average(areas, weights=[count for count in pairs if count]))


def calibration(predicted: Array, true: Array) -> list[Bin]:
    """Return the mean prediction and the mean true return of `BINS` groups of equal size, by prediction."""
    order = np.argsort(predicted, kind="stable")
    groups = [group for group in np.array_split(order, BINS) if len(group)]
    return [Bin(len(group), float(predicted[group].mean()), float(true[group].mean())) for group in groups]
