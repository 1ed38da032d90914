"""Frozen World Action Models behind one interface (`door.py`). A family is a module with `describe` and `load`.

`wam.backbone` names a published layout (`published/layouts`), a folder of this package, or the dotted path of a module.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from configs.schema import WAMConfig
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.backbones.published.layout import LAYOUTS

PUBLISHED = f"{__name__}.published"


class Family(Protocol):
    """The functions of a family's module. Both raise ValueError if a file is missing, damaged or does not fit."""

    def describe(self, config: WAMConfig) -> WAMSpec:
        """Return the description of a checkpoint without reading its weights."""
        ...

    def load(self, config: WAMConfig) -> FrozenWAM:
        """Load a checkpoint with its weights, and verify them."""
        ...


def family_of(config: WAMConfig) -> Family:
    """Return the module that `wam.backbone` names. Raise ValueError if there is none with both functions."""
    name = _module_of(config.backbone)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"wam.backbone={config.backbone!r}: there is no module {error.name}. Published backbones are "
            f"{', '.join(LAYOUTS.all())}."
        ) from error
    if not (hasattr(module, "describe") and hasattr(module, "load")):
        raise ValueError(f"wam.backbone={config.backbone!r}: {name} has no functions describe and load")
    return cast(Family, module)


def _module_of(backbone: str) -> str:
    if backbone in LAYOUTS.all():
        return PUBLISHED
    package, dot, _ = backbone.partition(".")
    return backbone if package and dot else f"{__name__}.{backbone}"


def describe(config: WAMConfig) -> WAMSpec:
    """Return the description of the configured backbone without loading it."""
    return family_of(config).describe(config)


def lacking(config: WAMConfig) -> list[str]:
    """Return what the configured backbone needs besides its checkpoint and does not find, with the fix of each.

    A family whose checkpoints hold everything has no function of this name.
    """
    of_family = getattr(family_of(config), "lacking", None)
    return list(of_family(config)) if of_family else []


def load_wam(config: WAMConfig) -> FrozenWAM:
    """Load the configured backbone, ready to walk."""
    return family_of(config).load(config)
