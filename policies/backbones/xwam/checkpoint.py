"""An X-WAM on disk: the same files as every small backbone, `model.safetensors`, `vae.safetensors`, `config.json`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.pretraining import PretrainConfig
from configs.schema import WAMConfig
from policies.backbones.checkpoint_files import (
    MODEL_FILE,
    read_config,
    resolve_checkpoint,
    verified_hash,
    write_description,
)
from policies.backbones.codecs import LatentCodec
from policies.backbones.robot import ACTION_DIM
from policies.backbones.stages import Start
from policies.backbones.weights import (
    device_named,
    half_precision,
    load_strictly,
    load_vae,
    read_tensors,
    save_vae,
    take_statistics,
)
from policies.backbones.xwam.frozen import FrozenXWAM
from policies.backbones.xwam.model import XWAM
from policies.backbones.xwam.quantities import Quantities

SHARED = ("video.", "text_encoder.")  # the networks that the family `tiny` has too
NAMES = [field.name for field in dataclasses.fields(Quantities)]


def save_wam(
    folder: Path,
    model: XWAM,
    codec: LatentCodec,
    quantities: Quantities,
    config: PretrainConfig,
    recipe: dict[str, Any],
) -> None:
    """Write a checkpoint. `recipe` (data hash, curves, measurements) is stored in `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        half_precision(model) | {f"statistics.{name}": getattr(quantities, name) for name in NAMES},
        folder / MODEL_FILE,
    )
    save_vae(folder, codec)
    write_description(folder, config, recipe)


def load_frozen(config: WAMConfig) -> FrozenXWAM:
    """Load the frozen backbone of a checkpoint folder. ValueError says what is missing, damaged or does not fit."""
    folder = resolve_checkpoint(config.checkpoint)
    settings, weights_hash = read_config(folder, "xwam"), verified_hash(folder)
    model, quantities = _load_model(folder, settings)
    return FrozenXWAM(
        model,
        load_vae(folder, settings),
        quantities,
        settings,
        weights_hash,
        device=device_named(config.device),
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype],
    )


def load_start(config: PretrainConfig) -> Start:
    """Load `config.start_from`. Raises ValueError if something does not fit."""
    folder = resolve_checkpoint(config.start_from, key="pretrain.start_from")
    verified_hash(folder)
    if read_config(folder).family == "xwam":
        model, quantities = _load_model(folder, config)
        return Start(model, load_vae(folder, config), quantities, trains_codec=False)
    model = XWAM(config, ACTION_DIM)
    stored = {name: tensor for name, tensor in read_tensors(folder / MODEL_FILE).items() if name.startswith(SHARED)}
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(SHARED)}
    fitted = {name: _widened(tensor, own[name]) if name in own else tensor for name, tensor in stored.items()}
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(SHARED)}
    load_strictly(model, fitted | others, folder / MODEL_FILE)
    model.copy_last_blocks_to_depth()
    return Start(model, load_vae(folder, config), None, trains_codec=True)


def _widened(stored: Tensor, own: Tensor) -> Tensor:
    """Return `stored` with the further channels of `own`, at the end of its first or second dimension.

    Further input channels start at 0, so that the network begins as it was.
    """
    if stored.shape == own.shape or stored.ndim != own.ndim:
        return stored
    out = own.clone()
    if stored.shape[0] == own.shape[0]:  # the weights that embed patches: more input channels
        out.zero_()
        out[:, : stored.shape[1]] = stored
    else:  # the head: more output channels
        out[: len(stored)] = stored
    return out


def _load_model(folder: Path, settings: PretrainConfig) -> tuple[XWAM, Quantities]:
    tensors = read_tensors(folder / MODEL_FILE)
    quantities = Quantities(*take_statistics(tensors, NAMES, folder / MODEL_FILE))
    model = XWAM(settings, len(quantities.action_scale))
    load_strictly(model, tensors, folder / MODEL_FILE)
    return model, quantities
