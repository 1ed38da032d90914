"""The description of the backbones that are trained here, from the settings that are stored with their weights.

No weights are needed.
"""

from __future__ import annotations

from configs.pretraining import PretrainConfig
from policies.backbones.checkpoint_files import (
    MODEL_FILE,
    existing,
    header_shape,
    read_config,
    resolve_checkpoint,
    stored_hash,
)
from policies.backbones.door import WAMSpec
from policies.backbones.flow import PER_FRAME_NOISE
from policies.backbones.shapes import OBSERVED_FRAMES, latent_frames, latent_grid


def small_spec(config: PretrainConfig, action_dim: int, weights_hash: str, action_reads: str) -> WAMSpec:
    """Return the description of a backbone whose video does not read the action.

    `action_reads` is that of `WAMSpec`. A family replaces what is different in it.
    """
    return WAMSpec(
        latent_channels=config.vae.z_dim,
        latent_frames=latent_frames(config),
        observed_frames=OBSERVED_FRAMES,
        latent_grid=latent_grid(config),
        feature_dim=config.video.heads * config.video.head_dim,
        action_horizon=config.action_horizon,
        action_dim=action_dim,
        video_shift=config.video_shift,
        action_shift=config.action_shift,
        action_updates=config.action.steps,
        reference_updates=config.reference_updates,
        action_reads=action_reads,
        video_reads_action=False,
        per_frame_sigma_trained=config.noise in PER_FRAME_NOISE,
        weights_hash=weights_hash,
    )


def read_facts(checkpoint: str, family: str, statistic: str) -> tuple[PretrainConfig, int, str]:
    """Return the settings of a checkpoint folder, the numbers of an action, and the hash of the weights.

    They are read from `config.json` and from the header of the weights, where the statistic named `statistic` has an
    entry for each number of an action. Raises ValueError for a folder that is damaged or of another family. Only a
    family's `load` verifies the weights.
    """
    folder = resolve_checkpoint(checkpoint)
    settings = read_config(folder, family)
    (action_dim,) = header_shape(existing(folder / MODEL_FILE), f"statistics.{statistic}")
    return settings, action_dim, stored_hash(folder)
