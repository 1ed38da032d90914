"""Group-relative policy optimisation (NoiseGate 4.4): the rollouts of a group are compared with each other.

Shapes: G groups, M rollouts of a group, Q queries (walks) of a rollout.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from configs.fields import setting
from configs.schema import ObjectiveConfig
from policies.learning import Charts, Evaluation
from rl.experience.rollouts import FloatArray, IntArray, Rollouts
from rl.objective import OBJECTIVES, Clock, Loss, Objective, clipped_loss

STD_FLOOR = 1e-6


@dataclass
class GRPOConfig(ObjectiveConfig):
    """The settings of GRPO on the success of episodes (NoiseGate 4.4, Table 3)."""

    name: str = setting("grpo", choices=("grpo",))
    ratio: str = setting("choice", choices=("path", "decision", "choice"))  # P: choice (a latent frame at a step)
    minibatch_decisions: int = setting(256, at_least=1)  # C: about so many decisions, of whole episodes
    # P: group. `playing`: at every query, only the members that have not ended are compared.
    baseline: str = setting("group", choices=("group", "playing"))
    # P: group. `none`: advantages are not divided by the spread of their group.
    scale: str = setting("group", choices=("group", "none"))
    entropy_weight: float = setting(0.01, at_least=0)  # P
    entropy_decay: float = setting(0.999, at_least=0, at_most=1)  # P: the factor of each update
    max_equal_iterations: int = setting(25, at_least=1, free=True)  # the run ends after so many without unequal groups


def informative(returns: FloatArray) -> npt.NDArray[np.bool_]:
    """bool [G]: whether the returns [G, M, Q] of each group differ. Equal returns give no gradient."""
    return (returns != returns[:, :1]).any(axis=(1, 2))


def group_advantages(returns: FloatArray, queries: IntArray, baseline: str, scale: str) -> FloatArray:
    """Return the advantages [G, M, Q]: `(R - mean) / (std + 1e-6)` within each group (Eq. 7).

    `returns` [G, M, Q] are what the decisions of each query earned; Q may be 1 if that is the same for all queries.
    `queries` [G, M] is the number of queries of each rollout; later queries get 0. With the baseline `group`, as in the
    paper, all decisions of an episode get the same value. But failures last longer than successes, so late queries are
    only blamed. The baseline `playing` subtracts the mean over the members that still play, as a state value would do.
    The scale `none` does not divide by the spread, so that a cost weighs the same in a group in which all succeeded.
    """
    spread = returns.std(axis=1, keepdims=True) + STD_FLOOR if scale == "group" else 1.0
    playing = np.arange(queries.max()) < queries[:, :, None]
    compared = playing if baseline == "playing" else np.ones_like(playing)
    members = np.maximum(compared.sum(axis=1, keepdims=True), 1)
    mean = (returns * compared).sum(axis=1, keepdims=True) / members
    return np.where(playing & informative(returns)[:, None, None], (returns - mean) / spread, 0.0)


def entropy_weight(updates: int, config: GRPOConfig) -> float:
    """Return the weight of the entropy bonus after `updates` updates. It decays exponentially."""
    return float(config.entropy_weight * config.entropy_decay**updates)


def rows_of_groups(groups: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Return the rows of each group. The groups have the order in which they appear."""
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return rows


@OBJECTIVES.register("grpo")
class GRPO(Objective[GRPOConfig]):
    """Compares each rollout with the mean of its group, in units of the group's standard deviation."""

    settings_type = GRPOConfig
    charts: ClassVar[Charts] = {
        "2 policy": {"KL": ["Multiline", ["learner/approximate_kl"]], "entropy": ["Multiline", ["learner/entropy"]]}
    }

    def __init__(self, settings: GRPOConfig) -> None:
        super().__init__(settings)
        self._equal_iterations = 0

    def learnable(self, rollouts: Rollouts, returns: FloatArray) -> IntArray:
        """Return the rows of the groups whose returns differ."""
        kept = [
            row
            for rows in rows_of_groups(rollouts.groups).values()
            if informative(returns[rows][None])[0]
            for row in rows
        ]
        self._equal_iterations = 0 if kept else self._equal_iterations + 1
        return np.array(kept, dtype=np.int64)

    def why_nothing_is_learned(self) -> str:
        if self._equal_iterations < self.settings.max_equal_iterations:
            return ""
        return (
            f"{self._equal_iterations} iterations in a row had no group of unequal return: choose env.tasks of which "
            "the untrained schedule solves between 20% and 80%, or raise collector.per_iteration, collector.size or "
            "collector.resample_budget."
        )

    def advantages(self, rollouts: Rollouts, returns: FloatArray) -> FloatArray:
        ends = np.cumsum(rollouts.lengths)
        played = zip(ends, rollouts.lengths, strict=True)
        queries = np.array([int(rollouts.queries[end - 1]) + 1 if length else 0 for end, length in played])
        advantages = np.zeros((len(rollouts), int(queries.max(initial=1))))
        for rows in rows_of_groups(rollouts.groups).values():
            last = queries[rows].max()
            given = returns[rows, :last][None], queries[rows][None]
            advantages[rows, :last] = group_advantages(*given, self.settings.baseline, self.settings.scale)[0]
        return advantages

    def minibatch(self, rollouts: Rollouts) -> int:
        """Return the number of whole rollouts that have about `minibatch_decisions` decisions together."""
        decisions = 0 if rollouts.trace is None else int(rollouts.trace.drawn.sum())
        minibatches = max(1, round(decisions / self.settings.minibatch_decisions))
        return max(1, len(rollouts) // minibatches)

    def loss(self, evaluation: Evaluation, advantage: Tensor, clock: Clock) -> Loss:
        weight = entropy_weight(clock.iteration, self.settings)
        return clipped_loss(evaluation, advantage, self.settings, entropy_weight=weight)
