"""Noise levels: the grids and updates of a walk, and the noise samplers of flow-matching training.

Convention: sigma 1 is pure noise and sigma 0 is clean; the velocity is `eps - x0`. Shapes: B batch, F future latent
frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

NoiseSampler = Callable[[int, int, float, float, Generator], tuple[Tensor, Tensor]]


def shift_sigma(u: Tensor, shift: float) -> Tensor:
    """Apply the timestep shift k of Wan and Fast-WAM: `k u / (1 + (k - 1) u)`."""
    return shift * u / (1 + (shift - 1) * u)


def shifted_grid(steps: int, shift: float) -> Tensor:
    """Return noise levels from 1 to 0, float32 [steps + 1]: equal steps in u, shifted by `shift_sigma`."""
    u = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return shift_sigma(u, shift).to(torch.float32)


def next_on_grid(sigma: Tensor, steps: int, shift: float) -> Tensor:
    """Return the level to which the reference sampler goes from `sigma`: one step of 1 / steps in u, but at least 0."""
    u = sigma / (shift - (shift - 1) * sigma)
    u_next = (u - 1.0 / steps).clamp_min(0.0)
    return shift_sigma(u_next, shift)


def euler_update(x: Tensor, flow: Tensor, sigma: Tensor, sigma_next: Tensor, observed_frames: int) -> Tensor:
    """Return `x + (sigma_next - sigma) v` for the future frames. The observed frames stay. Sigmas are [B] or [B, F]."""
    step = (sigma_next - sigma).to(x.dtype)
    step = step[:, None] if step.ndim == 1 else step
    out = x.clone()
    out[:, :, observed_frames:] += step[:, None, :, None, None] * flow[:, :, observed_frames:]
    return out


def standard_noise(seeds: Sequence[int], *shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw standard normal float32 tensors [B, *shape], one for each shape. Row i depends on seeds[i] alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append([torch.randn(shape, generator=generator) for shape in shapes])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator)


def shared(
    batch: int, frames: int, video_shift: float, action_shift: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw one level for all future frames and an independent level for the action."""
    video = shift_sigma(_uniform(generator, batch, 1), video_shift).expand(batch, frames)
    return video, shift_sigma(_uniform(generator, batch), action_shift)


def independent(
    batch: int, frames: int, video_shift: float, action_shift: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw a level for each future frame and one for the action, all independent (NoiseGate, Stage 1)."""
    video = shift_sigma(_uniform(generator, batch, frames), video_shift)
    return video, shift_sigma(_uniform(generator, batch), action_shift)


def synchronous(
    batch: int, frames: int, video_shift: float, action_shift: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw one level for all future frames and the action: the noise of a walk in which both take the same steps."""
    u = _uniform(generator, batch)
    return shift_sigma(u, video_shift)[:, None].expand(batch, frames), shift_sigma(u, action_shift)


def asynchronous(
    batch: int,
    frames: int,
    video_shift: float,
    action_shift: float,
    generator: Generator,
    clean_action_fraction: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Asynchronous Noise Sampling (X-WAM): the video is never cleaner than the action. It uses b ~ Beta(1.5, 1).

    The action is clean in a fraction of the rows.
    """
    clean_action = _uniform(generator, batch) < clean_action_fraction
    action = torch.where(clean_action, torch.zeros(batch), _uniform(generator, batch))
    beta = _uniform(generator, batch) ** (1 / 1.5)  # the inverse CDF of Beta(1.5, 1)
    video = torch.where(clean_action, _uniform(generator, batch), action + (1 - action) * beta)
    return shift_sigma(video, video_shift)[:, None].expand(batch, frames), shift_sigma(action, action_shift)


def mixed(
    batch: int, frames: int, video_shift: float, action_shift: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw each row by one of the samplers `shared`, `independent` and `asynchronous`, with equal probability."""
    samples = [
        sampler(batch, frames, video_shift, action_shift, generator) for sampler in (shared, independent, asynchronous)
    ]
    choice = torch.randint(3, (batch,), generator=generator)
    rows = torch.arange(batch)
    video = torch.stack([video for video, _ in samples])[choice, rows]
    return video, torch.stack([action for _, action in samples])[choice, rows]


NOISE_SAMPLERS: dict[str, NoiseSampler] = {
    "shared": shared,
    "independent": independent,
    "synchronous": synchronous,
    "asynchronous": asynchronous,
    "mixed": mixed,
}


PER_FRAME_NOISE = ("independent", "mixed")
"""The samplers that give the future frames of a row different noise levels."""


def conditioning_levels(
    noise: str, batch: int, frames: int, shift: float, clean_fraction: float, generator: Generator
) -> Tensor:
    """Draw the levels [B, F] of the true future frames from which an action branch learns. Some frames stay clean.

    All frames of a row share a level, except under `independent` and in a third of the rows under `mixed`.
    """
    columns = frames if noise in PER_FRAME_NOISE else 1
    clean = _uniform(generator, batch, columns) < clean_fraction
    levels = shift_sigma(_uniform(generator, batch, columns), shift).masked_fill(clean, 0.0)
    if noise == "mixed":
        levels = torch.where(_uniform(generator, batch, 1) < 1 / 3, levels, levels[:, :1])
    return levels.expand(-1, frames)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return `(1 - sigma) x0 + sigma eps`. Sigma is [B], or [B, F] for tensors [B, C, F, ...]."""
    if sigma.ndim == 2:
        level = sigma[:, None, :].reshape(sigma.shape[0], 1, sigma.shape[1], *[1] * (clean.ndim - 3))
    else:
        level = sigma.reshape(-1, *[1] * (clean.ndim - 1))
    return (1 - level) * clean + level * noise
