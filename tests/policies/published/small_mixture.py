"""A published model with everything beside it on disk, at the tiny size of its layout, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from configs.pretraining import VAEConfig
from configs.schema import WAMConfig
from policies.backbones.codecs import build_vae
from policies.backbones.door import Observation
from policies.backbones.published.layout import LAYOUTS, Layout, family_of
from policies.backbones.published.texts import TextForm, save_embeddings
from tests.policies.xwam_golden import filled

CAMERAS = ("head", "left_wrist", "right_wrist")
INSTRUCTIONS = ("lift the pot", "press the bell")


def networks(layout: Layout) -> nn.Module:
    """The layout's networks at their tiny size, with weights that depend on their names and shapes alone."""
    model: nn.Module = family_of(layout).build(layout, layout.sizes["tiny"])
    model.load_state_dict(filled(model))
    return model


def save_as_fast_wam(path: Path, layout: Layout) -> None:
    """Write the networks in the format of Fast-WAM's trainer."""
    nested: dict[str, Any] = {"step": 50_000, "torch_dtype": "torch.float32"}
    for name, tensor in networks(layout).state_dict().items():
        part, _, rest = layout.checkpoint_name(name).partition(".")
        nested.setdefault(part, {})[rest] = tensor
    torch.save(nested, path)


def save_as_pipeline(folder: Path, layout: Layout) -> None:
    """Write the networks in the folder that a pipeline of diffusers has for them."""
    model = networks(layout).state_dict()
    names = layout.checkpoint_names(list(model))
    (folder / "transformer").mkdir()
    tensors = {names[name]: tensor for name, tensor in model.items()}
    save_file(tensors, folder / "transformer/diffusion_pytorch_model.safetensors")


def write_mixture(folder: Path, key: str) -> WAMConfig:
    """Write a checkpoint as its own project saves it, with statistics, autoencoder and text features."""
    layout = LAYOUTS.get(key)
    folder.mkdir(parents=True, exist_ok=True)
    if layout.source.files[0].startswith("transformer/"):
        save_as_pipeline(folder, layout)
    else:
        save_as_fast_wam(folder / "model.pt", layout)
    return write_beside(folder, layout)


def write_beside(folder: Path, layout: Layout) -> WAMConfig:
    """Write statistics, autoencoder and text features beside a checkpoint. Returns the settings that load it."""
    write_statistics(folder / "dataset_stats.json", layout)
    torch.manual_seed(0)
    build_vae(VAEConfig(base_dim=4)).save_pretrained(folder / "vae")
    write_embeddings(folder / "embeddings", layout)
    return WAMConfig(backbone=layout.key, checkpoint=str(folder), embeddings=str(folder / "embeddings"))


def write_value_mixture(folder: Path, layout: Layout) -> WAMConfig:
    """Write a mixture with a value expert, and everything beside it. Returns the settings that load it."""
    tensors = {layout.checkpoint_name(name): tensor for name, tensor in networks(layout).state_dict().items()}
    save_file(tensors, folder / "checkpoint_step_1.safetensors")
    (folder / "value_normalization_stats.json").write_text(json.dumps({"mean": [-20.0], "std": [10.0], "value_dim": 1}))
    return write_beside(folder, layout)


def write_statistics(path: Path, layout: Layout) -> None:
    random = np.random.default_rng(0)
    statistics = {}
    for kind, size in (("action", layout.numbers.action_dim), ("state", layout.numbers.state_dim)):
        lowest, mean, highest = np.sort(random.normal(0, 0.3, (3, size)), axis=0).tolist()
        spread = random.uniform(0.2, 0.6, size).tolist()
        columns = {"mean": mean, "std": spread, "min": lowest, "max": highest, "q01": lowest, "q99": highest}
        statistics[kind] = {"default": {f"global_{name}": values for name, values in columns.items()}}
    path.write_text(json.dumps(statistics))


def write_embeddings(folder: Path, layout: Layout) -> None:
    folder.mkdir(exist_ok=True)
    size = layout.sizes["tiny"]
    form = TextForm.of(layout, size)
    generator = torch.Generator().manual_seed(1)
    texts = (*INSTRUCTIONS, *layout.always_read)
    features = {text: torch.randn(3 + i, size.text_dim, generator=generator) for i, text in enumerate(texts)}
    save_embeddings(form.path_in(folder), form, "0" * 16, features)


def observations(count: int = 2, seed: int = 0) -> list[Observation]:
    """Pictures of other sizes than the model's, and joints."""
    random = np.random.default_rng(seed)
    return [
        {
            **{camera: random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for camera in CAMERAS},
            "joints": random.uniform(0, 0.5, 14).astype(np.float32),
        }
        for _ in range(count)
    ]
