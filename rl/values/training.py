"""The second stage of WAV: a value expert learns the returns of futures while everything else stays frozen.

It learns by flow matching from recorded futures at random noise levels and, if `value.imagined_fraction` says so, from
futures that the backbone imagined and acted on: the noise of such a walk, at noise level 1, and its clean end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from configs.value import ValueTrainingConfig
from policies.backbones.door import Point
from policies.backbones.flow import add_noise, shift_sigma
from policies.backbones.optimisation import Curve, OnProgress, Optimisation, fast_training, run_steps
from policies.backbones.resuming import ResumePoint
from policies.backbones.tiny.model import FrozenContext, FrozenWorldActionModel
from policies.backbones.tiny.value import ValueDimensions, ValueExpert
from rl.values.futures import Futures, context_of

HELD_OUT_BATCHES = 8


@dataclass
class Batch:
    """Futures at a point of a walk, with their returns [B, H]."""

    context: FrozenContext
    point: Point
    returns: Tensor


def train_value(
    wam: FrozenWorldActionModel,
    futures: Futures,
    config: ValueTrainingConfig,
    progress: OnProgress,
    point: ResumePoint | None = None,
) -> tuple[Curve, ValueExpert]:
    """Train a new value expert, from `point` on if an earlier call was interrupted. The backbone stays as it is.

    Raises ValueError if imagined futures are asked for and there are none.
    """
    if config.imagined_fraction and not futures.noise_seeds:
        raise ValueError(
            f"value.imagined_fraction={config.imagined_fraction:g}, but no episode was played by the policy: collect "
            "some with demonstrations.failures.policy, add `policy` to returns.failures, or set it to 0"
        )
    torch.manual_seed(config.seed)
    expert = new_expert(wam, config)
    expert.normalise_by(futures.returns)
    generator = Generator().manual_seed(config.seed + 1)
    optimisation = Optimisation(expert, config.updates, config.learning_rate, config.ema_decay, generator)

    def loss_of() -> Tensor:
        with fast_training(True):
            return batch_loss(wam, expert, draw_batch(wam, futures, config, generator), generator)

    return run_steps(optimisation, loss_of, progress, point), expert


def new_expert(wam: FrozenWorldActionModel, config: ValueTrainingConfig) -> ValueExpert:
    """Return an untrained value expert that reads this backbone's video."""
    video: Any = wam.model.video.config  # diffusers gives this dictionary attributes too
    dimensions = ValueDimensions(video.num_layers, video.num_attention_heads, video.attention_head_dim)
    return ValueExpert(config.expert, dimensions)


def batch_loss(wam: FrozenWorldActionModel, expert: ValueExpert, batch: Batch, generator: Generator) -> Tensor:
    with torch.no_grad():
        memory = wam.value_memory(batch.context, batch.point)
    return expert.loss(memory, batch.returns, generator)


def draw_batch(
    wam: FrozenWorldActionModel, futures: Futures, config: ValueTrainingConfig, generator: Generator
) -> Batch:
    """Draw random futures, with replacement: recorded ones, and `imagined_fraction` of imagined ones."""
    own = round(config.batch * config.imagined_fraction)
    rows = torch.randint(len(futures), (config.batch - own,), generator=generator)
    levels = draw_levels(len(rows), config, generator)
    chosen = torch.randint(max(1, len(futures.noise_seeds)), (own,), generator=generator)
    clean = torch.cat([futures.clips.latents[rows].float(), futures.imagined[chosen]])
    noise = torch.randn(clean[: len(rows)].shape, generator=generator)
    rows = torch.cat([rows, futures.asked[chosen]])
    levels = torch.cat([levels, torch.randint(2, (own,), generator=generator).float()])
    context = context_of(wam, futures.clips.select(rows))
    seeds = [futures.noise_seeds[one] for one in chosen.tolist()]
    walked = context.select(torch.arange(len(rows) - own, len(rows)))
    noise = torch.cat([noise, wam.initial_noise(walked, seeds)[0]]) if own else noise
    return Batch(context, point_at(wam, context, clean, noise, levels), futures.returns[rows])


def draw_levels(count: int, config: ValueTrainingConfig, generator: Generator) -> Tensor:
    """Draw noise levels of recorded futures [count]: clean, pure noise, or in between, as the settings say."""
    kind = torch.rand(count, generator=generator)
    between = shift_sigma(torch.rand(count, generator=generator), config.shift)
    clean = kind < config.clean_fraction
    return between.masked_fill(clean, 0.0).masked_fill(kind >= 1 - config.pure_fraction, 1.0)


def point_at(
    wam: FrozenWorldActionModel, context: FrozenContext, clean: Tensor, noise: Tensor, levels: Tensor
) -> Point:
    """Return futures [B, C, F_all, h, w] at noise levels [B], after the observed frames of their contexts."""
    spec = wam.spec
    noisy = add_noise(clean, noise, levels)[:, :, spec.observed_frames :]
    x = torch.cat([context.observed, noisy], dim=2)
    actions = torch.zeros(len(levels), spec.action_horizon, spec.action_dim)
    return Point(x, actions, levels[:, None].expand(-1, spec.future_frames), torch.ones(len(levels)))


@torch.no_grad()
def held_out_loss(
    wam: FrozenWorldActionModel, expert: ValueExpert, futures: Futures, config: ValueTrainingConfig
) -> float:
    """Return the mean loss on held-out futures, always with the same noise."""
    generator = Generator().manual_seed(12345)
    batches = [draw_batch(wam, futures, config, generator) for _ in range(HELD_OUT_BATCHES)]
    return float(np.mean([batch_loss(wam, expert, batch, generator).item() for batch in batches]))
