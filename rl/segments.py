"""Segments of demonstrations: where a path starts and what it is compared with. Every runner reads its own: images never travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from configs.factories import resolve
from configs.schema import Config
from policies.wam.interface import Observation


@dataclass(frozen=True)
class Segment:
    """One decision point of a demonstration. T actions of a chunk; where the episode ends, its last action is repeated."""

    observation: Observation
    instruction: str
    chunk: npt.NDArray[np.float32]  # [T, 14] absolute joint targets, grippers in [0, 1]
    weight: npt.NDArray[np.float32]  # [T], 0 on the padded steps
    task: str
    episode: str
    start: int  # the control step of the observation


class SegmentSource(Protocol):
    """A fixed, ordered collection: the same configuration gives the same segment at the same index in any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Segment: ...


def load_segments(config: Config, split: str, horizon: int) -> SegmentSource:
    """The source that `rollout.segments` names: a function of (config, split, horizon), horizon being the chunk's T."""
    source: SegmentSource = resolve(config.rollout.segments)(config, split, horizon)
    return source


def segment_order(count: int, seed: int, cursor: int, paths: int) -> list[int]:
    """The next `paths` segments of an endless shuffled round through `count`: each once a round, a function of the cursor."""
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
    """Actions [T, 14] and weights [T] after `start`: action t is `joints[t + 1]`, the last one repeated past the end."""
    steps = start + 1 + np.arange(horizon)
    weight = (steps < len(joints)).astype(np.float32)
    return joints[np.minimum(steps, len(joints) - 1)].astype(np.float32), weight


def segment_starts(lengths: Sequence[int], stride: int) -> list[tuple[int, int]]:
    """(episode, start) of every segment with at least one real action; `lengths` counts recorded joint states."""
    return [(episode, start) for episode, length in enumerate(lengths) for start in range(0, length - 1, stride)]
