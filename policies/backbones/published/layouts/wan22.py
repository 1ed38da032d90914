"""Wan2.2-TI2V-5B itself, which imagines and does not act: the start of Stage 1. It comes with names of two styles."""

from __future__ import annotations

from dataclasses import replace

from policies.backbones.door import Want
from policies.backbones.published.layout import LAYOUTS, ActionNumbers, Grids, Layout, Source
from policies.backbones.published.layouts.fastwam import ROBOTWIN, TINY
from policies.backbones.published.names import original_wan_name


def original_name(name: str) -> str:
    """Return the name in the original checkpoint of a tensor of `VideoModel`."""
    return original_wan_name(name.removeprefix("video."))


def diffusers_name(name: str) -> str:
    """Return the name in diffusers' checkpoint of a tensor of `VideoModel`."""
    return name.removeprefix("video.")


ORIGINAL = Layout(
    key="wan22",
    title="Wan2.2-TI2V-5B under its original names",
    family="policies.backbones.published.video",
    source=Source("Wan-AI/Wan2.2-TI2V-5B", ("diffusion_pytorch_model*", "Wan2.2_VAE.pth"), 20.0, "Apache-2.0"),
    template="{instruction}",
    text_encoder="Wan-AI/Wan2.2-TI2V-5B",
    numbers=ActionNumbers("none", 0, 0, "none"),
    grids=Grids(video_shift=5.0, action_shift=5.0, action_updates=1, reference_updates=25),
    sizes={
        name: replace(size, text_length=512 if name == "full" else 8, action_width=0, action_ffn_dim=0)
        for name, size in (("full", ROBOTWIN), ("tiny", TINY))
    },
    checkpoint_name=original_name,
    gives=Want.VIDEO_FLOW | Want.POOLED | Want.MEMORY,
    notes=("it never saw a robot or its canvas: Stage 1 teaches both",),
)
DIFFUSERS = replace(
    ORIGINAL,
    key="wan22-diffusers",
    title="Wan2.2-TI2V-5B under the names of diffusers",
    source=Source("Wan-AI/Wan2.2-TI2V-5B-Diffusers", ("transformer/*", "vae/*"), 20.0, "Apache-2.0"),
    checkpoint_name=diffusers_name,
)

for layout in (ORIGINAL, DIFFUSERS):
    LAYOUTS.add(layout.key, layout)
