"""Filling a network that was built without memory, tensor by tensor, from a memory-mapped checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from policies.backbones.published.files import Checkpoint


def fill(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype],
) -> None:
    """Give the parameters of `module` that `names` holds their values, one at a time, without gradients.

    `names` maps names in the module to names in the checkpoint, whose shapes were compared before; `dtype_of` says how
    a parameter is kept. On the CPU, a parameter whose dtype is the file's stays mapped: it is never copied.
    """
    for name, stored in names.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        value = checkpoint.tensor(stored).to(device, dtype_of(name))
        setattr(owner, leaf, nn.Parameter(value, requires_grad=False))
