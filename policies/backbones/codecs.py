"""The codecs between pixels, words and a World Action Model.

The cameras are placed on one canvas, the head camera on top and the two wrist cameras side by side below (as in
Fast-WAM), and compressed 16 x 16 x 4 by `AutoencoderKLWan`. Words are hashed, so the text encoder needs no vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from diffusers.models import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from configs.pretraining import VAEConfig, VideoExpertConfig
from policies.backbones.shapes import TEXT_LENGTH

VOCABULARY = 512

Stream = tuple[Tensor | None, ...]
"""The state of the autoencoder's encoder within videos: what each of its convolutions keeps of the pictures before."""


def compose_canvas(
    head: npt.NDArray[np.uint8], left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8], head_size: int = 64
) -> npt.NDArray[np.uint8]:
    """Place three views [..., H, W, 3] on a canvas [..., 1.5 s, s, 3] with s = `head_size`. Other sizes are resized."""
    wrists = np.concatenate([_resize(left, head_size // 2), _resize(right, head_size // 2)], axis=-2)
    return np.concatenate([_resize(head, head_size), wrists], axis=-3)


def split_canvas(canvas: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Cut a canvas [..., 1.5 s, s, n] into the views that `compose_canvas` placed on it, by the camera's name."""
    size = canvas.shape[-2]
    wrists = canvas[..., size:, :, :]
    return {
        "head": canvas[..., :size, :, :],
        "left_wrist": wrists[..., : size // 2, :],
        "right_wrist": wrists[..., size // 2 :, :],
    }


def _resize(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    if images.shape[-3:-1] == (size, size):
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    resized = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in flat])
    return resized.reshape(*images.shape[:-3], size, size, 3).astype(np.uint8)


def to_video(canvas: npt.NDArray[np.uint8]) -> Tensor:
    """Convert uint8 [B, T, H, W, 3] to float32 [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(canvas)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def build_vae(config: VAEConfig) -> AutoencoderKLWan:
    """Build Wan2.2's autoencoder at a small width. It maps [3, 4k+1, H, W] to [z, k+1, H/16, W/16]."""
    return AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.base_dim,
        z_dim=config.z_dim,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
    )


class LatentCodec:
    """A frozen autoencoder with mean and deviation of each channel. Not for two threads: diffusers caches on it."""

    def __init__(self, vae: AutoencoderKLWan, mean: Tensor, std: Tensor) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.mean = mean.reshape(1, -1, 1, 1, 1)
        self.std = std.reshape(1, -1, 1, 1, 1)

    @torch.no_grad()
    def encode(self, canvas: npt.NDArray[np.uint8]) -> Tensor:
        """Encode uint8 [B, T, H, W, 3], T = 4k+1, as normalised latents float32 [B, C, k+1, H/16, W/16]."""
        video = to_video(canvas).to(self.mean.device, self.vae.dtype)
        return (self.vae.encode(video).latent_dist.mode().float() - self.mean) / self.std

    @torch.no_grad()
    def encode_on(self, pictures: npt.NDArray[np.uint8], stream: Stream | None = None) -> tuple[Tensor, Stream]:
        """Encode the next pictures uint8 [B, T, H, W, 3] of videos: T = 4k + 1 to begin, T = 4k to go on.

        `stream` is what the call for the pictures before them returned beside the latents; it does not change. All
        latents of a video together are those of `encode`.
        """
        video = to_video(pictures).to(self.mean.device, self.vae.dtype)
        if self.vae.config["patch_size"] is not None:
            video = patchify(video, self.vae.config["patch_size"])
        features = [None] * self.vae._cached_conv_counts["encoder"] if stream is None else list(stream)
        cuts = list(range(1 if stream is None else 4, video.shape[2], 4))
        parts = video.tensor_split(cuts, dim=2)
        moments = torch.cat([self.vae.encoder(part, feat_cache=features, feat_idx=[0]) for part in parts], dim=2)
        mean = self.vae.quant_conv(moments).chunk(2, dim=1)[0]
        return (mean.float() - self.mean) / self.std, tuple(features)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> npt.NDArray[np.uint8]:
        """Decode normalised latents [B, C, k+1, h, w] to uint8 [B, 4k+1, H, W, 3]."""
        return ((self.decode_signal(latents) + 1) * 127.5).round().astype(np.uint8)

    @torch.no_grad()
    def decode_signal(self, latents: Tensor) -> npt.NDArray[np.float32]:
        """Do the same without rounding: float32 [B, 4k+1, H, W, 3] in [-1, 1]."""
        video = self.vae.decode((latents * self.std + self.mean).to(self.vae.dtype)).sample.clamp(-1, 1)
        signal: npt.NDArray[np.float32] = video.float().permute(0, 2, 3, 4, 1).cpu().numpy()
        return signal

    def to(self, device: torch.device) -> LatentCodec:
        self.vae.to(device)  # type: ignore[arg-type]
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self


def hash_words(instruction: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return word ids and attention mask, int64 [TEXT_LENGTH] each. Id 0 is padding; equal words have equal ids."""
    words = instruction.lower().replace(".", " ").replace(",", " ").split()[:TEXT_LENGTH]
    ids = np.zeros(TEXT_LENGTH, dtype=np.int64)
    ids[: len(words)] = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words]
    return ids, (ids > 0).astype(np.int64)


def build_text_encoder(config: VideoExpertConfig) -> UMT5EncoderModel:
    """Build the encoder of Wan's text model at a small size."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "d_model": config.text_dim,
        "d_kv": config.text_dim // 4,
        "d_ff": 2 * config.text_dim,
        "num_layers": config.text_layers,
        "num_heads": 4,
        "dropout_rate": 0.0,
    }
    return UMT5EncoderModel(UMT5Config(**settings))


def encode_text(encoder: UMT5EncoderModel, instructions: list[str]) -> Tensor:
    """Return text features [B, TEXT_LENGTH, text_dim], which are 0 after the end of each instruction (as in Wan)."""
    ids, masks = zip(*(hash_words(instruction) for instruction in instructions), strict=True)
    device = encoder.device
    mask = torch.from_numpy(np.stack(masks)).to(device)
    features: Tensor = encoder(torch.from_numpy(np.stack(ids)).to(device), attention_mask=mask).last_hidden_state
    return features * mask[..., None]


def encode_indexed(encoder: UMT5EncoderModel, instructions: Sequence[str], index: Tensor) -> Tensor:
    """Return the text features [B, TEXT_LENGTH, text_dim] of `instructions[i]` for every i in `index`, int64 [B].

    Each instruction is encoded once.
    """
    used, inverse = torch.unique(index, return_inverse=True)
    return encode_text(encoder, [instructions[i] for i in used.tolist()])[inverse]
