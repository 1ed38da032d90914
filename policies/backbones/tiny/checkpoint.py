"""A World Action Model on disk: a folder with `model.safetensors`, `vae.safetensors` and `config.json`.

Weights are stored in float16 and loaded as float32, so that every machine computes with the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.pretraining import PretrainConfig
from configs.schema import WAMConfig
from policies.backbones.checkpoint_files import (
    MODEL_FILE,
    VAE_FILE,
    existing,
    read_config,
    resolve_checkpoint,
    verified_hash,
    write_description,
)
from policies.backbones.codecs import LatentCodec, build_vae
from policies.backbones.tiny.model import ActionStatistics, FrozenWorldActionModel, WorldActionModel


def save_wam(
    folder: Path,
    model: WorldActionModel,
    codec: LatentCodec,
    statistics: ActionStatistics,
    config: PretrainConfig,
    recipe: dict[str, Any],
) -> None:
    """Write a checkpoint. `recipe` (data hash, curves, measurements) is stored in `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _half(model) | {
        f"statistics.{field.name}": getattr(statistics, field.name) for field in dataclasses.fields(statistics)
    }
    save_file(tensors, folder / MODEL_FILE)
    save_vae(folder, codec)
    write_description(folder, config, recipe)


def save_vae(folder: Path, codec: LatentCodec) -> None:
    statistics = {"statistics.mean": codec.mean.flatten(), "statistics.std": codec.std.flatten()}
    save_file(_half(codec.vae) | statistics, folder / VAE_FILE)


def load_vae(folder: Path, config: PretrainConfig) -> LatentCodec:
    tensors = _read(folder / VAE_FILE)
    mean, std = _take_statistics(tensors, ("mean", "std"), folder / VAE_FILE)
    vae = build_vae(config.vae)
    _load_strictly(vae, tensors, folder / VAE_FILE)
    return LatentCodec(vae, mean, std)


def load_frozen(config: WAMConfig) -> FrozenWorldActionModel:
    """Load the frozen backbone of a checkpoint folder. ValueError says what is missing, damaged or does not fit."""
    folder = resolve_checkpoint(config.checkpoint)
    settings, weights_hash = read_config(folder), verified_hash(folder)
    codec = load_vae(folder, settings)
    model, statistics = _load_model(folder, settings)
    return FrozenWorldActionModel(
        model,
        codec,
        statistics,
        settings,
        weights_hash,
        device=_device(config.device),
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype],
    )


def load_start(config: PretrainConfig) -> tuple[WorldActionModel, LatentCodec, ActionStatistics]:
    """Load the model, the codec and the normalisation of `config.start_from`, to train them further in Stage 1.

    The model is built under the new settings, so only settings of the training (noise, steps, learning rate) may differ
    from those of the checkpoint. Raises ValueError if something does not fit.
    """
    folder = resolve_checkpoint(config.start_from, key="pretrain.start_from")
    verified_hash(folder)
    model, statistics = _load_model(folder, config)
    return model, load_vae(folder, config), statistics


def _load_model(folder: Path, settings: PretrainConfig) -> tuple[WorldActionModel, ActionStatistics]:
    model = WorldActionModel(settings)
    tensors = _read(folder / MODEL_FILE)
    names = [field.name for field in dataclasses.fields(ActionStatistics)]
    statistics = ActionStatistics(*_take_statistics(tensors, names, folder / MODEL_FILE))
    _load_strictly(model, tensors, folder / MODEL_FILE)
    return model, statistics


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("wam.device=cuda, but torch finds no CUDA device: use wam.device=auto")
    return name


def _half(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.float() for name, tensor in load_file(existing(path)).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged ({error}): delete it, or copy it again") from error


def _take_statistics(tensors: dict[str, Tensor], names: Sequence[str], path: Path) -> list[Tensor]:
    missing = [name for name in names if f"statistics.{name}" not in tensors]
    if missing:
        raise ValueError(f"{path}: the normalisation is missing ({', '.join(missing)})")
    return [tensors.pop(f"statistics.{name}") for name in names]


def _load_strictly(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
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
