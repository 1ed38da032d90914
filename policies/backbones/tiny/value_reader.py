"""The third stage of WAV (Equation 3): what lets an action branch read the value expert as well as the video.

After each of its blocks, the action's tokens attend to the value's token as it is after every block of the value expert
(one token would be no choice: its weight is always 1). What they read is added to them. It is 0 before any training, so
that the backbone then gives the same actions as without it. Video, value expert and action branch stay as they are;
only these layers learn.

Shapes: B batch, T + 1 tokens of the action, D their width, L blocks of the value expert, W their width.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from configs.errors import WrongSetting
from configs.value import ValueReaderConfig
from policies.backbones.door import WAMSpec
from policies.backbones.tiny.described import hash_of_file, read_description, save_described
from policies.backbones.tiny.experts import Reading
from policies.backbones.wan import attend
from policies.backbones.weights import load_strictly, read_tensors


@dataclass(frozen=True)
class ReaderDimensions:
    """What a reader has to know of the action branch and of the value expert."""

    blocks: int  # of the action branch
    width: int  # D
    value_width: int  # W


class ValueCrossAttention(nn.Module):
    """Attention from action tokens [B, T + 1, D] to value features [B, L, W]. Its output is 0 before any training."""

    def __init__(self, config: ValueReaderConfig, dimensions: ReaderDimensions) -> None:
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_dim
        self.norm_tokens = nn.LayerNorm(dimensions.width)
        self.norm_values = nn.LayerNorm(dimensions.value_width)
        self.to_q = nn.Linear(dimensions.width, inner)
        self.to_kv = nn.Linear(dimensions.value_width, 2 * inner)
        self.norm_q, self.norm_k = nn.RMSNorm(config.head_dim), nn.RMSNorm(config.head_dim)
        self.to_out = nn.Linear(inner, dimensions.width)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        query = self.to_q(self.norm_tokens(tokens)).unflatten(-1, (self.heads, -1))
        key, value = self.to_kv(self.norm_values(values)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        out: Tensor = self.to_out(attend(self.norm_q(query).type_as(query), self.norm_k(key).type_as(key), value))
        return out


class ValueReader(nn.Module):
    """One attention to the value features after each block of the action branch."""

    def __init__(self, config: ValueReaderConfig, dimensions: ReaderDimensions) -> None:
        super().__init__()
        self.config, self.dimensions = config, dimensions
        self.weights_hash = ""  # that of the file from which it was loaded
        self.blocks = nn.ModuleList(ValueCrossAttention(config, dimensions) for _ in range(dimensions.blocks))

    def forward(self, values: Tensor, number: int, tokens: Tensor) -> Tensor:
        """Return what is added to the tokens [B, T + 1, D] after the block `number`, from value features [B, L, W]."""
        added: Tensor = self.blocks[number](tokens, values)
        return added

    def reading(self, values: Tensor) -> Reading:
        """Return the reading of value features [B, L, W], as the action branch takes it."""
        return partial(self, values)


def save_reader(
    path: Path, reader: ValueReader, backbone_hash: str, value_hash: str, recipe: dict[str, Any] | None = None
) -> None:
    """Write a reader as one safetensors file: its settings, the hashes of what it belongs to, and how it was made."""
    described = {
        "reader": asdict(reader.config),
        "dimensions": asdict(reader.dimensions),
        "backbone_hash": backbone_hash,
        "value_hash": value_hash,
        "recipe": recipe or {},
    }
    save_described(path, reader, described)


@dataclass(frozen=True)
class _Described:
    reader: ValueReaderConfig
    dimensions: ReaderDimensions
    backbone_hash: str
    value_hash: str
    recipe: dict[str, Any] = field(default_factory=dict)


def describe_reader(path: Path, backbone_hash: str, value_hash: str) -> str:
    """Return the hash of the reader in a file without reading its weights. Raises ValueError as `load_reader` does."""
    _read(path, backbone_hash, value_hash)
    return hash_of_file(path)


def spec_with_reader(spec: WAMSpec, reader_hash: str) -> WAMSpec:
    """Return the description of a backbone whose action reads the values of its value expert too.

    It gives other actions than the one without, so that it has a hash of its own: schedules are trained for it, and
    results are stored for it, as for any other backbone.
    """
    assert spec.value is not None
    weights_hash = hashlib.sha256(f"{spec.weights_hash}/{reader_hash}".encode()).hexdigest()[:16]
    return replace(spec, weights_hash=weights_hash, value=replace(spec.value, reader_hash=reader_hash))


def load_reader(path: Path, backbone_hash: str, value_hash: str) -> ValueReader:
    """Load the frozen reader in a file.

    Raises ValueError, which names the file, if it is missing, damaged, or was trained on another backbone or with
    another value expert. An empty `value_hash` stands for no value expert.
    """
    described = _read(path, backbone_hash, value_hash)
    reader = ValueReader(described.reader, described.dimensions)
    load_strictly(reader, read_tensors(path), path)
    reader.weights_hash = hash_of_file(path)
    return reader.eval().requires_grad_(False)


def _read(path: Path, backbone_hash: str, value_hash: str) -> _Described:
    key = "wam.value_reader"
    if not value_hash:
        raise WrongSetting(key, str(path), f"there is no value expert to read: set wam.value, or leave {key} empty")
    described = read_description(path, _Described, key, "a reader of values")
    for name, trained, loaded in (
        ("backbone", described.backbone_hash, backbone_hash),
        ("value expert", described.value_hash, value_hash),
    ):
        if trained != loaded:
            raise WrongSetting(
                key,
                str(path),
                f"it was trained with {name} {trained}, the loaded one is {loaded}: load that {name}, or train a "
                "reader with this one (launch.value with value.stages=[action])",
            )
    return described
