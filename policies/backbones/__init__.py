"""Frozen World Action Models behind one interface (`door.py`). A family is a module with `describe` and `load`.

`wam.backbone` names a published layout (`published/layouts`), a folder of this package, or the dotted path of a module.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Protocol, cast

from configs.errors import WrongSetting
from configs.schema import WAMConfig
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.backbones.published.layout import LAYOUTS

PUBLISHED = f"{__name__}.published"


FOR_SOME = ("statistics", "vae", "embeddings", "value", "value_reader")
"""The settings of `wam` that only some families read."""


class Family(Protocol):
    """The functions of a family's module. Both raise ValueError if a file is missing, damaged or does not fit.

    It may also have a tuple `READS` of those settings of `FOR_SOME` that it reads. Setting another one is then refused.
    """

    def describe(self, config: WAMConfig) -> WAMSpec:
        """Return the description of a checkpoint without reading its weights."""
        ...

    def load(self, config: WAMConfig) -> FrozenWAM:
        """Load a checkpoint with its weights, and verify them."""
        ...


def family_of(config: WAMConfig) -> Family:
    """Return the module that `wam.backbone` names. Raise `WrongSetting` if there is none with both functions."""
    name = _module_of(config.backbone)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        reason = f"there is no module {error.name}. Published backbones are {', '.join(LAYOUTS.all())}."
        raise WrongSetting("wam.backbone", config.backbone, reason) from error
    if not (hasattr(module, "describe") and hasattr(module, "load")):
        raise WrongSetting("wam.backbone", config.backbone, f"{name} has no functions describe and load")
    return cast(Family, module)


def _module_of(backbone: str) -> str:
    if backbone in LAYOUTS.all():
        return PUBLISHED
    package, dot, _ = backbone.partition(".")
    return backbone if package and dot else f"{__name__}.{backbone}"


def describe(config: WAMConfig) -> WAMSpec:
    """Return the description of the configured backbone without loading it."""
    return family_of(config).describe(config)


def examine(config: WAMConfig, instructions: Collection[str] = ()) -> tuple[WAMSpec, list[str]]:
    """Describe the configured backbone. Also return what it lacks besides its checkpoint, with the fix of each.

    `instructions` are those that a run is known to meet. A family whose checkpoints hold everything has no function of
    this name.
    """
    family = family_of(config)
    own = getattr(family, "examine", None)
    spec, lacking = own(config, instructions) if own else (family.describe(config), [])
    return spec, lacking


def unread_settings(config: WAMConfig) -> list[str]:
    """Return the settings of `wam` that the configured backbone does not read.

    There are none that are known of a module outside this package, of one without `READS`, or if there is no module.
    """
    if not _module_of(config.backbone).startswith(f"{__name__}."):
        return []
    try:
        reads = getattr(family_of(config), "READS", FOR_SOME)
    except WrongSetting:
        return []
    return [name for name in FOR_SOME if name not in reads]


def reads_embeddings(config: WAMConfig) -> bool:
    """Whether the configured backbone reads text embeddings, which `launch.embed` makes."""
    return config.backbone in LAYOUTS.all()


def load_wam(config: WAMConfig) -> FrozenWAM:
    """Load the configured backbone, ready to walk."""
    return family_of(config).load(config)
