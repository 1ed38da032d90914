"""The numbered files of a LeRobot dataset. Each takes whole episodes until it is large enough; then the next begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from envs.demonstrations.formats.lerobot.rows import WRITTEN
from envs.video import VideoWriter

FILES_PER_CHUNK = 1000
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits say how large files may become. The next file begins with the first episode after that."""

    data_mib: int = 100
    video_mib: int = 200
    table_episodes: int = 1000


def indices(number: int) -> dict[str, int]:
    """LeRobot's indices of the file with this number."""
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


class DataFiles:
    """The Parquet files, which hold all but the pictures; each episode is one row group."""

    def __init__(self, root: Path, template: str, limit_mib: int) -> None:
        self._root, self._template, self._limit = root, template, limit_mib * MIB
        self._number, self._path = 0, root
        self._writer: pq.ParquetWriter | None = None

    def append(self, table: pa.Table, **options: Any) -> dict[str, int]:
        """Writes one episode. Returns the indices of its file. `options` of pyarrow are those of the whole file."""
        if self._writer is not None and self._path.stat().st_size >= self._limit:
            self.close()
            self._number += 1
        if self._writer is None:
            self._path = self._root / self._template.format(**indices(self._number))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, table.schema, **{**WRITTEN, **options})
        self._writer.write_table(table)
        return indices(self._number)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class VideoFiles:
    """The MP4 files of one camera."""

    def __init__(self, root: Path, template: str, limit_mib: int, key: str, fps: float, pixels: str) -> None:
        self._root, self._template, self._limit = root, template, limit_mib * MIB
        self._key, self._fps, self._pixels = key, fps, pixels
        self._number = 0
        self._video: VideoWriter | None = None

    def append(self, frames: npt.NDArray[np.uint8]) -> dict[str, float]:
        """Writes one episode [N, H, W, 3]. Returns the indices of its file, and when it begins and ends there."""
        if self._video is not None and self._video.bytes_written() >= self._limit:
            self.close()
            self._number += 1
        if self._video is None:
            path = self._root / self._template.format(video_key=self._key, **indices(self._number))
            self._video = VideoWriter(path, (frames.shape[1], frames.shape[2]), self._fps, self._pixels)
        start = self._video.frames
        self._video.append(frames)
        times = {"from_timestamp": start / self._fps, "to_timestamp": self._video.frames / self._fps}
        return {**indices(self._number), **times}

    def close(self) -> None:
        """Completes the last file. Raises OSError if it does not hold every frame."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def abandon(self) -> None:
        """Ends what still runs. The files are of no use then."""
        if self._video is not None:
            self._video.abandon()
