"""Segments of demonstrations: where a path starts and what it is compared with.

Every runner reads its own: images never travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from configs.factories import resolve
from configs.schema import Config
from envs.demonstrations import Episode, EpisodeReference, episode_length, list_episodes, read_episode
from policies.wam.interface import Observation


@dataclass(frozen=True)
class Segment:
    """One decision point of a demonstration and the T actions that followed."""

    observation: Observation
    instruction: str
    chunk: npt.NDArray[np.float32]  # [T, 14] absolute joint targets, grippers in [0, 1]
    weight: npt.NDArray[np.float32]  # [T], 0 on the padded steps
    task: str
    episode: str
    start: int  # the control step of the observation


EPISODES_IN_MEMORY = 256


class SegmentSource(Protocol):
    """A fixed, ordered collection: the same configuration gives the same segment at the same index in any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Segment: ...


def load_segments(config: Config, split: str, horizon: int) -> SegmentSource:
    """The source that `rollout.segments` names: a function of (config, split, horizon), T actions a chunk."""
    source: SegmentSource = resolve(config.rollout.segments)(config, split, horizon)
    return source


def segment_order(count: int, seed: int, cursor: int, paths: int) -> list[int]:
    """The next `paths` segments of endless shuffled rounds through `count`: a function of seed and cursor."""
    positions = range(cursor, cursor + paths)
    rounds = {position // count for position in positions}
    orders = {number: np.random.default_rng([seed, number]).permutation(count) for number in rounds}
    return [int(orders[position // count][position % count]) for position in positions]


def spread_indices(count: int, wanted: int) -> list[int]:
    """`wanted` indices spread evenly over `count`, or all of them."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(wanted, count)).round()})


def cut_chunk(
    joints: npt.NDArray[np.float32], start: int, horizon: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Actions [T, 14] and weights [T] after `start`: action t is `joints[start + 1 + t]`, the last one repeated."""
    steps = start + 1 + np.arange(horizon)
    weight = (steps < len(joints)).astype(np.float32)
    return joints[np.minimum(steps, len(joints) - 1)].astype(np.float32), weight


def segment_starts(lengths: Sequence[int], stride: int) -> list[tuple[int, int]]:
    """(episode, start) of every segment with at least one real action; `lengths` counts recorded joint states."""
    return [(episode, start) for episode, length in enumerate(lengths) for start in range(0, length - 1, stride)]


class DemonstrationSegments:
    """Segments of the episodes on disk, in the order of tasks, modes, episodes and control steps."""

    def __init__(self, episodes: Sequence[EpisodeReference], horizon: int, stride: int) -> None:
        self._episodes, self._horizon = episodes, horizon
        self._starts = segment_starts([episode_length(episode.path) for episode in episodes], stride)
        self._read = lru_cache(maxsize=EPISODES_IN_MEMORY)(self._read_episode)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Segment:
        """Raises `CorruptDemonstration`, a ValueError that names the file."""
        number, start = self._starts[index]
        reference, episode = self._episodes[number], self._read(number)
        chunk, weight = cut_chunk(episode.joints, start, self._horizon)
        observation = {name: frames[start] for name, frames in episode.images.items()}
        return Segment(
            observation={**observation, "joints": episode.joints[start]},
            instruction=episode.instruction,
            chunk=chunk,
            weight=weight,
            task=reference.task,
            episode=f"{reference.task}/{reference.mode}/{reference.index}",
            start=start,
        )

    def _read_episode(self, number: int) -> Episode:
        return read_episode(self._episodes[number].path)


def demonstration_segments(config: Config, split: str, horizon: int) -> DemonstrationSegments:
    """What `rollout.segments` names by default. ValueError if the split has no episode.

    Of each task and mode the first `episodes_per_task`: collecting more later changes no run.
    """
    demonstrations = config.demonstrations
    listed = list_episodes(demonstrations.root, config.env.tasks, demonstrations.modes, split)
    episodes = [episode for episode in listed if episode.index < demonstrations.episodes_per_task]
    return DemonstrationSegments(episodes, horizon, config.rollout.segment_stride)
