"""Demonstrations on disk. They read alike from every format in `formats`, which is recognised from the folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from configs.fetched import fetched
from configs.schema import DemonstrationsConfig
from envs.demonstrations.episodes import (
    SPLITS,
    Cameras,
    CorruptDemonstration,
    Depths,
    Episode,
    EpisodeReference,
    Images,
    Joints,
    split_of,
)
from envs.demonstrations.formats import Format, known_formats
from envs.demonstrations.splits import FRACTIONS, SPLITS_FILE, empty_split, read_splits, splits_of
from envs.demonstrations.units import Units

__all__ = [
    "SPLITS",
    "SPLITS_FILE",
    "Cameras",
    "CorruptDemonstration",
    "Depths",
    "Episode",
    "EpisodeReference",
    "Images",
    "Joints",
    "Units",
    "configured_episodes",
    "dataset_hash",
    "episode_frequency",
    "episode_instruction",
    "episode_joints",
    "formats_of",
    "list_episodes",
    "read_episode",
    "read_splits",
    "split_of",
    "splits_of",
]


def list_episodes(
    root: str | Path,
    tasks: Sequence[str],
    modes: Sequence[str],
    split: str,
    *,
    embodiment: str = "",
    fractions: tuple[float, float] = FRACTIONS,
) -> list[EpisodeReference]:
    """The episodes of a split (or of `all`), by task, mode and index.

    `embodiment` chooses a folder where the root has folders of several robots. `fractions` are those of validation and
    test for episodes without a split of their own (see `splits_of`). Raises ValueError if there are no episodes, or if
    a task has none at all in one of the modes.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    root = Path(root)
    formats = formats_of(root)
    episodes = [episode for one in formats for episode in one.references(root, tasks, modes, embodiment)]
    episodes.sort(key=lambda episode: (tasks.index(episode.task), modes.index(episode.mode)))  # keeps their order
    _check_formats(root, episodes)
    found = {(episode.task, episode.mode) for episode in episodes}
    missing = [f"{task} ({mode})" for task in tasks for mode in modes if (task, mode) not in found]
    if missing or not episodes:
        wanted = f"{'' if split == 'all' else f'{split} '}demonstrations of {', '.join(missing or tasks)}"
        advice = [advice for one in formats if (advice := one.advice(root)) is not None]
        general = "run `make demos` first, or set demonstrations.root to a folder that holds them"
        raise ValueError(f"no {wanted} in {root}: {'; '.join(advice) or general}")
    chosen = episodes if split == "all" else splits_of(root, episodes, fractions)[split]
    if not chosen:
        raise ValueError(empty_split(root, split, episodes, fractions))
    return chosen


def _check_formats(root: Path, episodes: Sequence[EpisodeReference]) -> None:
    """Raises ValueError where two formats have episodes of one task and mode: they might be the same ones twice."""
    formats: dict[tuple[str, str], set[str]] = {}
    for episode in episodes:
        formats.setdefault((episode.task, episode.mode), set()).add(episode.format)
    for (task, mode), names in formats.items():
        if len(names) > 1:
            raise ValueError(
                f"{root} holds {task} ({mode}) in several formats: {', '.join(sorted(names))}. Keep the demonstrations "
                "of one format alone under a root of its own"
            )


def configured_episodes(config: DemonstrationsConfig, tasks: Sequence[str], split: str) -> list[EpisodeReference]:
    """`list_episodes` with the root, modes, embodiment, fractions and units of `config`. A root may be a URI."""
    fractions = config.validation_fraction, config.test_fraction
    root = fetched(config.root, "demonstrations.root")
    found = list_episodes(root, tasks, config.modes, split, embodiment=config.embodiment, fractions=fractions)
    closed, opened = config.gripper_range
    return [replace(episode, units=Units(config.joints, (closed, opened))) for episode in found]


def read_episode(reference: EpisodeReference, depth: bool = False) -> Episode:
    """The whole episode, with joints in our units if `reference` tells their units. Raises `DamagedFile`.

    Depth pictures and cameras are read only if they are asked for by `depth`; they are empty where none are stored.
    """
    stored = known_formats()[reference.format]
    episode = stored.read(reference)
    episode = replace(episode, joints=_converted(reference, episode.joints))
    if not depth:
        return episode
    depths, cameras = stored.depths(reference)
    for name, pictures in depths.items():
        if pictures.shape != episode.images[name].shape[:3]:
            sizes = f"{list(pictures.shape)}, but its pictures {list(episode.images[name].shape[:3])}"
            raise CorruptDemonstration(reference.path, f"its {name} depth pictures are {sizes}")
    return replace(episode, depths=depths, cameras=cameras)


def episode_joints(reference: EpisodeReference) -> Joints:
    """The joints of `read_episode`, [T + 1, A], without reading any picture. Raises `DamagedFile`."""
    return _converted(reference, known_formats()[reference.format].joints(reference))


def _converted(reference: EpisodeReference, joints: Joints) -> Joints:
    return joints if reference.units is None else reference.units.converted(reference.path, joints)


def episode_instruction(reference: EpisodeReference) -> str:
    """The wording that runs read, `Episode.instruction`, without reading any picture. Raises `DamagedFile`."""
    return known_formats()[reference.format].instructions(reference)[0]


def episode_frequency(reference: EpisodeReference) -> float | None:
    """Observations a second, or None where the format does not store it. Raises `DamagedFile`."""
    return known_formats()[reference.format].frequency(reference)


def formats_of(root: Path) -> list[Format]:
    """The formats of the demonstrations in a folder; empty for a folder without any."""
    return [one for one in known_formats().values() if one.recognises(root)]


def dataset_hash(episodes: Iterable[EpisodeReference]) -> str:
    """SHA-256 over the episodes' files in the given order, and over the units in which they are read."""
    of_file = lru_cache(maxsize=None)(_file_hash)
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(f"{episode.task}/{episode.mode}/{episode.index}\n".encode())
        if episode.units not in (None, Units()):
            digest.update(f"{episode.units}\n".encode())
        for path in known_formats()[episode.format].files(episode):
            digest.update(of_file(path))
    return digest.hexdigest()


def _file_hash(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
