"""A World Action Model of the real classes, small enough for a test, with random weights."""

from __future__ import annotations

import torch

from configs.pretraining import ActionExpertConfig, PretrainConfig, VAEConfig, VideoExpertConfig
from policies.backbones.codecs import LatentCodec, build_vae
from policies.backbones.tiny.model import ACTION_DIM, ActionStatistics, FrozenWorldActionModel, WorldActionModel


def small_config(reads: str = "future_latents") -> PretrainConfig:
    return PretrainConfig(
        vae=VAEConfig(base_dim=4),
        video=VideoExpertConfig(layers=2, heads=2, head_dim=24, ffn_dim=96, text_dim=32, text_layers=1),
        action=ActionExpertConfig(layers=2, hidden=32, heads=2, head_dim=24, ffn_dim=64, reads=reads),
    )


def small_wam(reads: str = "future_latents") -> FrozenWorldActionModel:
    torch.manual_seed(0)
    config = small_config(reads)
    codec = LatentCodec(build_vae(config.vae), torch.zeros(config.vae.z_dim), torch.ones(config.vae.z_dim))
    zeros, ones = torch.zeros(ACTION_DIM), torch.ones(ACTION_DIM)
    statistics = ActionStatistics(zeros, ones, zeros.clone(), ones.clone())
    return FrozenWorldActionModel(WorldActionModel(config), codec, statistics, config, "0" * 16)
