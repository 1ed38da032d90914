"""X-WAM: one sequence of video, state and action tokens through the blocks of a Wan transformer, and a depth branch."""

from __future__ import annotations

from configs.schema import WAMConfig
from policies.backbones.arms import Arms
from policies.backbones.checkpoint_files import MODEL_FILE, resolve_checkpoint, stored_arrays
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.backbones.small import read_facts
from policies.backbones.xwam.quantities import ARMS
from policies.backbones.xwam.spec import spec_of

READS: tuple[str, ...] = ()  # see `policies.backbones.FOR_SOME`


def describe(config: WAMConfig) -> WAMSpec:
    """Describe a checkpoint. Only `load` verifies the weights."""
    settings, action_dim, weights_hash = read_facts(config.checkpoint, "xwam", "action_scale")
    tools: tuple[float, ...] = ()
    if settings.xwam.actions == "end_effector":
        path = resolve_checkpoint(config.checkpoint) / MODEL_FILE
        tools = Arms(*stored_arrays(path, [f"statistics.{name}" for name in ARMS])).signature()
    return spec_of(settings, action_dim, weights_hash, tools)


def load(config: WAMConfig) -> FrozenWAM:
    """Load the frozen backbone of a checkpoint folder, and verify it."""
    from policies.backbones.xwam.checkpoint import load_frozen  # it imports diffusers, which takes seconds

    return load_frozen(config)
