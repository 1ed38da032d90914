"""What an objective is: it turns returns into advantages, and a policy's evaluation into a loss.

Each objective is one file of `rl/objectives`. Shapes: N rollouts, Q queries (walks) of a rollout, K decisions of a
rollout, J choices of a decision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from configs.registry import Registry
from configs.schema import ObjectiveConfig
from policies.learning import Charts, Evaluation
from rl.experience.rollouts import FloatArray, IntArray, Rollouts


@dataclass(frozen=True)
class Clock:
    """The position of an update in the training."""

    iteration: int  # the number of iterations before this one
    iterations: int  # the number of iterations of the whole training

    @property
    def progress(self) -> float:
        """The share of the training that is done, in [0, 1]."""
        return min(self.iteration / self.iterations, 1.0)


@dataclass
class Loss:
    """The loss of one minibatch and its parts: scalars, except `ratio`. Only `total` carries gradients."""

    total: Tensor
    policy: Tensor
    entropy: Tensor
    reference_kl: Tensor  # divergence from the policy's reference
    approximate_kl: Tensor  # divergence from the policy that drew the choices
    clip_fraction: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor
    ratio: Tensor  # [N, ...], the ratio of new to old probabilities; it shows which rollout is not finite
    shown: dict[str, Tensor] = field(default_factory=dict)  # further scalars of the policy to report


Settings = TypeVar("Settings", bound=ObjectiveConfig)


class Objective(ABC, Generic[Settings]):
    """Decides how a policy is updated from scored rollouts."""

    settings_type: ClassVar[type[ObjectiveConfig]]
    charts: ClassVar[Charts] = {}

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def advantages(self, rollouts: Rollouts, returns: FloatArray) -> FloatArray:
        """Return the advantage of each query of each rollout, [N, Q], from what its decisions earned, [N, Q]."""

    @abstractmethod
    def minibatch(self, rollouts: Rollouts) -> int:
        """Return how many rollouts one gradient step uses; at most N."""

    @abstractmethod
    def loss(self, evaluation: Evaluation, advantage: Tensor, clock: Clock) -> Loss:
        """Return the loss of a minibatch. `advantage`, float32 [N, K], holds one value for each decision."""

    def learnable(self, rollouts: Rollouts, returns: FloatArray) -> IntArray:
        """Return the indices of the rollouts to learn from. The others are left out of the update."""
        return np.arange(len(rollouts))

    def why_nothing_is_learned(self) -> str:
        """Return advice if too many iterations in a row had nothing to learn from. An empty string means: go on."""
        return ""

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold, as JSON values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state that `state()` returned."""

    def metrics(self) -> dict[str, float]:
        """Return metrics to report beside the loss."""
        return {}


OBJECTIVES: Registry[type[Objective[Any]]] = Registry("rl.objectives", "objective")


def clipped_loss(
    evaluation: Evaluation,
    advantage: Tensor,
    settings: ObjectiveConfig,
    *,
    divergence_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> Loss:
    """Return PPO's clipped surrogate loss with a divergence penalty and an entropy bonus.

    `settings.ratio` says what has a probability ratio: a path, a decision or a choice. `advantage` is float32 [N, K];
    the ratio of a path uses the advantage of its first decision.
    """
    log_ratio, mask, compared = log_ratios(evaluation, advantage, settings.ratio)
    ratio = log_ratio.exp()
    policy = -masked_mean(clipped_surrogate(ratio, compared, settings.clip), mask)
    choices = range(evaluation.free.shape[-1])
    divergence = sum_of([masked_mean(evaluation.divergence[..., j], evaluation.free[..., j]) for j in choices])
    entropy = masked_mean(evaluation.entropy, evaluation.free)
    total = policy
    if divergence_weight:
        total = total + divergence_weight * divergence
    if entropy_weight:
        total = total - entropy_weight * entropy
    log_ratio, ratio = log_ratio.detach(), ratio.detach()
    return Loss(
        total=total,
        policy=policy.detach(),
        entropy=entropy.detach(),
        reference_kl=divergence.detach(),
        approximate_kl=masked_mean(ratio - 1 - log_ratio, mask),
        clip_fraction=masked_mean(((ratio - 1).abs() > settings.clip).float(), mask),
        ratio_mean=masked_mean(ratio, mask),
        ratio_max=ratio.max(),
        ratio=ratio,
        shown={name: value.detach() for name, value in evaluation.shown.items()},
    )


def log_ratios(evaluation: Evaluation, advantage: Tensor, over: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-ratios of new to old probabilities, a mask of those that count, and the advantage of each.

    `over` names the unit that has a ratio, and so their shape: `path` [N], `decision` [N, K] or `choice` [N, K, J].
    """
    free = evaluation.free
    if over == "choice":
        return evaluation.log_prob - evaluation.log_prob_then, free, advantage[..., None]
    now, then = (torch.where(free, one, 0.0) for one in (evaluation.log_prob, evaluation.log_prob_then))
    if over == "decision":
        return ((now - then) * evaluation.weight).sum(-1), free.any(-1), advantage
    sums = [one.movedim(-1, 0).contiguous().sum(-1) for one in (now, then)]  # [J, N]
    total_now, total_then = ((evaluation.weight[:, None] * one).sum(0) for one in sums)
    return total_now - total_then, torch.ones_like(total_now, dtype=torch.bool), advantage[:, 0]


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return PPO's clipped objective for each element."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values for which the mask is true, or 0 if there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def sum_of(values: list[Tensor]) -> Tensor:
    """Add up one or more tensors, in order."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
