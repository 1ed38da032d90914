"""Predictions of a value expert for futures whose true returns are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from policies.backbones.clips import Clips
from policies.backbones.tiny.model import FrozenWorldActionModel
from rl.values.futures import Futures, context_of
from rl.values.measures import Agreement, agreement
from rl.values.training import point_at

VALUES = 8  # the value noises whose mean is a prediction
TOGETHER = 64  # rows
LEVELS = {"the future": 0.0, "half of it": 0.5, "the observation alone": 1.0}
"""What a value expert is shown of a recorded future, and the noise level that this means."""

WALKED = {"the end of the walk": 0.0, "its noise": 1.0}
"""The same of a walk of the policy."""


@dataclass(frozen=True)
class Predicted:
    """Mean predicted returns and mean true ones [N], over the H observations of a prediction."""

    predicted: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]
    succeeded: npt.NDArray[np.bool_]

    @property
    def agreement(self) -> Agreement:
        return agreement(self.predicted, self.true, self.succeeded)


@torch.no_grad()
def predict_recorded(wam: FrozenWorldActionModel, futures: Futures, level: float, seed: int = 0) -> Predicted:
    """Predict the returns of all recorded futures at a noise level. The noise depends on `seed` alone."""
    generator = Generator().manual_seed(seed)
    found = []
    for start in range(0, len(futures), TOGETHER):
        clips = futures.clips.select(torch.arange(start, min(start + TOGETHER, len(futures))))
        noise = torch.randn(clips.latents.shape, generator=generator)
        found.append(_mean_prediction(wam, clips, noise, level, generator))
    return _beside_true(torch.cat(found), futures, torch.arange(len(futures)))


@torch.no_grad()
def predict_imagined(wam: FrozenWorldActionModel, futures: Futures, level: float, seed: int = 0) -> Predicted:
    """Predict the returns of what the policy imagined and acted on: the end of its walk (0), or its noise (1)."""
    generator = Generator().manual_seed(seed)
    found = [torch.empty(0)]
    for start in range(0, len(futures.asked), TOGETHER):
        part = slice(start, start + TOGETHER)
        clips = futures.clips.select(futures.asked[part])
        clips.latents = futures.imagined[part]
        noise = wam.initial_noise(context_of(wam, clips), futures.noise_seeds[part])[0]
        found.append(_mean_prediction(wam, clips, noise, level, generator))
    return _beside_true(torch.cat(found), futures, futures.asked)


def _mean_prediction(
    wam: FrozenWorldActionModel, clips: Clips, noise: Tensor, level: float, generator: Generator
) -> Tensor:
    """Return float32 [B]. `noise` has the shape of the latents [B, C, F_all, h, w]."""
    assert wam.spec.value is not None
    context = context_of(wam, clips)
    point = point_at(wam, context, clips.latents, noise, torch.full((len(clips),), level))
    values = torch.randn(len(clips), VALUES, wam.spec.value.noise_dim, generator=generator)
    return wam.score(context, point, values).mean(dim=(1, 2))


def _beside_true(predicted: Tensor, futures: Futures, rows: Tensor) -> Predicted:
    true = futures.returns[rows].mean(dim=1)
    return Predicted(predicted.double().numpy(), true.double().numpy(), futures.succeeded[rows].numpy())
