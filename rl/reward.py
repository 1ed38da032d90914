"""What a reward is: it scores rollouts. The rewards of a run are added up. Each reward is one file of `rl/rewards`.

Shapes: N rollouts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from configs.registry import Registry
from configs.schema import RewardConfig
from policies.backbones.door import WAMSpec
from policies.learning import Charts
from rl.experience.references import ReferencePlan
from rl.experience.rollouts import FloatArray, Rollouts, weighted_mean


class Need(StrEnum):
    """Data that a reward needs. A collector that does not offer it cannot be combined with that reward."""

    DEMONSTRATIONS = "demonstrations"  # the action errors of each path against a demonstration
    ANCHORS = "anchors"  # the action errors of two reference walks from the same noise
    SIMULATORS = "simulators"  # the outcome of each episode


@dataclass(frozen=True)
class Scores:
    """The scores of N rollouts."""

    total: FloatArray  # [N], the returns
    parts: dict[str, FloatArray]  # [N] each, named parts of the return to report
    own: FloatArray | None = None  # [N, Q]: what the decisions of each query are credited with; None: the total

    @property
    def credit(self) -> FloatArray:
        """The returns that the decisions of each query are credited with: [N, Q], or [N, 1] if all share one."""
        return self.total[:, None] if self.own is None else self.own

    def means(self, weights: FloatArray) -> dict[str, float]:
        """Return the mean of each part over the rollouts, which count by their weights [N]."""
        return {name: weighted_mean(values, weights) for name, values in self.parts.items()}


Settings = TypeVar("Settings", bound=RewardConfig)


class Reward(ABC, Generic[Settings]):
    """One term of the return. Only a reward that needs anchors implements the two properties and `calibrate`."""

    settings_type: ClassVar[type[RewardConfig]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    charts: ClassVar[Charts] = {}

    def __init__(self, settings: Settings, spec: WAMSpec) -> None:
        self.settings, self.spec = settings, spec

    @abstractmethod
    def score(self, rollouts: Rollouts, progress: float) -> Scores:
        """Return the term as it is added to the return, weighted, when a share `progress` of the training is done."""

    @property
    def anchor_depths(self) -> tuple[int, int]:
        """The depths of the shallow and the full anchor, in updates of the reference grid."""
        return 0, 0

    @property
    def references(self) -> ReferencePlan:
        """What the chunks of paths and anchors are compared with."""
        return ReferencePlan()

    @property
    def calibration_segments(self) -> int:
        """The number of segments whose anchors `calibrate` needs. It is 0 when no calibration is needed any more."""
        return 0

    def calibrate(self, anchors: FloatArray) -> None:
        """Set the scales of the reward from anchor errors [S, 4] of many segments, once in a run."""

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned."""


REWARDS: Registry[type[Reward[Any]]] = Registry("rl.rewards", "reward")


class Rewards:
    """The sum of a run's rewards."""

    def __init__(self, settings: Mapping[str, RewardConfig], spec: WAMSpec) -> None:
        self.terms: dict[str, Reward[Any]] = {name: REWARDS.get(name)(own, spec) for name, own in settings.items()}

    @property
    def anchored(self) -> Reward[Any] | None:
        """The reward that needs anchors, if there is one."""
        return next((term for term in self.terms.values() if Need.ANCHORS in term.needs), None)

    def score(self, rollouts: Rollouts, progress: float) -> Scores:
        """Return the sum of all terms, and the parts of each."""
        total, parts = np.zeros(len(rollouts)), dict[str, FloatArray]()
        own = np.zeros((len(rollouts), rollouts.most_queries))
        for term in self.terms.values():
            scores = term.score(rollouts, progress)
            total = total + scores.total
            own = own + scores.credit
            parts |= scores.parts
        return Scores(total, {"reward/return": total, **parts}, own)

    def state(self) -> dict[str, Any]:
        return {name: term.state() for name, term in self.terms.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, own in state.items():
            if name in self.terms:
                self.terms[name].restore(own)
