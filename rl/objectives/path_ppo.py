"""Path-level PPO (SANTS 3.3, Appendix D): all decisions of a path share one probability ratio."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from configs.fields import setting
from configs.schema import ObjectiveConfig
from policies.learning import Charts, Evaluation
from rl.experience.rollouts import FloatArray, IntArray, Rollouts
from rl.objective import OBJECTIVES, Clock, Loss, Objective, clipped_loss


@dataclass
class PathPPOConfig(ObjectiveConfig):
    """The settings of path-level PPO."""

    name: str = setting("path_ppo", choices=("path_ppo",))
    minibatch_paths: int = setting(64, at_least=1)
    # P: moving_average. `others`: the mean of the other paths of the group (needs collector.paths_per_segment above 1).
    baseline: str = setting("moving_average", choices=("moving_average", "others"))
    baseline_decay: float = setting(0.99, at_least=0, at_most=1)  # the decay of the moving average
    reference_kl_start: float = setting(0.01, at_least=0)
    reference_kl_end: float = setting(0.001, at_least=0)
    entropy_weight: float = setting(0.0, at_least=0)  # P: no entropy bonus


def reference_kl_weight(progress: float, config: PathPPOConfig) -> float:
    """Return the weight of the divergence when `progress` of the training is done. It changes linearly."""
    start, end = config.reference_kl_start, config.reference_kl_end
    return start + min(max(progress, 0.0), 1.0) * (end - start)


def advance_baseline(baseline: float | None, returns: FloatArray, decay: float) -> float:
    """Update the exponential moving average by the returns of a batch, one by one.

    The first batch starts it at its mean. Raises ValueError for an empty batch.
    """
    if len(returns) == 0:
        raise ValueError("no returns to average: every path of the batch failed")
    value = float(np.mean(returns)) if baseline is None else baseline
    for path_return in returns:
        value = decay * value + (1 - decay) * float(path_return)
    return value


def leave_one_out(returns: FloatArray, groups: Sequence[Hashable]) -> FloatArray:
    """Return for every path the mean of the others in its group, from and to [N, Q]; its own if there are no others."""
    index = _numbered(groups)
    total, count = _sums(index, returns)[index], np.bincount(index)[index, None]
    return np.where(count > 1, (total - returns) / np.maximum(count - 1, 1), returns)


def _sums(index: IntArray, values: FloatArray) -> FloatArray:
    """Add up the rows [N, Q] of the same index, in order."""
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def _numbered(keys: Sequence[Hashable]) -> IntArray:
    """Number the keys [N] by their first appearance: equal keys get equal numbers."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


@OBJECTIVES.register("path_ppo")
class PathPPO(Objective[PathPPOConfig]):
    """Compares each path with a moving average of the returns, or with the other paths of its group."""

    settings_type = PathPPOConfig
    charts: ClassVar[Charts] = {"2 policy": {"KL": ["Multiline", ["learner/approximate_kl", "learner/reference_kl"]]}}

    def __init__(self, settings: PathPPOConfig) -> None:
        super().__init__(settings)
        self.baseline: float | None = None

    def advantages(self, rollouts: Rollouts, returns: FloatArray) -> FloatArray:
        """Return the advantages [N, Q]. This also updates the moving average, whichever baseline is used."""
        path = _numbered(rollouts.names)  # the ends of one path have its name
        expected = _sums(path, rollouts.weights[:, None] * returns)  # of each path
        compared: FloatArray | float
        if self.settings.baseline == "others":
            groups = dict(zip(path.tolist(), rollouts.groups, strict=True))
            compared = leave_one_out(expected, list(groups.values()))[path]
        else:
            compared = float(expected.mean()) if self.baseline is None else self.baseline
        self.baseline = advance_baseline(self.baseline, expected.mean(axis=1), self.settings.baseline_decay)
        share = rollouts.weights * len(rollouts) / len(expected)  # in the mean over a batch
        return share[:, None] * (returns - compared)

    def minibatch(self, rollouts: Rollouts) -> int:
        ends = len(rollouts) / rollouts.weights.sum()  # of each path
        return min(round(self.settings.minibatch_paths * ends), len(rollouts))

    def loss(self, evaluation: Evaluation, advantage: Tensor, clock: Clock) -> Loss:
        return clipped_loss(
            evaluation,
            advantage,
            self.settings,
            divergence_weight=reference_kl_weight(clock.progress, self.settings),
            entropy_weight=self.settings.entropy_weight,
        )

    def state(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def restore(self, state: dict[str, Any]) -> None:
        self.baseline = state["baseline"]

    def metrics(self) -> dict[str, float]:
        return {} if self.baseline is None else {"reward/baseline": self.baseline}
