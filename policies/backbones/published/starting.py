"""Plain Wan2.2-TI2V-5B as the start of Stage 1: its video expert and its autoencoder, with names of either style."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from configs.pretraining import VAEConfig
from policies.backbones.codecs import LatentCodec, build_vae
from policies.backbones.published.files import open_checkpoint
from policies.backbones.published.fit import compare, require_fit
from policies.backbones.published.layout import LAYOUTS, Size, wanted_tensors
from policies.backbones.published.loading import vae_beside
from policies.backbones.published.mixture import video_expert
from policies.backbones.published.pictures import Autoencoder
from policies.backbones.weights import load_strictly

STYLES = ("wan22", "wan22-diffusers")


def wan_video(path: Path, size: Size, key: str) -> dict[str, Tensor]:
    """Return the tensors of Wan's video expert in float32, by their names in `mixture.video_expert`.

    Raises `WrongSetting`, which names the setting `key` and the tensors, if it is no Wan of this size.
    """
    checkpoint, layouts = open_checkpoint(path), {name: LAYOUTS.get(name) for name in STYLES}
    wanted = {name: wanted_tensors(layout, size) for name, layout in layouts.items()}
    fits = {name: partial(compare, shapes, checkpoint.shapes) for name, shapes in wanted.items()}
    style = max(fits, key=lambda name: fits[name]().likeness)
    require_fit(style, checkpoint.path, fits, key)
    with torch.device("meta"):
        video = video_expert(size)
    return {
        name: checkpoint.tensor(layouts[style].checkpoint_name(f"video.{name}")).float() for name in video.state_dict()
    }


def wan_codec(path: Path, config: VAEConfig) -> LatentCodec:
    """Load Wan's autoencoder, which lies beside the checkpoint `path`, in float32.

    Raises ValueError if it is missing, damaged, or not that of the settings.
    """
    file = vae_beside(path if path.is_dir() else path.parent)
    found, vae = Autoencoder.of(file, config.z_dim), build_vae(config)
    load_strictly(vae, {name: found.checkpoint.tensor(stored).float() for name, stored in found.names.items()}, file)
    return LatentCodec(vae, *found.statistics())
