"""A tiny X-WAM whose weights come from a formula, and the numbers that X-WAM's own code gave for it.

`xwam_golden.json` holds outputs of the authors' network, in float32, with these weights and inputs. They are numbers
only; our network has to give the same.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from configs.pretraining import PretrainConfig, VideoExpertConfig, XWAMConfig
from policies.backbones.robot import ACTION_DIM
from policies.backbones.shapes import View
from policies.backbones.xwam.model import XWAM

LEVELS = {"noisy": (0.952, 0.5), "clean action": (0.6, 0.0), "start": (1.0, 1.0), "late": (0.09, 0.02)}
"""Pairs of noise levels of video and action."""

BATCH = 2


def tiny_model() -> XWAM:
    """Return a network with three cameras of 4 x 4 cells and patches of 2 x 2."""
    video = VideoExpertConfig(layers=3, heads=2, head_dim=24, ffn_dim=96, patch=2, text_dim=32, text_layers=1)
    config = replace(PretrainConfig(), family="xwam", video=video, xwam=XWAMConfig(depth_layers=2))
    views = [View(name, 4 * row, 0, 4, 4) for row, name in enumerate(("head", "left_wrist", "right_wrist"))]
    model = XWAM(config, ACTION_DIM, views).eval()
    model.load_state_dict(filled(model))
    return model


def filled(model: nn.Module) -> dict[str, Tensor]:
    """Return weights that depend on their names and shapes alone."""
    state = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=Generator().manual_seed(zlib.crc32(name.encode())))
        state[name] = 1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.15 * noise
    return state


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return latents [B, C, 3, 12, 4], a chunk [B, 16, A], first states [B, A] and text features [B, 5, 32]."""
    generator = Generator().manual_seed(1)
    shapes = (BATCH, 48, 3, 12, 4), (BATCH, 16, ACTION_DIM), (BATCH, ACTION_DIM), (BATCH, 5, 32)
    x, chunk, first, text = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, chunk, first, text


def sample(values: Tensor) -> Tensor:
    """Return 24 numbers spread over a tensor, and the mean of its squares."""
    flat = values.flatten()
    spread = flat[torch.linspace(0, len(flat) - 1, 24).long()]
    return torch.cat([spread, flat.square().mean()[None]])
