"""Reading LeRobot v3.0 datasets.

A Parquet file holds many episodes and MP4 files their frames; a table of episodes says which is where.

    <root>/meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/chunk-*/file-*.parquet
    <root>/data/chunk-*/file-*.parquet
    <root>/videos/<camera>/chunk-*/file-*.mp4

LeRobot knows instructions, but no names of tasks or modes. Our datasets have them in further columns of the table of
episodes. For others, `meta/robotwin_tasks.json` says which episodes are of which task and mode, as
`{"click_bell": {"clean": "0:50"}}`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.stored import DamagedFile, checked, parse_json, read_json
from envs.demonstrations.episodes import (
    REPLACE,
    SPLITS,
    Cameras,
    CorruptDemonstration,
    Depths,
    Episode,
    EpisodeReference,
    Joints,
    StoredDepth,
    checked_depths,
    checked_joints,
    drive_targets,
    hold_last,
)
from envs.demonstrations.formats.lerobot.depth import keys_of, read_depth
from envs.demonstrations.formats.lerobot.rows import (
    Columns,
    read_pictures,
    read_rows,
    read_task_texts,
    rows_of,
    tasks_in,
)
from envs.demonstrations.formats.lerobot.schema import (
    ACTION,
    COLUMNS,
    PLACES,
    STATE,
    VERSION,
    Info,
    Labels,
    Row,
)
from envs.video import TOLERANCE_S, read_frames

NAME = "lerobot"
IMAGES = "observation.images."
CAMERAS = {  # our views -> their names in datasets, after `observation.images.`; the first is what we write
    "head": ("head_camera", "cam_high", "cam_head", "head"),
    "left_wrist": ("left_camera", "cam_left_wrist", "left_wrist"),
    "right_wrist": ("right_camera", "cam_right_wrist", "right_wrist"),
}
TASKS_FILE = "meta/robotwin_tasks.json"
_FIX_LABELS = 'Write it as {"click_bell": {"clean": "0:50"}}, each episode once.'
_SPLIT_NAMES = {name: name for name in SPLITS} | {"val": "validation"}


def is_dataset(root: Path) -> bool:
    return (root / "meta" / "info.json").exists()


def open_dataset(root: Path) -> Dataset:
    """The dataset in a folder. Raises ValueError if it has another version or lacks what we read."""
    described = (root / "meta" / "info.json", root / TASKS_FILE)
    return _opened(root, tuple(path.stat().st_mtime_ns for path in described if path.exists()))


def dataset_of(data_file: Path) -> Dataset:
    """The dataset that a data file belongs to."""
    return open_dataset(next(folder for folder in data_file.parents if is_dataset(folder)))


class Dataset:
    """This is one dataset. A `row` is the number of an episode in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.info_path = root, root / "meta" / "info.json"
        self.info = read_json(self.info_path, Info, REPLACE)
        if self.info.codebase_version != VERSION:
            raise ValueError(
                f"{self.info_path}: LeRobot {self.info.codebase_version}, but {VERSION} is what can be read. "
                "LeRobot's own `python -m lerobot.scripts.convert_dataset_v21_to_v30` converts v2.1"
            )
        self.fps = self.info.fps
        self.cameras = self._find_cameras()
        self._check_columns()

    def references(self, tasks: Sequence[str], modes: Sequence[str]) -> list[EpisodeReference]:
        """The episodes of these tasks and modes, by task, mode and row."""
        rows: dict[tuple[str, str], list[int]] = {(task, mode): [] for task in tasks for mode in modes}
        for row in range(len(self.table)):
            task, mode = self._labels[row]
            if mode is None and len(modes) == 1:
                mode = modes[0]
            if (task, mode) in rows:
                rows[task, mode].append(row)  # type: ignore[index]
        return [
            EpisodeReference(self.data_file(row), task, mode, index, self.table[row].seed, NAME, row, self._split(row))
            for (task, mode), found in rows.items()
            for index, row in enumerate(found)
        ]

    def task_names(self) -> list[str]:
        """The names of all tasks in the dataset."""
        return sorted({task for task, _ in self._labels})

    def joints(self, row: int) -> Joints:
        """The joints of an episode, [T + 1, A]. Raises `CorruptDemonstration`."""
        rows = self._rows(row)
        # Where we wrote the episode, its last row holds the last observation and no further action.
        joints = rows[STATE] if self.table[row].task is not None else drive_targets(rows[STATE], rows[ACTION])
        return checked_joints(self.data_file(row), joints)

    def depths(self, row: int) -> tuple[Depths, Cameras]:
        """The depth pictures and cameras of an episode, if it has them. Raises `CorruptDemonstration`."""
        names = {view: key.removeprefix(IMAGES) for view, key in self.cameras.items()}
        if not any(keys_of(name)[0] in self.info.features for name in names.values()):
            return {}, {}
        path, count = self.data_file(row), len(self.joints(row))
        stored: dict[str, StoredDepth] = {}
        for view, name in names.items():
            depth, intrinsics, poses = read_depth(path, name, self.table[row])
            stored[view] = hold_last(depth, count), hold_last(intrinsics, count), hold_last(poses, count)
        return checked_depths(path, stored, count)

    def read(self, row: int) -> Episode:
        """All of the episode but its depth. Raises `CorruptDemonstration`."""
        joints = self.joints(row)
        images = {view: hold_last(self._frames(row, key), len(joints)) for view, key in self.cameras.items()}
        style = self.table[row].style
        choices = parse_json(self._table_files[0], style, dict[str, Any], REPLACE) if style else {}
        return Episode(images, joints, self.instructions(row), choices)

    def data_file(self, row: int) -> Path:
        """The Parquet file that holds the joints of an episode.

        Some versions of LeRobot's converter stored the index of the file before (huggingface/lerobot#2401). LeRobot
        itself does not notice, because it looks for an episode's rows in all data files.
        """
        episode = self.table[row]
        place = {"chunk_index": episode.data_chunk, "file_index": episode.data_file}
        named = self.root / self.info.data_path.format(**place)
        held = episode.episode_index in _episodes_in(named)
        return named if held else self._holders.get(episode.episode_index, named)

    def files(self, row: int) -> tuple[Path, ...]:
        """Every file that the episode is read from."""
        videos = [self._video_file(row, key) for key in self.cameras.values() if self._is_video(key)]
        episode = self.table[row]
        texts = [] if episode.instructions or episode.tasks else [self._task_texts_file]
        return (self.info_path, *self._table_files, *texts, self.data_file(row), *videos)

    @cached_property
    def table(self) -> list[Row]:
        """The table of episodes, without statistics, in the order of their numbers."""
        videos = [key for key in self.cameras.values() if self._is_video(key)]
        columns = [*COLUMNS, *(f"videos/{key}/{name}" for key in videos for name in PLACES)]
        rows: list[Row] = []
        for path in self._table_files:
            stored = read_rows(path, (), columns)
            for row in stored:
                row["videos"] = {
                    key: {name: row[column] for name in PLACES if (column := f"videos/{key}/{name}") in row}
                    for key in videos
                }
            rows += checked(path, stored, list[Row], REPLACE)
        rows.sort(key=lambda row: row.episode_index)
        if [row.episode_index for row in rows] != list(range(len(rows))):
            reason = f"its episodes are not those from 0 to {len(rows) - 1}, each once"
            raise CorruptDemonstration(self.root / "meta" / "episodes", reason)
        return rows

    @cached_property
    def _table_files(self) -> list[Path]:
        found = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        if not found:
            raise CorruptDemonstration(self.root / "meta" / "episodes", "the table of episodes is missing")
        return found

    @cached_property
    def _holders(self) -> dict[int, Path]:
        """The data file of each episode, found by looking into all of them."""
        return {number: path for path in sorted(self.root.glob("data/*/*.parquet")) for number in _episodes_in(path)}

    @cached_property
    def _labels(self) -> list[tuple[str, str | None]]:
        """The task and the mode of each row; the mode is None where it is not known."""
        path = self.root / TASKS_FILE
        if path.exists():
            return self._labels_of(path)
        return [
            (episode.task or "_".join(self.instructions(row)[0].lower().split()), episode.mode)
            for row, episode in enumerate(self.table)
        ]

    def _labels_of(self, path: Path) -> list[tuple[str, str | None]]:
        labels: list[tuple[str, str | None]] = [("", None)] * len(self.table)
        for task, spans in read_json(path, Labels, _FIX_LABELS).items():
            for mode, span in spans.items():
                for row in range(len(self.table))[span.start : span.stop]:
                    if labels[row][0]:
                        reason = f"episode {row} is of two tasks or modes"
                        raise DamagedFile(path, reason, _FIX_LABELS)
                    labels[row] = (task, mode)
        return labels

    def _find_cameras(self) -> dict[str, str]:
        cameras = {}
        for view, names in CAMERAS.items():
            found = [key for name in names if (key := IMAGES + name) in self.info.features]
            if not found:
                held = ", ".join(
                    key for key in self.info.features if self.info.features[key].dtype in ("image", "video")
                )
                raise ValueError(
                    f"{self.info_path}: no camera for {view!r} (one of {', '.join(IMAGES + name for name in names)}); "
                    f"the dataset has {held or 'no cameras'}. Rename its key in the dataset, or add it to CAMERAS in "
                    f"{__name__}"
                )
            cameras[view] = found[0]
        return cameras

    def _check_columns(self) -> None:
        missing = [key for key in (STATE, ACTION) if key not in self.info.features]
        if missing:
            raise ValueError(
                f"{self.info_path}: no {' and no '.join(missing)}; it has {', '.join(self.info.features)}. "
                f"Joint states and targets are read from {STATE} and {ACTION}: rename them in the dataset"
            )
        kinds = ("image", "video") if self.info.video_path else ("image",)
        for key in self.cameras.values():
            if (kind := self.info.features[key].dtype) not in kinds:
                place = "" if self.info.video_path else " and no `video_path`"
                raise DamagedFile(
                    self.info_path, f"{key} has the dtype {kind!r}{place}, not {' or '.join(kinds)}", REPLACE
                )

    def _rows(self, row: int) -> Columns:
        return rows_of(self.data_file(row), self.table[row], self.fps)

    def _frames(self, row: int, key: str) -> npt.NDArray[np.uint8]:
        """The pictures of one camera. LeRobot asks a video for `from_timestamp` + `timestamp`, and so do we."""
        episode = self.table[row]
        if not self._is_video(key):
            return read_pictures(self.data_file(row), key, episode)
        file, start = self._video_file(row, key), episode.videos[key].from_timestamp
        self._check_alone(row, key, file)
        timestamps = self._rows(row).get("timestamp", np.arange(episode.length) / self.fps)
        try:
            return read_frames(file, start + timestamps.astype(np.float64))
        except OSError as error:
            raise CorruptDemonstration(file, str(error)) from error

    def _check_alone(self, row: int, key: str, file: Path) -> None:
        """Raises `CorruptDemonstration` where the table has another episode at the same time of a video."""
        first, last = self._part(row, key)
        for other in self._sharing[file]:
            start, end = self._part(other, key)
            if other != row and start <= last + TOLERANCE_S and first <= end + TOLERANCE_S:
                reason = f"episodes {row} and {other} are both said to be at {max(first, start):.4f} s of it"
                raise CorruptDemonstration(file, reason)

    def _part(self, row: int, key: str) -> tuple[float, float]:
        """When the first and the last picture of an episode are shown."""
        start = self.table[row].videos[key].from_timestamp
        return start, start + (self.table[row].length - 1) / self.fps

    @cached_property
    def _sharing(self) -> dict[Path, list[int]]:
        """The episodes in each video."""
        found: dict[Path, list[int]] = {}
        for key in filter(self._is_video, self.cameras.values()):
            for row in range(len(self.table)):
                found.setdefault(self._video_file(row, key), []).append(row)
        return found

    def _is_video(self, key: str) -> bool:
        return self.info.features[key].dtype == "video"

    def _video_file(self, row: int, key: str) -> Path:
        place = self.table[row].videos[key]
        indices = {"chunk_index": place.chunk_index, "file_index": place.file_index}
        return self.root / str(self.info.video_path).format(video_key=key, **indices)

    def instructions(self, row: int) -> tuple[str, ...]:
        """The wordings in our own column, else the tasks in the table, else those that the episode's rows name."""
        episode = self.table[row]
        if texts := episode.instructions or episode.tasks:
            return tuple(texts)
        numbers = tasks_in(self.data_file(row)).get(episode.episode_index, ())
        if not numbers:
            raise CorruptDemonstration(self._table_files[0], f"episode {episode.episode_index} has no instruction")
        if missing := [number for number in numbers if number not in self._task_texts]:
            raise CorruptDemonstration(
                self._task_texts_file, f"it has no task {missing[0]}, which is that of episode {episode.episode_index}"
            )
        return tuple(self._task_texts[number] for number in numbers)

    @property
    def _task_texts_file(self) -> Path:
        return self.root / "meta" / "tasks.parquet"

    @cached_property
    def _task_texts(self) -> dict[int, str]:
        return read_task_texts(self._task_texts_file)

    def _split(self, row: int) -> str | None:
        """The split that the dataset says; None if it is not split, because LeRobot itself calls everything `train`."""
        splits = self.info.splits or {}
        if set(splits) <= {"train"}:
            return None
        for name, span in splits.items():
            if row in span:
                return _SPLIT_NAMES.get(name, name)
        return None


@lru_cache(maxsize=8)
def _opened(root: Path, changed_ns: tuple[int, ...]) -> Dataset:
    return Dataset(root)


def _episodes_in(path: Path) -> Collection[int]:
    """The episodes in a data file; none if it is damaged, which is said where it is read."""
    try:
        return tasks_in(path)
    except CorruptDemonstration:
        return ()
