"""An X-WAM on disk: the same files as every small backbone, `model.safetensors`, `vae.safetensors`, `config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from configs.pretraining import PretrainConfig
from configs.schema import WAMConfig
from policies.backbones.checkpoint_files import MODEL_FILE, read_config, resolve_checkpoint, verified_hash
from policies.backbones.codecs import LatentCodec
from policies.backbones.robot import ACTION_DIM
from policies.backbones.stages import Start
from policies.backbones.weights import (
    DTYPES,
    device_named,
    load_strictly,
    load_vae,
    read_tensors,
    save_checkpoint,
)
from policies.backbones.xwam.frozen import FrozenXWAM
from policies.backbones.xwam.model import XWAM
from policies.backbones.xwam.quantities import Quantities

SHARED = ("video.", "text_encoder.")  # the networks that the family `tiny` has too
DEPTH = "depth."  # the depth branch
AS_WIDE_AS_DEPTH_NEEDS = (  # channels and views of their own for depth, in two of its designs
    "video.patch_embedding.weight",
    "video.proj_out.weight",
    "video.proj_out.bias",
    "view_embedding.weight",
)


def save_wam(
    folder: Path,
    model: XWAM,
    codec: LatentCodec,
    quantities: Quantities,
    config: PretrainConfig,
    recipe: dict[str, Any],
) -> None:
    """Write a checkpoint. `recipe` (data hash, curves, measurements) is stored in `config.json`."""
    save_checkpoint(folder, model, quantities.tensors(), codec, config, recipe)


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
        dtype=DTYPES[config.dtype],
    )


def load_start(config: PretrainConfig) -> Start:
    """Load `config.start_from`. Raises ValueError if something does not fit.

    A video model of the family `tiny` gives the networks that both families have. An X-WAM with another design of depth
    gives everything but its depth.
    """
    folder = resolve_checkpoint(config.start_from, key="pretrain.start_from")
    verified_hash(folder)
    settings = read_config(folder)
    designs = [(one.xwam.depth, one.xwam.depth_layers) for one in (settings, config)]
    if settings.family == "xwam" and designs[0] == designs[1]:
        same, known = _load_model(folder, config)
        return Start(same, load_vae(folder, config), known, trains_codec=False)
    model, stored = XWAM(config, ACTION_DIM), read_tensors(folder / MODEL_FILE)
    own = model.state_dict()
    quantities = None
    if settings.family == "xwam":
        quantities = Quantities.taken(stored, config.xwam.actions, folder / MODEL_FILE)
        given = {name: tensor for name, tensor in stored.items() if not name.startswith(DEPTH)}
        fresh = {name: tensor for name, tensor in own.items() if name.startswith(DEPTH)}
    else:
        given = {name: tensor for name, tensor in stored.items() if name.startswith(SHARED)}
        fresh = {name: tensor for name, tensor in own.items() if not name.startswith(SHARED)}
    given |= {name: _resized(given[name], own[name]) for name in AS_WIDE_AS_DEPTH_NEEDS if name in given}
    load_strictly(model, given | fresh, folder / MODEL_FILE)
    model.copy_last_blocks_to_depth()
    return Start(model, load_vae(folder, config), quantities, trains_codec=quantities is None)


def _resized(stored: Tensor, own: Tensor) -> Tensor:
    """Return `own` with all that `stored` has for it. Further inputs start at 0: the network begins as it was."""
    out = own.clone()
    if own.ndim > 1 and own.shape[1] > stored.shape[1]:
        out.zero_()
    common = tuple(slice(min(sizes)) for sizes in zip(stored.shape, own.shape, strict=True))
    out[common] = stored[common]
    return out


def _load_model(folder: Path, settings: PretrainConfig) -> tuple[XWAM, Quantities]:
    tensors = read_tensors(folder / MODEL_FILE)
    quantities = Quantities.taken(tensors, settings.xwam.actions, folder / MODEL_FILE)
    model = XWAM(settings, len(quantities.action_scale))
    load_strictly(model, tensors, folder / MODEL_FILE)
    return model, quantities
