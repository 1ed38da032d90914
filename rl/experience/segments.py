"""Segments of demonstrations: a path starts at one, and its actions are compared with those of the demonstration.

Every runner reads segments from disk itself, so that pictures are never sent between processes.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from configs.factories import resolve
from configs.schema import Config
from envs.demonstrations import Episode, EpisodeReference, configured_episodes, episode_joints, read_episode
from envs.demonstrations.formats import known_formats
from envs.files import content_digest
from policies.backbones.door import Context, FrozenWAM, History, Observation, Passed, WAMSpec


@dataclass(frozen=True)
class Segment:
    """An observation of a demonstration and the T actions that followed."""

    observation: Observation
    instruction: str
    chunk: npt.NDArray[np.float32]  # [T, A] absolute joint targets, grippers in [0, 1]
    weight: npt.NDArray[np.float32]  # [T]: 1, and 0 on the padded steps
    task: str
    episode: str
    start: int  # the control step of the observation
    before: Observation | None = None  # the observations from the episode's first to this one, if the source has them


ROOT_KEY = "demonstrations.root"  # the setting that says where the demonstrations are
EPISODE_MEMORY_BYTES = 2**30  # how many bytes of decoded pictures a process keeps


class SegmentSource(Protocol):
    """A fixed, ordered collection: the same configuration gives the same segment at the same index in any process.

    A source may have an attribute `identity`: a string that changes whenever the segments change, and not when they are
    moved. Without it, other demonstrations are told apart by `demonstrations.root` alone.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Segment: ...


@dataclass(frozen=True, order=True)
class SegmentListing:
    """The segments that a runner found for a split."""

    count: int
    identity: str = ""  # the source's identity; empty: unknown
    reason: str = ""  # why the segments could not be listed
    node: str = field(default="", compare=False)  # the node on which they are


def load_segments(config: Config, split: str, horizon: int, action_dim: int | None = None) -> SegmentSource:
    """Load the source that `demonstrations.segments` names. Its chunks have `horizon` actions.

    Raises ValueError if its actions do not have the size `action_dim` of the backbone's actions.
    """
    source: SegmentSource = resolve(config.demonstrations.segments)(config, split, horizon)
    if action_dim is not None and len(source) and (size := source[0].chunk.shape[-1]) != action_dim:
        raise ValueError(
            f"the demonstrations in {config.demonstrations.root} have {size} joints and grippers, the backbone "
            f"{config.wam.checkpoint} has {action_dim}: use demonstrations of its robot, or a backbone for their robot"
        )
    return source


def observe_segments(wam: FrozenWAM, segments: Sequence[Segment]) -> Context:
    """Encode the observations and instructions of segments as one batch."""
    histories = [history_of(wam.spec, one.before) for one in segments] if wam.spec.history_chunks else []
    instructions = [one.instruction for one in segments]
    context: Context = wam.observe([one.observation for one in segments], instructions, histories)
    return context


