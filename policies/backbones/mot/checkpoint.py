"""A small mixture on disk, in the files of every small backbone: `model.safetensors`, `vae.safetensors`, `config.json`.

Weights are stored in float16 and loaded as float32, so that every machine computes with the same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.pretraining import PretrainConfig
from configs.schema import WAMConfig
from policies.backbones.checkpoint_files import MODEL_FILE, read_config, resolve_checkpoint, verified_hash
from policies.backbones.codecs import LatentCodec
from policies.backbones.mot.model import CanvasPictures, SmallMixture, TrainedTexts
from policies.backbones.mot.spec import spec_of
from policies.backbones.published.action_spaces import SPACES
from policies.backbones.published.frozen import FrozenMixture
from policies.backbones.published.loading import dtype_of
from policies.backbones.published.normalisation import Normalisation, Scaling
from policies.backbones.stages import Start
from policies.backbones.weights import (
    DTYPES,
    device_named,
    load_strictly,
    load_vae,
    read_tensors,
    save_checkpoint,
    take_statistics,
)

SPACE = "relative_joints"
STATISTICS = ("action_offset", "action_scale", "state_offset", "state_scale")
OF_TINY = {"video": "video", "text_encoder": "text_encoder", "proprioception": "joints_to_text"}  # their names there
STATISTICS_OF_TINY = ("action_mean", "action_std", "joints_mean", "joints_std")


def save_wam(
    folder: Path,
    model: SmallMixture,
    codec: LatentCodec,
    normalisation: Normalisation,
    config: PretrainConfig,
    recipe: dict[str, Any],
) -> None:
    """Write a checkpoint. `recipe` (data hash, curves, measurements) is stored in `config.json`."""
    actions, states = normalisation.actions, normalisation.states
    values = (actions.offset, actions.scale, states.offset, states.scale)
    save_checkpoint(folder, model, dict(zip(STATISTICS, values, strict=True)), codec, config, recipe)


def load_frozen(config: WAMConfig) -> FrozenMixture:
    """Load the frozen backbone of a checkpoint folder. ValueError says what is missing, damaged or does not fit."""
    folder = resolve_checkpoint(config.checkpoint)
    settings, weights_hash = read_config(folder, "mot"), verified_hash(folder)
    model, normalisation = _load_model(folder, settings)
    device, dtype = torch.device(device_named(config.device)), DTYPES[config.dtype]
    model.to(device)
    for name, parameter in model.named_parameters():
        if not name.startswith("text_encoder."):
            parameter.data = parameter.data.to(dtype_of(name, dtype))
    return FrozenMixture(
        model,
        spec_of(settings, len(normalisation.actions.scale), weights_hash),
        CanvasPictures(load_vae(folder, settings).to(device), settings.head_size),
        TrainedTexts(model.text_encoder),
        normalisation,
        SPACES[SPACE],
    )


def load_start(config: PretrainConfig) -> Start:
    """Load `config.start_from`, under the new settings. Raises ValueError if something does not fit.

    A start of the family `tiny` gives its autoencoder. If `mot.video_from_start`, it also gives its normalisation and
    all networks but the action expert.
    """
    folder = resolve_checkpoint(config.start_from, key="pretrain.start_from")
    verified_hash(folder)
    family, codec = read_config(folder).family, load_vae(folder, config)
    if family == "mot":
        model, normalisation = _load_model(folder, config)
        return Start(model, codec, normalisation, trains_codec=False)
    if family != "tiny":
        raise ValueError(f"pretrain.start_from={folder} is of the family {family}: start from one of tiny or mot")
    model, known = SmallMixture(config), None
    if config.mot.video_from_start:
        tensors = read_tensors(folder / MODEL_FILE)
        known = _normalisation(take_statistics(tensors, STATISTICS_OF_TINY, folder / MODEL_FILE))
        given = {
            f"{own}.{rest}": tensor
            for own, there in OF_TINY.items()
            for name, tensor in tensors.items()
            if (rest := name.removeprefix(f"{there}.")) != name
        }
        fresh = {name: tensor for name, tensor in model.state_dict().items() if name.split(".")[0] not in OF_TINY}
        load_strictly(model, given | fresh, folder / MODEL_FILE)
    return Start(model, codec, known, trains_codec=False)


def _load_model(folder: Path, settings: PretrainConfig) -> tuple[SmallMixture, Normalisation]:
    tensors = read_tensors(folder / MODEL_FILE)
    normalisation = _normalisation(take_statistics(tensors, STATISTICS, folder / MODEL_FILE))
    model = SmallMixture(settings, len(normalisation.actions.scale))
    load_strictly(model, tensors, folder / MODEL_FILE)
    return model, normalisation


def _normalisation(statistics: list[Tensor]) -> Normalisation:
    """Return the normalisation of offset and scale of actions and of states."""
    return Normalisation(Scaling(*statistics[:2]), Scaling(*statistics[2:]))
