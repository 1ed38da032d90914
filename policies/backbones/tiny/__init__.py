"""The built-in family: a small Wan video transformer, and an action branch that reads its latents or its keys."""

from __future__ import annotations

from dataclasses import replace

from configs.schema import WAMConfig
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.backbones.small import read_facts, small_spec

READS = ("value", "value_reader")  # see `policies.backbones.FOR_SOME`


def describe(config: WAMConfig) -> WAMSpec:
    """Describe a checkpoint, and its value expert and reader if there are any. Only `load` verifies the weights."""
    settings, action_dim, weights_hash = read_facts(config.checkpoint, "tiny", "action_mean")
    spec = small_spec(settings, action_dim, weights_hash, settings.action.reads)
    if not (config.value or config.value_reader):
        return spec
    from policies.backbones.tiny.described import find_file
    from policies.backbones.tiny.value import describe_value  # it imports diffusers, which takes seconds
    from policies.backbones.tiny.value_reader import describe_reader, spec_with_reader

    value = describe_value(find_file(config.value), spec.weights_hash) if config.value else None
    if not config.value_reader:
        return replace(spec, value=value)
    reader_hash = describe_reader(
        find_file(config.value_reader), spec.weights_hash, value.weights_hash if value else ""
    )
    return spec_with_reader(replace(spec, value=value), reader_hash)


def load(config: WAMConfig) -> FrozenWAM:
    """Load the frozen backbone of a checkpoint folder, and verify it."""
    from policies.backbones.tiny.checkpoint import load_frozen  # it imports diffusers, which takes seconds

    return load_frozen(config)