def history_of(spec: WAMSpec, before: Observation | None) -> History:
    """Return what a backbone reads of a recorded episode, whose observations up to the query are `before`.

    The episode is cut into whole chunks from the query backwards, as many as the backbone reads. The history begins
    with the oldest of them. Raises ValueError if the source of the segments does not give `before`.
    """
    if before is None:
        raise ValueError(
            f"backbone {spec.weights_hash} reads what its episode saw before a query, and these segments do not have "
            "it: let demonstrations.segments fill in Segment.before, or use a backbone that reads no history"
        )
    horizon, stride = spec.action_horizon, spec.history_stride
    now = len(before["joints"]) - 1
    first = now - min(now // horizon, spec.history_chunks) * horizon
    chunks = tuple(
        Passed(
            before["joints"][start + 1 : start + 1 + horizon],
            {name: values[start + stride : start + 1 + horizon : stride] for name, values in before.items()},
        )
        for start in range(first, now, horizon)
    )
    return History({name: values[first] for name, values in before.items()}, chunks)


def segment_order(count: int, seed: int, cursor: int, paths: int) -> list[int]:
    """Return the indices of the next `paths` segments, from position `cursor` of endless shuffled rounds on.

    A round goes through all `count` segments. The result depends on the arguments alone.
    """
    positions = range(cursor, cursor + paths)
    rounds = {position // count for position in positions}
    orders = {number: np.random.default_rng([seed, number]).permutation(count) for number in rounds}
    return [int(orders[position // count][position % count]) for position in positions]


def spread_indices(count: int, wanted: int) -> list[int]:
    """Return `wanted` indices spread evenly over `count`, or all indices if there are fewer."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(wanted, count)).round()})


def cut_chunk(
    joints: npt.NDArray[np.float32], start: int, horizon: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return actions [T, A] and weights [T] after `start`: action t is `joints[start + 1 + t]`, or the last joints."""
    steps = start + 1 + np.arange(horizon)
    weight = (steps < len(joints)).astype(np.float32)
    return joints[np.minimum(steps, len(joints) - 1)].astype(np.float32), weight


def segment_starts(lengths: Sequence[int], stride: int) -> list[tuple[int, int]]:
    """Return (episode, start) of every segment with at least one real action. `lengths` counts joint states."""
    return [(episode, start) for episode, length in enumerate(lengths) for start in range(0, length - 1, stride)]


class DemonstrationSegments:
    """The segments of the episodes on disk, ordered by task, mode, episode and control step."""

    def __init__(self, episodes: Sequence[EpisodeReference], horizon: int, stride: int) -> None:
        """Raises ValueError if the robots of the episodes have different numbers of joints."""
        self._episodes, self._horizon = episodes, horizon
        joints = [episode_joints(episode) for episode in episodes]
        shapes = [recorded.shape for recorded in joints]
        for episode, (_, size) in zip(episodes, shapes, strict=True):
            if size != shapes[0][1]:
                raise ValueError(
                    f"{episodes[0].path} has {shapes[0][1]} joints and grippers, {episode.path} has {size}: "
                    "train on demonstrations of one robot"
                )
        self.identity = _identity_of(episodes, joints)
        self._starts = segment_starts([length for length, _ in shapes], stride)
        self._memory = _EpisodeMemory(EPISODE_MEMORY_BYTES)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Segment:
        """Read a segment. Raises `DamagedFile`, a ValueError that names the file, for a damaged episode."""
        number, start = self._starts[index]
        reference = self._episodes[number]
        episode = self._memory.read(reference)
        chunk, weight = cut_chunk(episode.joints, start, self._horizon)
        return Segment(
            observation=episode.at(start),
            instruction=episode.instruction,
            chunk=chunk,
            weight=weight,
            task=reference.task,
            episode=f"{reference.task}/{reference.mode}/{reference.index}",
            start=start,
            before=episode.until(start),
        )


class _EpisodeMemory:
    """Keeps the episodes that were read last, as many as fit into the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._room = limit_bytes
        self._episodes: OrderedDict[EpisodeReference, Episode] = OrderedDict()

    def read(self, reference: EpisodeReference) -> Episode:
        if reference not in self._episodes:
            self._episodes[reference] = read_episode(reference)
            self._room -= _picture_bytes(self._episodes[reference])
            while self._room < 0 and len(self._episodes) > 1:
                self._room += _picture_bytes(self._episodes.popitem(last=False)[1])
        self._episodes.move_to_end(reference)
        return self._episodes[reference]


def demonstration_segments(config: Config, split: str, horizon: int) -> DemonstrationSegments:
    """Return the default source of `demonstrations.segments`. Raises ValueError if the split has no episode.

    Only the first `episodes_per_task` episodes of each task and mode are used, so collecting more changes no run.
    """
    settings = config.demonstrations
    listed = configured_episodes(settings, config.env.tasks, split)
    episodes = [episode for episode in listed if episode.index < settings.episodes_per_task]
    if not episodes:
        raise ValueError(
            f"no {split} demonstrations among the first {settings.episodes_per_task} of each task in {settings.root}: "
            f"the first one has the number {min(episode.index for episode in listed)}. Raise "
            "demonstrations.episodes_per_task above it"
        )
    return DemonstrationSegments(episodes, horizon, settings.segment_stride)


def same_segments(then: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether two runs read the same segments, wherever those are. `then` and `now` are the identities by split.

    Splits that only one of them reads do not count. False if the content is not known.
    """
    both = then.keys() & now.keys()
    return (bool(both) or not now) and all(then[split] == now[split] != "" for split in both)


def is_changed(then: str, now: str) -> bool:
    """Whether two identities say that the segments differ. An older version hashed only the joints of episodes."""
    return then != now and not (_JOINTS_ONLY.fullmatch(then) and now.startswith(f"{then}:"))


_JOINTS_ONLY = re.compile("[0-9a-f]{64}")


def _identity_of(episodes: Sequence[EpisodeReference], joints: Sequence[npt.NDArray[np.floating[Any]]]) -> str:
    """Hash the recorded joints of all episodes, and the content of their files. Where the files are does not matter."""
    digest, files = hashlib.sha256(), hashlib.sha256()
    digest_of = lru_cache(maxsize=None)(content_digest)  # a file may hold many episodes
    for episode, recorded in zip(episodes, joints, strict=True):
        digest.update(f"{episode.task}/{episode.mode}/{episode.index}/{recorded.shape}\n".encode())
        digest.update(np.ascontiguousarray(recorded, dtype=np.float32).tobytes())
        for path in known_formats()[episode.format].files(episode):
            files.update(digest_of(path))
    return f"{digest.hexdigest()}:{files.hexdigest()}"


def _picture_bytes(episode: Episode) -> int:
    return sum(frames.nbytes for frames in episode.images.values())
