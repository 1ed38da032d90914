"""Training of the autoencoder (Stage 0), which the families share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models import AutoencoderKLWan
from torch import Tensor

from configs.pretraining import PretrainConfig
from policies.backbones.codecs import LatentCodec, to_video
from policies.backbones.optimisation import Curve, OnProgress, Optimisation, fast_training, run_steps

MIN_STD = 1e-2

Draw = Callable[[], tuple[npt.NDArray[np.uint8], Tensor | None]]
"""Returns a batch of windows, uint8 [B, T, H, W, 3], and the empty scene, float32 [1, 3, 1, H, W], or None."""


def train_vae(vae: AutoencoderKLWan, draw: Draw, config: PretrainConfig, progress: OnProgress) -> Curve:
    """Train an autoencoder in place. Pixels that differ from the empty scene weigh more: arms and objects are small."""
    vae.train().requires_grad_(True)
    optimisation = Optimisation(vae, config.vae.steps, config.vae.learning_rate, config.ema_decay)

    def loss_of() -> Tensor:
        windows, background = draw()
        video = to_video(windows)
        with fast_training(True):
            posterior = vae.encode(video).latent_dist
            rebuilt = vae.decode(posterior.sample()).sample.float()
        weight = torch.ones_like(video[:, :1])
        if background is not None:
            weight = weight + 4 * ((video - background).abs().mean(1, keepdim=True) / 0.3).clamp(max=1)
        error = (rebuilt - video).abs() + (rebuilt - video).square()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        return (weight * error).mean() / weight.mean() + config.vae.kl_weight * divergence

    return run_steps(optimisation, loss_of, progress)


def latent_statistics(vae: AutoencoderKLWan, draw: Callable[[int], npt.NDArray[np.uint8]]) -> LatentCodec:
    """Return the codec, with mean and standard deviation of each channel measured on 32 batches `draw(number)`."""
    channels = int(vae.config["z_dim"])
    neutral = LatentCodec(vae, torch.zeros(channels), torch.ones(channels))
    cells = [neutral.encode(draw(number)).transpose(0, 1).flatten(1) for number in range(32)]
    latents = torch.cat(cells, dim=1)
    return LatentCodec(vae, latents.mean(1), latents.std(1).clamp_min(MIN_STD))


def background_of(sample: npt.NDArray[np.uint8]) -> Tensor:
    """Return the empty scene of pictures [N, H, W, 3]: their median, float32 [1, 3, 1, H, W]."""
    return to_video(np.median(sample, axis=0).astype(np.uint8)[None, None])
