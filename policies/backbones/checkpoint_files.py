"""The folder of a World Action Model, without its tensors: its path, its settings, and checks for damage.

This module imports nothing heavy, so that a missing folder is reported before anything starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open

from configs.errors import WrongSetting
from configs.fetched import fetched
from configs.pretraining import PretrainConfig
from configs.stored import read_json

MODEL_FILE, VAE_FILE, CONFIG_FILE = "model.safetensors", "vae.safetensors", "config.json"
_FIX = "copy the folder again from an undamaged one, or train another with `make pretrain`"


def resolve_checkpoint(checkpoint: str, key: str = "wam.checkpoint") -> Path:
    """Find a checkpoint folder by an absolute path, or one relative to the working directory or to the project.

    What a URI names is fetched to the cache of this machine. Raises `WrongSetting`, which names the setting `key`, if
    there is none.
    """
    for folder in _places(checkpoint, key):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise WrongSetting(key, checkpoint, f"no {CONFIG_FILE} there; train one with `make pretrain`")


def holds_small_backbone(checkpoint: str) -> bool:
    """Whether a checkpoint is one of this project's own: other projects have a `config.json` too, but no such model."""
    places = _places(checkpoint, "pretrain.start_from")
    return not any(place.exists() for place in places) or any((place / MODEL_FILE).is_file() for place in places)


def _places(checkpoint: str, key: str) -> tuple[Path, Path]:
    return fetched(checkpoint, key), Path(__file__).resolve().parents[2] / checkpoint


def write_description(folder: Path, config: PretrainConfig, recipe: dict[str, Any]) -> None:
    """Write `config.json`. It must be written last, because it holds the hash of the weights."""
    settings = dataclasses.asdict(config)
    content = {
        "config": settings,
        "recipe": recipe,
        "weights_hash": weights_hash(folder),
        "config_hash": config_hash(settings),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_config(folder: Path, family: str = "") -> PretrainConfig:
    """Read a checkpoint's settings. ValueError names the file if it is damaged or its settings were changed by hand.

    If `family` is not empty, a checkpoint of another family is refused.
    """
    path, stored = folder / CONFIG_FILE, _read_section(folder, "config")
    wanted = _read_description(folder).get("config_hash", config_hash(stored))  # older checkpoints have none
    if config_hash(stored) != wanted:
        raise ValueError(
            f"{path}: its settings were changed after training (hash {config_hash(stored)}, it says {wanted}): {_FIX}"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PretrainConfig), stored)
        settings: PretrainConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: its settings are not of this version ({error.full_key}: {reason})") from error
    if family and settings.family != family:
        raise ValueError(
            f"{folder} holds a backbone of the family {settings.family}: use wam.backbone={settings.family}"
        )
    return settings


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read how a checkpoint was made: data hash, curves, measurements, and the recipe of its own start."""
    return _read_section(folder, "recipe")


def stored_hash(folder: Path) -> str:
    """Return the hash of the weights that `config.json` holds. Raise ValueError if there is none."""
    found = _read_description(folder).get("weights_hash")
    if not isinstance(found, str):
        raise ValueError(f"{folder / CONFIG_FILE}: it names no weights_hash: {_FIX}")
    return found


def header_shape(path: Path, tensor: str) -> tuple[int, ...]:
    """Return the shape of one tensor of a safetensors file, from its header. Raise ValueError for a damaged file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return tuple(file.get_slice(tensor).get_shape())
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated, damaged or without {tensor} ({error}): {_FIX}") from error


def stored_arrays(path: Path, tensors: Sequence[str]) -> list[npt.NDArray[np.float64]]:
    """Return small tensors of a safetensors file, without reading the others. Raise ValueError for a damaged file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return [file.get_tensor(name).astype(np.float64) for name in tensors]
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated, damaged or without {tensors} ({error}): {_FIX}") from error


def verified_hash(folder: Path) -> str:
    """Return the hash of the weights. Raise ValueError, which names the files, if it is not the stored hash."""
    found, stored = weights_hash(folder), stored_hash(folder)
    if found != stored:
        raise ValueError(
            f"{folder}: {MODEL_FILE} or {VAE_FILE} is truncated or was changed (hash {found}, {CONFIG_FILE} says "
            f"{stored}): {_FIX}"
        )
    return found


def weights_hash(folder: Path) -> str:
    """Hash both weight files to 16 hex digits. Caches and trained schedules are bound to this hash."""
    digest = hashlib.sha256()
    for name in (MODEL_FILE, VAE_FILE):
        digest.update(existing(folder / name).read_bytes())
    return digest.hexdigest()[:16]


def config_hash(settings: dict[str, Any]) -> str:
    """Hash the settings to 16 hex digits. The order of the keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def existing(path: Path) -> Path:
    """Return `path`. Raise ValueError if there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; the checkpoint folder is incomplete")
    return path


def _read_section(folder: Path, name: str) -> dict[str, Any]:
    section = _read_description(folder).get(name)
    if not isinstance(section, dict):
        raise ValueError(f"{folder / CONFIG_FILE}: it has no section {name!r}: {_FIX}")
    return section


def _read_description(folder: Path) -> dict[str, Any]:
    return read_json(existing(folder / CONFIG_FILE), dict[str, Any], f"{_FIX[0].upper()}{_FIX[1:]}.")
