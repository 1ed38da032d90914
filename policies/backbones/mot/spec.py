"""The size and the capabilities of a small mixture, from its settings. No weights are needed."""

from __future__ import annotations

from configs.pretraining import PretrainConfig
from policies.backbones.door import WAMSpec
from policies.backbones.published.layout import Size
from policies.backbones.shapes import TEXT_LENGTH, latent_frames, views_of
from policies.backbones.small import small_spec


def size_of(config: PretrainConfig) -> Size:
    """Return the numbers of the networks. Raises ValueError if the patches do not fit the canvas."""
    video = config.video
    return Size(
        layers=video.layers,
        heads=video.heads,
        head_dim=video.head_dim,
        ffn_dim=video.ffn_dim,
        freq_dim=video.freq_dim,
        text_dim=video.text_dim,
        text_length=TEXT_LENGTH,
        views=views_of(config),
        frames=latent_frames(config),
        horizon=config.action_horizon,
        action_width=config.action.hidden,
        action_ffn_dim=config.action.ffn_dim,
        channels=config.vae.z_dim,
        patch=video.patch,
    )


def spec_of(config: PretrainConfig, action_dim: int, weights_hash: str) -> WAMSpec:
    """Return the description of a backbone with these settings. It can do what the published mixtures can do."""
    return small_spec(config, action_dim, weights_hash, "all_keys")
