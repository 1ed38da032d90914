"""The value expert (WAV 4.2): it predicts the discounted return of an imagined future by flow matching.

Each block attends to the keys and values of the video block of the same depth, at the video's own noise levels. The
video never reads the value; an action branch may (`value_reader.py`). One token stands for one value noise. Tokens do
not attend to each other, so that any number of value noises shares one forward of the video and none changes the
prediction of another.

Shapes: B batch, N value noises, H returns of a prediction, S tokens of the video, W width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from configs.errors import WrongSetting
from configs.value import ValueExpertConfig
from policies.backbones.door import ValueSpec
from policies.backbones.flow import shifted_grid
from policies.backbones.tiny.described import hash_of_file, read_description, save_described
from policies.backbones.tiny.experts import feed_forward
from policies.backbones.wan import KeysValues, attend
from policies.backbones.weights import load_strictly, read_tensors
from policies.layers import SigmaEmbedding

LEAST_STD = 1e-6
NOISES_TOGETHER = 64
"""The value noises of a row that are denoised together at most, so that their number does not decide the memory."""


@dataclass(frozen=True)
class ValueDimensions:
    """What a value expert has to know of the video expert whose keys and values it reads."""

    layers: int
    heads: int
    head_dim: int


class ValueBlock(nn.Module):
    """A block in which value tokens attend to the video; the value's own noise level modulates it."""

    def __init__(self, config: ValueExpertConfig, dimensions: ValueDimensions) -> None:
        super().__init__()
        width, inner = config.hidden, dimensions.heads * dimensions.head_dim
        self.heads = dimensions.heads
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.to_q = nn.Linear(width, inner)
        self.norm_q = nn.RMSNorm(dimensions.head_dim)
        self.to_out = nn.Linear(inner, width)
        self.norm_ffn = nn.LayerNorm(width, elementwise_affine=False)
        self.ffn = feed_forward(width, config.ffn_dim)

    def forward(self, tokens: Tensor, condition: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        """Return tokens [B, N, W], from their noise level's features [B, N, W] and the video's keys and values."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(condition).chunk(6, dim=-1)
        asked = self.to_q(self.norm_attention(tokens) * (1 + scale) + shift).unflatten(-1, (self.heads, -1))
        tokens = tokens + gate * self.to_out(attend(self.norm_q(asked).type_as(asked), *memory))
        return tokens + ffn_gate * self.ffn(self.norm_ffn(tokens) * (1 + ffn_scale) + ffn_shift)


class ValueExpert(nn.Module):
    """Predicts the velocity of normalised returns, and denoises them from value noises."""

    mean: Tensor  # float32 [H]: the normalisation
    std: Tensor
    lowest: Tensor  # float32 []

    def __init__(self, config: ValueExpertConfig, dimensions: ValueDimensions) -> None:
        super().__init__()
        self.config, self.dimensions = config, dimensions
        self.weights_hash = ""  # that of the file from which it was loaded
        self.embed = nn.Linear(config.horizon, config.hidden)
        self.sigma = SigmaEmbedding(config.hidden)
        self.blocks = nn.ModuleList(ValueBlock(config, dimensions) for _ in range(dimensions.layers))
        self.norm_out = nn.LayerNorm(config.hidden)
        self.head = nn.Linear(config.hidden, config.horizon)
        self.register_buffer("mean", torch.zeros(config.horizon))
        self.register_buffer("std", torch.ones(config.horizon))
        self.register_buffer("lowest", torch.zeros(()))

    @property
    def spec(self) -> ValueSpec:
        return ValueSpec(self.config.horizon, self.config.horizon, float(self.lowest), self.weights_hash)

    def normalise_by(self, returns: Tensor) -> None:
        """Take mean, standard deviation and lowest value of the returns [n, H] of the training."""
        self.mean.copy_(returns.mean(dim=0))
        self.std.copy_(returns.std(dim=0, correction=0).clamp_min(LEAST_STD))
        self.lowest.copy_(returns.min())

    def forward(self, noisy: Tensor, sigma: Tensor, memory: KeysValues) -> Tensor:
        """Return the velocity [B, N, H] of noisy normalised returns [B, N, H] at their noise levels [B, N]."""
        flow: Tensor = self.head(self.norm_out(self._run(noisy, sigma, memory)[-1]))
        return flow

    def _run(self, noisy: Tensor, sigma: Tensor, memory: KeysValues) -> list[Tensor]:
        """Return the tokens [B, N, W] after every block."""
        tokens, condition = self.embed(noisy), self.sigma(sigma)
        after = []
        for block, keys_values in zip(self.blocks, memory, strict=True):
            tokens = block(tokens, condition, keys_values)
            after.append(tokens)
        return after

    def predict(self, memory: KeysValues, noises: Tensor) -> Tensor:
        """Denoise value noises [B, N, H] to returns float32 [B, N, H], in the units of the dense reward."""
        parts = [self._denoise(memory, part) for part in noises.split(NOISES_TOGETHER, dim=1)]
        return self.mean + self.std * torch.cat(parts, dim=1)

    def features(self, memory: KeysValues, noises: Tensor) -> Tensor:
        """Denoise value noises [B, H], one for each row, and return the tokens of the clean values after each block.

        Returns [B, L, W] for L blocks: the value features that an action reads (Equation 3).
        """
        clean = self._denoise(memory, noises[:, None])
        return torch.cat(self._run(clean, torch.zeros_like(clean[..., 0]), memory), dim=1)

    def _denoise(self, memory: KeysValues, noises: Tensor) -> Tensor:
        """Denoise value noises [B, N, H] to normalised returns float32 [B, N, H]."""
        values = noises
        for level, lower in pairwise(shifted_grid(self.config.steps, 1.0).to(noises.device)):
            flow = self(values, level.expand(values.shape[:2]), memory)
            values = values + (lower - level) * flow.float()
        return values

    def loss(self, memory: KeysValues, returns: Tensor, generator: Generator) -> Tensor:
        """Return the flow-matching loss of true returns [B, H]. Gradients go to this expert alone.

        Each return is noised to a level of its own, drawn uniformly.
        """
        frozen = [(key.detach(), value.detach()) for key, value in memory]
        target = ((returns - self.mean) / self.std)[:, None]
        noise = torch.randn(target.shape, generator=generator).to(target)
        sigma = torch.rand(target.shape[:2], generator=generator).to(target)
        noisy = (1 - sigma[..., None]) * target + sigma[..., None] * noise
        return ((self(noisy, sigma, frozen).float() - (noise - target)) ** 2).mean()


def save_value(path: Path, expert: ValueExpert, backbone_hash: str, recipe: dict[str, Any] | None = None) -> None:
    """Write a value expert as one safetensors file, with its settings, the hash of its backbone and how it was made."""
    described = {
        "config": asdict(expert.config),
        "dimensions": asdict(expert.dimensions),
        "lowest": float(expert.lowest),
        "backbone_hash": backbone_hash,
        "recipe": recipe or {},
    }
    save_described(path, expert, described)


@dataclass(frozen=True)
class _Described:
    config: ValueExpertConfig
    dimensions: ValueDimensions
    lowest: float
    backbone_hash: str
    recipe: dict[str, Any] = field(default_factory=dict)


def describe_value(path: Path, backbone_hash: str) -> ValueSpec:
    """Describe the value expert in a file without reading its weights. Raises ValueError as `load_value` does."""
    described = _read(path, backbone_hash)
    horizon = described.config.horizon
    return ValueSpec(horizon, horizon, described.lowest, hash_of_file(path))


def load_value(path: Path, backbone_hash: str) -> ValueExpert:
    """Load the frozen value expert in a file.

    Raises ValueError, which names the file, if it is missing, damaged or was trained on another backbone.
    """
    described = _read(path, backbone_hash)
    expert = ValueExpert(described.config, described.dimensions)
    load_strictly(expert, read_tensors(path), path)
    expert.weights_hash = hash_of_file(path)
    return expert.eval().requires_grad_(False)


def _read(path: Path, backbone_hash: str) -> _Described:
    described = read_description(path, _Described, "wam.value", "a value expert")
    if described.backbone_hash != backbone_hash:
        raise WrongSetting(
            "wam.value",
            str(path),
            f"this value expert was trained on backbone {described.backbone_hash}, the loaded one is {backbone_hash}: "
            "load that backbone, or train a value expert on this one",
        )
    return described
