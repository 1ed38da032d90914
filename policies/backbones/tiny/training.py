"""Training of a World Action Model: the autoencoder (Stage 0), then flow matching of video and action (Stage 1).

The three trainings are separate on purpose. The action branch learns inverse dynamics from true futures at random noise
levels, so the actions that it decodes from a generated future say how good that future is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from configs.pretraining import PretrainConfig
from configs.stored import DamagedFile
from policies.backbones.codecs import LatentCodec, encode_text, to_video
from policies.backbones.flow import NOISE_SAMPLERS, add_noise, conditioning_levels, shift_sigma
from policies.backbones.optimisation import Curve, OnProgress, Optimisation, compiled, fast_training, run_steps
from policies.backbones.resuming import ResumePoint
from policies.backbones.tiny.clips import Clips, EpisodeFrames
from policies.backbones.tiny.model import OBSERVED_FRAMES, ActionStatistics, WorldActionModel, relative_actions

MIN_STD = 1e-2


def train_vae(
    vae: AutoencoderKLWan, episodes: list[EpisodeFrames], config: PretrainConfig, progress: OnProgress
) -> Curve:
    """Train the autoencoder. Pixels that differ from the empty scene weigh more: arms and objects are small."""
    rng = np.random.default_rng(config.seed)
    sample = np.stack([episode.canvas[rng.integers(len(episode.canvas))] for episode in episodes])
    background = to_video(np.median(sample, axis=0).astype(np.uint8)[None, None])
    optimisation = Optimisation(vae, config.vae.steps, config.vae.learning_rate, config.ema_decay)

    def loss_of() -> Tensor:
        video = to_video(np.stack([_random_window(episodes, config.frames, rng) for _ in range(config.vae.batch)]))
        with fast_training(True):
            posterior = vae.encode(video).latent_dist
            rebuilt = vae.decode(posterior.sample()).sample.float()
        weight = 1 + 4 * ((video - background).abs().mean(1, keepdim=True) / 0.3).clamp(max=1)
        error = (rebuilt - video).abs() + (rebuilt - video).square()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        return (weight * error).mean() / weight.mean() + config.vae.kl_weight * divergence

    vae.train()
    return run_steps(optimisation, loss_of, progress)


def _random_window(episodes: list[EpisodeFrames], frames: int, rng: np.random.Generator) -> np.ndarray:
    episode = episodes[rng.integers(len(episodes))]
    return episode.canvas[episode.window(int(rng.integers(len(episode.canvas))), frames)]


def latent_statistics(vae: AutoencoderKLWan, episodes: list[EpisodeFrames], config: PretrainConfig) -> LatentCodec:
    """Return the codec, with mean and standard deviation of each channel measured on 256 windows."""
    rng = np.random.default_rng(config.seed)
    neutral = LatentCodec(vae, torch.zeros(config.vae.z_dim), torch.ones(config.vae.z_dim))
    windows = [_random_window(episodes, config.frames, rng) for _ in range(256)]
    latents = torch.cat([neutral.encode(np.stack(windows[i : i + 8])) for i in range(0, 256, 8)])
    return LatentCodec(vae, latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4)).clamp_min(MIN_STD))


def action_statistics(clips: Clips) -> ActionStatistics:
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
    texts, inverse = torch.unique(batch.instruction, return_inverse=True)
    text = encode_text(model.text_encoder, [batch.instructions[i] for i in texts.tolist()])[inverse]
    keys = model.condition(text, statistics.normalise_joints(batch.joints))
    observed = model.observe(batch.latents[:, :, :OBSERVED_FRAMES], keys)
    flow, _, _ = model.imagine(add_noise(future, noise, sigma), sigma, keys, observed)
    return (flow.float() - (noise - future)).square().mean()


def action_loss(
    model: WorldActionModel, batch: Clips, statistics: ActionStatistics, config: PretrainConfig, generator: Generator
) -> Tensor:
    """Return the flow-matching loss of the action chunk, given the true future at random noise levels (some clean)."""
    size, future = len(batch), model.latent_frames - OBSERVED_FRAMES
    sigma_action = shift_sigma(torch.rand(size, generator=generator), config.action_shift)
    sigma = conditioning_levels(config.noise, size, future, config.conditioning_shift, config.clean_fraction, generator)
    noise = torch.randn(batch.latents.shape, generator=generator)
    frames = torch.cat([torch.zeros(size, OBSERVED_FRAMES), sigma], dim=1)
    memory = model.action_memory(add_noise(batch.latents, noise, frames), sigma)
    target = statistics.normalise_actions(batch.actions, batch.joints)
    noise = torch.randn(target.shape, generator=generator)
    flow = model.action(
        add_noise(target, noise, sigma_action), sigma_action, statistics.normalise_joints(batch.joints), memory
    )
    return (flow.float() - (noise - target)).square().mean()


LossOf = Callable[[WorldActionModel, Clips, ActionStatistics, PretrainConfig, Generator], Tensor]
LOSSES: dict[str, LossOf] = {"video": video_loss, "action": action_loss}
MODULES = {"video": ("video", "text_encoder", "joints_to_text"), "action": ("action",)}


def train_part(
    part: str,
    model: WorldActionModel,
    clips: Clips,
    statistics: ActionStatistics,
    config: PretrainConfig,
    steps: int,
    progress: OnProgress,
    point: ResumePoint | None = None,
) -> tuple[Curve, dict[str, Tensor]]:
    """Train the video part or the action part in place, from `point` on if an earlier call was interrupted.

    Returns the loss curve and the trained tensors by their names in the model.
    """
    modules = nn.ModuleDict({name: getattr(model, name) for name in MODULES[part]})
    generator = Generator().manual_seed(config.seed + 1)
    optimisation = Optimisation(modules, steps, config.learning_rate, config.ema_decay, generator)

    def loss_of() -> Tensor:
        with fast_training(True):
            return LOSSES[part](model, clips.batch(config.batch, generator), statistics, config, generator)

    fused: dict[str, list[tuple[nn.Module, str]]] = {
        "video": [(model, "observe"), (model, "imagine")],
        "action": [(model, "action_memory"), (model.action, "forward")],
    }
    with compiled(fused[part], config.compile):
        curve = run_steps(optimisation, loss_of, progress, point)
    return curve, {name: tensor.clone() for name, tensor in modules.state_dict().items()}


def load_part(part: str, model: WorldActionModel, path: Path) -> None:
    """Load the tensors that `train_part` returned, and that were stored in `path`.

    Raises `DamagedFile` for a file that is cut, ValueError for one that was trained with other settings.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedFile(path, f"it does not hold tensors ({error})", "The stage is trained again.") from error
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if name.split(".")[0] in MODULES[part]}
    if {name: tensor.shape for name, tensor in tensors.items()} != own:
        raise ValueError(f"{path} was trained with other settings: delete it, or choose another pretrain.output")
    model.load_state_dict(tensors, strict=False)


@torch.no_grad()
def held_out_loss(
    model: WorldActionModel, clips: Clips, statistics: ActionStatistics, config: PretrainConfig, loss: LossOf
) -> float:
    """Return the mean loss on held-out clips, always with the same noise."""
    generator = Generator().manual_seed(12345)
    batches = [clips.batch(config.batch, generator) for _ in range(8)]
    return float(np.mean([loss(model, batch, statistics, config, generator).item() for batch in batches]))
