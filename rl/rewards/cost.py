"""The cost of denoising: the updates or forwards of a walk, as a share of those of the full walk (SANTS Eq. 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.fields import setting
from configs.schema import RewardConfig
from policies.learning import Charts
from rl.experience.rollouts import Rollouts
from rl.reward import REWARDS, Reward, Scores


@dataclass
class CostConfig(RewardConfig):
    """The settings of the cost. It rises from 0 at the start of the training to its full weight."""

    weight: float = setting(0.3, at_least=0)  # the cost of `divided_by` updates or forwards
    counts: str = setting("updates", choices=("updates", "forwards"))
    # 0: the number of updates of the full walk. With 1, `weight` is the price of a single update or forward.
    divided_by: int = setting(0, at_least=0)
    weight_end: float = setting(1.0, at_least=0)  # the share to which the cost changes linearly after its rise
    # Whom the cost of an episode's walk is charged to: by its share in the mean to all decisions of the `episode`, or
    # in full to the decisions of its own `query`.
    charged: str = setting("episode", choices=("episode", "query"))
    ramp_fraction: float = setting(0.2, at_least=0, at_most=1)  # the share of the training in which the cost rises


def ramp(progress: float, fraction: float, end: float = 1.0) -> float:
    """Return the share of the full cost when `progress` of the training is done.

    It rises linearly over `fraction`, and from there it changes linearly to `end`.
    """
    if progress < fraction:
        return progress / fraction
    return 1.0 + (end - 1.0) * (progress - fraction) / (1.0 - fraction) if fraction < 1 else 1.0


@REWARDS.register("cost")
class CostReward(Reward[CostConfig]):
    """Minus the cost of a path, or minus the mean cost of an episode's walks."""

    settings_type = CostConfig
    charts: ClassVar[Charts] = {"1 learning": {"cost": ["Multiline", ["reward/cost"]]}}

    def score(self, rollouts: Rollouts, progress: float) -> Scores:
        column = ("updates", "forwards").index(self.settings.counts)
        price = self.settings.weight * ramp(progress, self.settings.ramp_fraction, self.settings.weight_end)
        full = self.settings.divided_by or self.spec.reference_updates
        cost = price * ((rollouts.updates, rollouts.forwards)[column] / full)
        own = None
        if self.settings.charged == "query" and any(map(len, rollouts.walks)):
            own = np.zeros((len(rollouts), rollouts.most_queries))
            for row, walks in enumerate(rollouts.walks):
                own[row, : len(walks)] = -price * (walks[:, column] / full)
        return Scores(-cost, {"reward/cost": cost}, own)
