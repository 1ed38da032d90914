"""The papers' own attention at a small size: Fast-WAM's mixture of transformers on the built-in suite's pictures."""

from __future__ import annotations

from configs.schema import WAMConfig
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.backbones.mot.spec import spec_of
from policies.backbones.small import read_facts

READS: tuple[str, ...] = ()  # see `policies.backbones.FOR_SOME`


def describe(config: WAMConfig) -> WAMSpec:
    """Describe a checkpoint. Only `load` verifies the weights."""
    return spec_of(*read_facts(config.checkpoint, "mot", "action_scale"))


def load(config: WAMConfig) -> FrozenWAM:
    """Load the frozen backbone of a checkpoint folder, and verify it."""
    from policies.backbones.mot.checkpoint import load_frozen  # it imports diffusers, which takes seconds

    return load_frozen(config)
