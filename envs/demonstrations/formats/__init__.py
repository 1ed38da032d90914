"""The formats that demonstrations are stored in, found by looking at the modules of this folder.

A new format is one new module (or package) here with a `FORMAT` that has the methods of `Format`. No list names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from envs.demonstrations.episodes import Cameras, Depths, Episode, EpisodeReference, Joints


class Format(Protocol):
    """A format finds and reads the demonstrations that are stored in one way."""

    name: str
    """What `EpisodeReference.format` says of this format's episodes."""

    def recognises(self, root: Path) -> bool:
        """Whether the folder holds demonstrations of this format."""

    def references(
        self, root: Path, tasks: Sequence[str], modes: Sequence[str], embodiment: str
    ) -> list[EpisodeReference]:
        """The episodes of these tasks and modes, by task, mode and index. `embodiment` is empty or names one robot.

        Raises ValueError where it is not clear which episodes are meant.
        """

    def read(self, reference: EpisodeReference) -> Episode:
        """All but the depth, as it is stored. Raises `configs.stored.DamagedFile`, such as `CorruptDemonstration`."""

    def depths(self, reference: EpisodeReference) -> tuple[Depths, Cameras]:
        """Its depth pictures and cameras; two empty dictionaries where it has none. Raises `DamagedFile`."""

    def joints(self, reference: EpisodeReference) -> Joints:
        """The joints of an episode, [T + 1, A], without its pictures. Raises `DamagedFile`."""

    def instructions(self, reference: EpisodeReference) -> tuple[str, ...]:
        """The wordings of `Episode.instructions`, without pictures and joints. Raises `DamagedFile`."""

    def frequency(self, reference: EpisodeReference) -> float | None:
        """Observations a second, or None where the format does not store it. Raises `DamagedFile`."""

    def files(self, reference: EpisodeReference) -> tuple[Path, ...]:
        """Every file that the episode is read from."""

    def advice(self, root: Path) -> str | None:
        """Say what to do if a task is missing in `root`. Returns None if this format has no advice of its own."""


@cache
def known_formats() -> Mapping[str, Format]:
    """Every format by its name. ValueError where two modules have formats of the same name."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        added: Format = importlib.import_module(module.name).FORMAT
        if added.name in found:
            raise ValueError(f"two modules of {__name__} have a format of the name {added.name!r}: rename one")
        found[added.name] = added
    return found
