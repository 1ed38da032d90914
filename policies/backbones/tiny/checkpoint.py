"""A World Action Model on disk: a folder with `model.safetensors`, `vae.safetensors` and `config.json`.

Weights are stored in float16 and loaded as float32, so that every machine computes with the same numbers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from configs.pretraining import PretrainConfig
from configs.schema import WAMConfig
from policies.backbones.checkpoint_files import MODEL_FILE, read_config, resolve_checkpoint, verified_hash
from policies.backbones.codecs import LatentCodec
from policies.backbones.tiny.described import find_file
from policies.backbones.tiny.model import ActionStatistics, FrozenWorldActionModel, WorldActionModel
from policies.backbones.tiny.value import load_value
from policies.backbones.tiny.value_reader import load_reader
from policies.backbones.weights import (
    DTYPES,
    device_named,
    load_strictly,
    load_vae,
    read_tensors,
    save_checkpoint,
    take_statistics,
)


def save_wam(
    folder: Path,
    model: WorldActionModel,
    codec: LatentCodec,
    statistics: ActionStatistics,
    config: PretrainConfig,
    recipe: dict[str, Any],
) -> None:
    """Write a checkpoint. `recipe` (data hash, curves, measurements) is stored in `config.json`."""
    save_checkpoint(folder, model, vars(statistics), codec, config, recipe)


def load_frozen(config: WAMConfig) -> FrozenWorldActionModel:
    """Load the frozen backbone of a checkpoint folder. ValueError says what is missing, damaged or does not fit."""
    folder = resolve_checkpoint(config.checkpoint)
    settings, weights_hash = read_config(folder, "tiny"), verified_hash(folder)
    codec = load_vae(folder, settings)
    model, statistics = _load_model(folder, settings)
    value, reader = None, None
    if config.value:
        value = load_value(find_file(config.value), weights_hash)
    if config.value_reader:
        reader = load_reader(find_file(config.value_reader), weights_hash, value.weights_hash if value else "")
    return FrozenWorldActionModel(
        model,
        codec,
        statistics,
        settings,
        weights_hash,
        device=device_named(config.device),
        dtype=DTYPES[config.dtype],
        value=value,
        reader=reader,
    )


def load_start(config: PretrainConfig) -> tuple[WorldActionModel, LatentCodec, ActionStatistics]:
    """Load the model, the codec and the normalisation of `config.start_from`, to train them further in Stage 1.

    The model is built under the new settings, so only settings of the training (noise, steps, learning rate) may differ
    from those of the checkpoint. Raises ValueError if something does not fit.
    """
    folder = resolve_checkpoint(config.start_from, key="pretrain.start_from")
    verified_hash(folder)
    if (family := read_config(folder).family) != "tiny":
        raise ValueError(f"pretrain.start_from={folder} is of the family {family}: use pretrain.family={family}")
    model, statistics = _load_model(folder, config)
    return model, load_vae(folder, config), statistics


def _load_model(folder: Path, settings: PretrainConfig) -> tuple[WorldActionModel, ActionStatistics]:
    model = WorldActionModel(settings)
    tensors = read_tensors(folder / MODEL_FILE)
    names = [field.name for field in dataclasses.fields(ActionStatistics)]
    statistics = ActionStatistics(*take_statistics(tensors, names, folder / MODEL_FILE))
    load_strictly(model, tensors, folder / MODEL_FILE)
    return model, statistics
