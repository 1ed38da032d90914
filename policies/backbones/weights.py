"""Tensors of a checkpoint: weights in float16, statistics in float32, and the autoencoder that every family has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.pretraining import PretrainConfig
from policies.backbones.checkpoint_files import MODEL_FILE, VAE_FILE, existing, write_description
from policies.backbones.codecs import LatentCodec, build_vae

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The number types that `wam.dtype` names."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    statistics: Mapping[str, Tensor],
    codec: LatentCodec,
    config: PretrainConfig,
    recipe: dict[str, Any],
) -> None:
    """Write a checkpoint folder of a small backbone. `statistics` are its normalisation, by name.

    `recipe` (data hash, curves, measurements) is stored in `config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"statistics.{name}": value for name, value in statistics.items()}
    save_file(half_precision(model) | named, folder / MODEL_FILE)
    save_vae(folder, codec)
    write_description(folder, config, recipe)


def save_vae(folder: Path, codec: LatentCodec) -> None:
    statistics = {"statistics.mean": codec.mean.flatten(), "statistics.std": codec.std.flatten()}
    save_file(half_precision(codec.vae) | statistics, folder / VAE_FILE)


def load_vae(folder: Path, config: PretrainConfig) -> LatentCodec:
    tensors = read_tensors(folder / VAE_FILE)
    mean, std = take_statistics(tensors, ("mean", "std"), folder / VAE_FILE)
    vae = build_vae(config.vae)
    load_strictly(vae, tensors, folder / VAE_FILE)
    return LatentCodec(vae, mean, std)


def device_named(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("wam.device=cuda, but torch finds no CUDA device: use wam.device=auto")
    return name


def half_precision(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.float() for name, tensor in load_file(existing(path)).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged ({error}): delete it, or copy it again") from error


def take_statistics(tensors: dict[str, Tensor], names: Sequence[str], path: Path) -> list[Tensor]:
    missing = [name for name in names if f"statistics.{name}" not in tensors]
    if missing:
        raise ValueError(f"{path}: the normalisation is missing ({', '.join(missing)})")
    return [tensors.pop(f"statistics.{name}") for name in names]


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    expected = module.state_dict()
    missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    shapes = [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if missing or unknown or shapes:
        raise ValueError(
            f"{path}: does not fit the settings (missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}, "
            f"other shapes {sorted(shapes)[:3]})"
        )
    with torch.no_grad():
        module.load_state_dict(tensors)
