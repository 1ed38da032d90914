"""Training of the tiny World Action Model: the autoencoder (Stage 0), then flow matching of video and action (Stage 1).

The three trainings are separate on purpose. The action branch learns inverse dynamics from true futures at random noise
levels, so the actions that it decodes from a generated future say how good that future is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from configs.pretraining import PretrainConfig
from policies.backbones.arms import Arms
from policies.backbones.autoencoding import MIN_STD
from policies.backbones.canvases import (  # noqa: F401 (functions of `Trainable`)
    encode,
    encoded_with,
    needs_arms,
    needs_depth,
    record,
    train_codec,
)
from policies.backbones.clips import Clips
from policies.backbones.codecs import encode_indexed
from policies.backbones.flow import NOISE_SAMPLERS, add_noise, conditioning_levels, shift_sigma
from policies.backbones.robot import relative_actions
from policies.backbones.shapes import OBSERVED_FRAMES
from policies.backbones.stages import Part, Start
from policies.backbones.tiny.checkpoint import load_start
from policies.backbones.tiny.checkpoint import save_wam as save  # noqa: F401 (one of the functions of `Trainable`)
from policies.backbones.tiny.experts import Reading
from policies.backbones.tiny.model import ActionStatistics, WorldActionModel


def begin(config: PretrainConfig, arms: Arms | None) -> Start:
    """Return the model, codec and normalisation of `start_from`, or an untrained model."""
    if config.start_from:
        return Start(*load_start(config), trains_codec=False)
    return Start(WorldActionModel(config), None, None, trains_codec=True)


def measure(clips: Clips, arms: Arms | None) -> ActionStatistics:
    """Measure mean and standard deviation of joints and relative actions."""
    relative = relative_actions(clips.actions, clips.joints).flatten(0, 1)
    return ActionStatistics(
        clips.joints.mean(0),
        clips.joints.std(0).clamp_min(MIN_STD),
        relative.mean(0),
        relative.std(0).clamp_min(MIN_STD),
    )


def video_loss(
    model: WorldActionModel, batch: Clips, statistics: ActionStatistics, config: PretrainConfig, generator: Generator
) -> Tensor:
    """Return the flow-matching loss of the future latents, at noise levels of the configured sampler."""
    size, frames = len(batch), model.latent_frames - OBSERVED_FRAMES
    sigma, _ = NOISE_SAMPLERS[config.noise](size, frames, config.video_shift, config.action_shift, generator)
    future = batch.latents[:, :, OBSERVED_FRAMES:]
    noise = torch.randn(future.shape, generator=generator)
    text = encode_indexed(model.text_encoder, batch.instructions, batch.instruction)
    keys = model.condition(text, statistics.normalise_joints(batch.joints))
    observed = model.observe(batch.latents[:, :, :OBSERVED_FRAMES], keys)
    flow, _, _ = model.imagine(add_noise(future, noise, sigma), sigma, keys, observed)
    return (flow.float() - (noise - future)).square().mean()


def action_loss(
    model: WorldActionModel,
    batch: Clips,
    statistics: ActionStatistics,
    config: PretrainConfig,
    generator: Generator,
    reading_of: Callable[[Tensor, Tensor], Reading] | None = None,
) -> Tensor:
    """Return the flow-matching loss of the action chunk, given the true future at random noise levels (some clean).

    `reading_of` takes the noisy latents [B, C, F_all, h, w] and the levels of their future frames, and returns what the
    action reads besides them.
    """
    size, future = len(batch), model.latent_frames - OBSERVED_FRAMES
    sigma_action = shift_sigma(torch.rand(size, generator=generator), config.action_shift)
    sigma = conditioning_levels(config.noise, size, future, config.conditioning_shift, config.clean_fraction, generator)
    noise = torch.randn(batch.latents.shape, generator=generator)
    frames = torch.cat([torch.zeros(size, OBSERVED_FRAMES), sigma], dim=1)
    noisy = add_noise(batch.latents, noise, frames)
    memory, reading = model.action_memory(noisy, sigma), reading_of(noisy, sigma) if reading_of else None
    target = statistics.normalise_actions(batch.actions, batch.joints)
    noise = torch.randn(target.shape, generator=generator)
    joints = statistics.normalise_joints(batch.joints)
    flow = model.action(add_noise(target, noise, sigma_action), sigma_action, joints, memory, reading)
    return (flow.float() - (noise - target)).square().mean()


def parts(config: PretrainConfig) -> dict[str, Part]:
    return {
        "video": Part(
            config.video_steps,
            video_loss,
            ("video", "text_encoder", "joints_to_text"),
            (("", "observe"), ("", "imagine")),
            ignores=("action_steps", "action", "conditioning_shift", "clean_fraction"),
        ),
        "action": Part(
            config.action_steps,
            action_loss,
            ("action",),
            (("", "action_memory"), ("action", "forward")),
            ignores=("video_steps", "video_shift"),
        ),
    }
