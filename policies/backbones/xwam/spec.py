"""The shapes and capabilities of an X-WAM, from its settings. No weights are needed.

Latents of all cameras share one tensor [C, F, h, w], in which each camera has a rectangle of cells of its own: the head
camera above the two wrist cameras. Only the place is shared. Every camera is encoded apart.
"""

from __future__ import annotations

from dataclasses import replace

from configs.pretraining import PretrainConfig
from policies.backbones.door import WAMSpec, Want
from policies.backbones.shapes import latent_grid
from policies.backbones.small import small_spec
from policies.backbones.xwam.actions import MOVE, POSE


def latent_shape(config: PretrainConfig) -> tuple[int, int, int]:
    """Return channels, height and width of a latent frame [C, h, w].

    Depth that is denoised along with the video has channels or rows of its own, behind those of the pictures.
    """
    channels, (height, width) = config.vae.z_dim, latent_grid(config)
    design = config.xwam.depth
    return channels * (2 if design == "channel" else 1), height * (2 if design == "sequence" else 1), width


def numbers_of(config: PretrainConfig, action_dim: int) -> tuple[int, int]:
    """Return how many numbers an action and a state have, for a robot of `action_dim` joints and grippers."""
    return (action_dim, action_dim) if config.xwam.actions == "joints" else (2 * MOVE, 2 * POSE)


def spec_of(config: PretrainConfig, action_dim: int, weights_hash: str, tools: tuple[float, ...] = ()) -> WAMSpec:
    """Return the description of a backbone with these settings. `action_dim` is that of joint targets."""
    channels, height, width = latent_shape(config)
    gives = Want.VIDEO_FLOW | Want.POOLED | Want.ACTION_FLOW
    return replace(
        small_spec(config, action_dim, weights_hash, "everything"),
        latent_channels=channels,
        latent_grid=(height, width),
        video_reads_action=True,
        gives=gives if config.xwam.depth == "none" else gives | Want.DEPTH,
        tools=tools,
    )
