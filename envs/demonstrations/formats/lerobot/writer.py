"""Writes LeRobot v3.0 datasets of our episodes.

Each observation is a row: an episode of T actions has T + 1 rows, and the action of the last row is its own state.
LeRobot has no columns for the name of the task, the mode, the seed, further wordings and the expert's choices. These
are columns of our own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from envs.demonstrations.episodes import SPLITS, Episode, EpisodeReference
from envs.demonstrations.formats.lerobot import statistics
from envs.demonstrations.formats.lerobot.dataset import CAMERAS, IMAGES
from envs.demonstrations.formats.lerobot.depth import DEPTH, PACKED, columns_of, feature_of, nested
from envs.demonstrations.formats.lerobot.files import FILES_PER_CHUNK, DataFiles, Limits, VideoFiles, indices
from envs.demonstrations.formats.lerobot.rows import WRITTEN
from envs.demonstrations.formats.lerobot.schema import ACTION, DATA_PATH, OURS, STATE, VERSION, VIDEO_PATH
from envs.video import HALF_COLOUR, exact_rate

TABLE_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
KEYS = {view: IMAGES + names[0] for view, names in CAMERAS.items()}
NAMES = {view: names[0] for view, names in CAMERAS.items()}

_COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_CARD = """---
task_categories:
- robotics
tags:
- LeRobot
configs:
- config_name: default
  data_files: data/*/*.parquet
---

{episodes} demonstrations, {frames} frames at {fps:g} a second, in the LeRobot {version} format. Joint vectors are
absolute drive targets `[left arm, gripper, right arm, gripper]`; grippers are 0 closed to 1 open.
"""


class DatasetWriter:
    """Writes a dataset into an empty folder; use it in a `with` block, at whose end the dataset is complete.

    All episodes of a split must be added one after another.
    """

    def __init__(
        self, root: Path, fps: float, robot_type: str, limits: Limits | None = None, pixels: str = HALF_COLOUR
    ) -> None:
        self._root, self._robot_type, self._pixels = root, robot_type, pixels
        self._fps = fps = float(exact_rate(fps))  # with any other, rows and videos would drift apart over hours
        self._limits = limits or Limits()
        self._data = DataFiles(root, DATA_PATH, self._limits.data_mib)
        self._videos = {
            key: VideoFiles(root, VIDEO_PATH, self._limits.video_mib, key, fps, pixels) for key in KEYS.values()
        }
        self._table: list[dict[str, Any]] = []
        self._tables = 0
        self._tasks: dict[str, int] = {}
        self._splits: dict[str, range] = {}
        self._statistics: dict[str, list[statistics.Statistics]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._first: EpisodeReference | None = None
        self._episodes = self._frames = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        else:
            self._abandon()

    def add(self, reference: EpisodeReference, episode: Episode, split: str) -> None:
        """Adds an episode. Raises ValueError if its pictures, depth or joints differ in size from those before."""
        depth = columns_of(episode, NAMES)
        self._check_shapes(reference, episode, depth)
        self._note_split(split)
        columns = {**self._columns(episode), **depth}
        row = self._table_row(reference, episode)
        row |= _prefixed("data", self._data.append(_data_table(columns), **(PACKED if depth else {})))
        for view, key in KEYS.items():
            row |= _prefixed(f"videos/{key}", self._videos[key].append(episode.images[view]))
        row |= _prefixed("meta/episodes", indices(self._tables))
        row |= self._note_statistics(columns, episode)
        self._table.append(row)
        self._episodes, self._frames = self._episodes + 1, self._frames + len(episode.joints)
        if len(self._table) >= self._limits.table_episodes:
            self._write_table()

    def _finish(self) -> None:
        """Completes the files and writes those that describe the whole dataset."""
        self._data.close()
        for video in self._videos.values():
            video.close()
        if self._table:
            self._write_table()
        _write_tasks(self._root / "meta" / "tasks.parquet", self._tasks)
        merged = {key: _lists(statistics.merged(parts)) for key, parts in self._statistics.items()}
        _write_json(self._root / "meta" / "stats.json", merged)
        _write_json(self._root / "meta" / "info.json", self._info())
        card = _CARD.format(episodes=self._episodes, frames=self._frames, fps=self._fps, version=VERSION)
        (self._root / "README.md").write_text(card, encoding="utf-8")

    def _abandon(self) -> None:
        """Ends what still runs. The folder is of no use then."""
        for video in self._videos.values():
            video.abandon()
        self._data.close()

    def _check_shapes(
        self, reference: EpisodeReference, episode: Episode, depth: Mapping[str, npt.NDArray[np.float32]]
    ) -> None:
        shapes: dict[str, tuple[int, ...]] = {STATE: episode.joints.shape[1:]}
        shapes |= {key: episode.images[view].shape[1:] for view, key in KEYS.items()}
        odd = [key for key in KEYS.values() if shapes[key][0] % 2 or shapes[key][1] % 2]
        shapes |= {key: values.shape[1:] for key, values in depth.items()}
        if odd and self._pixels == HALF_COLOUR:
            raise ValueError(f"{reference.path}: {odd[0]} {shapes[odd[0]]} is of odd size: use convert.pixels=yuv444p")
        if self._first is None:
            self._first, self._shapes = reference, shapes
        for key in {**self._shapes, **shapes}:
            shape, first = (found.get(key, "none") for found in (shapes, self._shapes))
            if shape != first:
                raise ValueError(
                    f"{reference.path}: {key} has shape {shape}, but {first} in {self._first.path}. A "
                    "dataset holds one size: convert these episodes into another convert.output"
                )

    def _note_split(self, split: str) -> None:
        first = self._splits.get(split, range(self._episodes, self._episodes))
        if first.stop != self._episodes:
            raise ValueError(f"the episodes of {split} must come one after another")
        self._splits[split] = range(first.start, self._episodes + 1)

    def _columns(self, episode: Episode) -> dict[str, npt.NDArray[Any]]:
        count = len(episode.joints)
        frames = np.arange(count)
        return {
            STATE: episode.joints,
            ACTION: np.concatenate([episode.actions, episode.joints[-1:]]),
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, self._episodes),
            "index": self._frames + frames,
            "task_index": np.full(count, self._tasks.setdefault(episode.instruction, len(self._tasks))),
        }

    def _table_row(self, reference: EpisodeReference, episode: Episode) -> dict[str, Any]:
        own = {
            "task": reference.task,
            "mode": reference.mode,
            "seed": reference.seed,
            "instructions": list(episode.instructions),
            "style": json.dumps(episode.style),
        }
        return {
            "episode_index": self._episodes,
            "tasks": [episode.instruction],
            "length": len(episode.joints),
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(episode.joints),
            **{OURS + name: value for name, value in own.items()},
        }

    def _note_statistics(self, columns: Mapping[str, npt.NDArray[Any]], episode: Episode) -> dict[str, Any]:
        """Keeps the episode's statistics, and returns them as columns of the table of episodes."""
        found = {
            key: statistics.of_depth(values) if key.startswith(DEPTH) else statistics.of_column(values)
            for key, values in columns.items()
        }
        found |= {key: statistics.of_pictures(episode.images[view]) for view, key in KEYS.items()}
        for key, values in found.items():
            self._statistics.setdefault(key, []).append(values)
        return {
            name: value
            for key, part in found.items()
            for name, value in _prefixed(f"stats/{key}", _lists(part)).items()
        }

    def _write_table(self) -> None:
        path = self._root / TABLE_PATH.format(**indices(self._tables))
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(self._table)
        seeds = table.schema.get_field_index(f"{OURS}seed")  # it has no type where no seed is known
        table = table.set_column(seeds, f"{OURS}seed", table.column(seeds).cast(pa.int64()))
        pq.write_table(table, path, **WRITTEN)
        self._table.clear()
        self._tables += 1

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot_type,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": self._limits.data_mib,
            "video_files_size_in_mb": self._limits.video_mib,
            "fps": _number(self._fps),
            "splits": {name: f"{rows.start}:{rows.stop}" for name, rows in self._splits.items()},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": self._features(),
        }

    def _features(self) -> dict[str, Any]:
        names = joint_names(self._shapes[STATE][0])
        vector = {"dtype": "float32", "shape": [len(names)], "names": names}
        pictures = {key: self._picture_feature(key) for key in KEYS.values()}
        counters = {key: {"dtype": kind, "shape": [1], "names": None} for key, kind in _COUNTERS.items()}
        known = {STATE: vector, ACTION: vector, **pictures, **counters}
        return known | {key: feature_of(key, shape) for key, shape in self._shapes.items() if key not in known}

    def _picture_feature(self, key: str) -> dict[str, Any]:
        height, width, channels = self._shapes[key]
        details = {"height": height, "width": width, "codec": "h264", "pix_fmt": self._pixels}
        details |= {"fps": _number(self._fps), "channels": channels}
        info = {f"video.{name}": value for name, value in details.items()}
        return {
            "dtype": "video",
            "shape": [height, width, channels],
            "names": ["height", "width", "channels"],
            "info": {**info, "has_audio": False, "is_depth_map": False},
        }


def by_split(splits: Mapping[str, list[EpisodeReference]]) -> list[tuple[str, EpisodeReference]]:
    """All episodes with their splits, in the order in which `DatasetWriter` needs them."""
    return [(split, reference) for split in SPLITS for reference in splits.get(split, [])]


def joint_names(size: int) -> list[str]:
    """The names of a vector [left arm, gripper, right arm, gripper] of `size` numbers."""
    parts = [*(f"joint_{number + 1}" for number in range(size // 2 - 1)), "gripper"]
    return [f"{side}_{part}" for side in ("left", "right") for part in parts]


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _lists(values: statistics.Statistics) -> dict[str, Any]:
    return {name: value.tolist() for name, value in values.items()}


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _data_table(columns: Mapping[str, npt.NDArray[Any]]) -> pa.Table:
    arrays = {}
    for key, values in columns.items():
        if values.ndim == 3:
            arrays[key] = nested(values)
            continue
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays[key] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.ndim == 2 else flat
    return pa.table(arrays)


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """Writes the instructions as pandas writes a table that they index, because LeRobot reads it with pandas."""
    number, text = (
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    )
    frame = {"index_columns": ["task"], "column_indexes": [], "columns": [number, text]}
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(frame)})
    pq.write_table(pa.table([list(tasks.values()), list(tasks)], schema=schema), path, **WRITTEN)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
