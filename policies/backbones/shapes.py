"""What the shapes of all small backbones follow from: the compression of their autoencoder. No weights are needed."""

from __future__ import annotations

from configs.pretraining import PretrainConfig

OBSERVED_FRAMES = 1
COMPRESSION = 16


def latent_frames(config: PretrainConfig) -> int:
    """Return the number of latent frames: one observed frame, and one for every four future pictures."""
    return OBSERVED_FRAMES + (config.frames - 1) // 4
