"""World Action Models that others published, each described by a layout (`layouts/`): the family of all their keys."""

from __future__ import annotations

from collections.abc import Collection

from configs.schema import WAMConfig
from policies.backbones.door import FrozenWAM, WAMSpec

READS = ("statistics", "vae", "embeddings")  # see `policies.backbones.FOR_SOME`


def describe(config: WAMConfig) -> WAMSpec:
    """Describe a checkpoint from its headers and its layout."""
    from policies.backbones.published.loading import Found  # it imports diffusers, which takes seconds

    return Found.of(config).spec(config)


def examine(config: WAMConfig, instructions: Collection[str]) -> tuple[WAMSpec, list[str]]:
    """Describe a checkpoint, and tell what is missing or damaged beside it: statistics, autoencoder, text features."""
    from policies.backbones.published.loading import Found, lacking_beside

    found = Found.of(config)
    return found.spec(config), lacking_beside(found, config, instructions)


def load(config: WAMConfig) -> FrozenWAM:
    """Load a published backbone with its weights."""
    from policies.backbones.published.loading import load_published

    return load_published(config)
