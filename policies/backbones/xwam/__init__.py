"""X-WAM: one sequence of video, state and action tokens through the blocks of a Wan transformer, and a depth branch."""

from __future__ import annotations

from configs.schema import WAMConfig
from policies.backbones.arms import Arms
from policies.backbones.checkpoint_files import (
    MODEL_FILE,
    existing,
    header_shape,
    read_config,
    resolve_checkpoint,
    stored_arrays,
    stored_hash,
)
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.backbones.xwam.quantities import ARMS
from policies.backbones.xwam.spec import spec_of


def describe(config: WAMConfig) -> WAMSpec:
    """Describe a checkpoint from `config.json` and the header of its weights. Only `load` verifies the weights."""
    folder = resolve_checkpoint(config.checkpoint)
    settings = read_config(folder, "xwam")
    (action_dim,) = header_shape(existing(folder / MODEL_FILE), "statistics.action_scale")
    tools: tuple[float, ...] = ()
    if settings.xwam.actions == "end_effector":
        tools = Arms(*stored_arrays(folder / MODEL_FILE, [f"statistics.{name}" for name in ARMS])).signature()
    return spec_of(settings, action_dim, stored_hash(folder), tools)


def load(config: WAMConfig) -> FrozenWAM:
    """Load the frozen backbone of a checkpoint folder, and verify it."""
    from policies.backbones.xwam.checkpoint import load_frozen  # it imports diffusers, which takes seconds

    return load_frozen(config)
