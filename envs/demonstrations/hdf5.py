"""What the HDF5 formats share: trees of folders that are named after task, mode and robot, with one file an episode."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from configs.failures import EXPERT
from configs.stored import DamagedFile, read_text
from envs.demonstrations import jpeg
from envs.demonstrations.episodes import (
    Cameras,
    CorruptDemonstration,
    Depths,
    Episode,
    EpisodeReference,
    Joints,
    StoredDepth,
    checked_depths,
    checked_joints,
    hold_last,
)

SEEDS_FILE = "seed.txt"
KIND = "kind"
"""The attribute of a file that says of which kind its episode is. Files of demonstrations have none."""

MISPLACED = "Only episodes of the expert are demonstrations: move it out of their folder."
_SEED = re.compile(r"-?[0-9]{1,18}")
_SEEDS_FIX = "Write the seeds of episodes 0, 1, ... as whole numbers with spaces between them."
_MODE = re.compile(r"(?:(?P<embodiment>.+)_)?(?P<mode>clean|randomized)(?:_\d+)?")

Pictures = npt.NDArray[np.generic]
"""The encoded pictures of one camera: byte strings [N], or their bytes [N, length] with padding."""


class Hdf5Format(ABC):
    """A format (see `envs.demonstrations.formats.Format`) whose episodes are HDF5 files: what is particular to one."""

    name: str
    prefix: str
    """What the name of an episode's file begins with; `<index>.hdf5` follows."""
    group: str
    """The HDF5 group that holds the cameras."""
    cameras: Mapping[str, str]
    """Our name of each camera -> the format's."""
    pictures: str
    """The name of a camera's row of encoded pictures."""

    @abstractmethod
    def stored_joints(self, file: h5py.File) -> npt.NDArray[np.floating[Any]]:
        """The drive targets, [T + 1, A]."""

    @abstractmethod
    def stored_instructions(self, path: Path, file: h5py.File) -> tuple[str, ...]:
        """At least one instruction (see `checked_texts`). Raises `DamagedFile`."""

    def stored_frequency(self, file: h5py.File) -> float | None:
        """Observations a second, or None where the format does not store it."""
        return None

    def stored_depths(self, file: h5py.File) -> Mapping[str, StoredDepth]:
        """The depth of all cameras; empty where the file has none. By our names of the cameras."""
        return {}

    def stored_style(self, path: Path) -> dict[str, Any]:
        """Return what the expert drew from the seed. It is empty where the format does not store it."""
        return {}

    def recognises(self, root: Path) -> bool:
        return any(True for depth in ("*/*", "*/*/*") for _ in root.glob(f"{depth}/data/{self.prefix}[0-9]*.hdf5"))

    def references(
        self, root: Path, tasks: Sequence[str], modes: Sequence[str], embodiment: str
    ) -> list[EpisodeReference]:
        return [
            reference
            for task in tasks
            for mode in modes
            if (folder := episode_folder(root, task, mode, modes, embodiment)) is not None
            for reference in self._references_in(folder, task, mode)
        ]

    def _references_in(self, folder: Path, task: str, mode: str) -> list[EpisodeReference]:
        """Return the episodes by index. A `seed.txt` in the folder lists the finished ones: others are left out."""
        seeds = read_seeds(folder)
        indexed = ((self.index_of(path), path) for path in (folder / "data").glob(f"{self.prefix}*.hdf5"))
        found = {index: path for index, path in indexed if index is not None}
        return [
            EpisodeReference(found[index], task, mode, index, seeds[index] if seeds else None, self.name)
            for index in (range(len(seeds)) if seeds else sorted(found))
            if index in found
        ]

    def index_of(self, path: Path) -> int | None:
        """The index that a file's name says; None for a file that is not an episode of this format."""
        number = path.stem.removeprefix(self.prefix)
        return int(number) if number.isdecimal() else None

    def read(self, reference: EpisodeReference) -> Episode:
        path = reference.path
        with self._opened(path, reference.kind) as file:
            pictures, joints = self._read_pictures(path, file), self._read_joints(path, file)
            instructions = self.stored_instructions(path, file)
        held = {name: hold_last(row, len(joints)) for name, row in pictures.items()}
        _check_rows(path, held, joints)
        images = {name: _decoded(path, name, row) for name, row in held.items()}
        return Episode(images, joints, instructions, self.stored_style(path))

    def depths(self, reference: EpisodeReference) -> tuple[Depths, Cameras]:
        with self._opened(reference.path, reference.kind) as file:
            return self._read_depths(reference.path, file)

    def joints(self, reference: EpisodeReference) -> Joints:
        with self._opened(reference.path, reference.kind) as file:
            return self._read_joints(reference.path, file)

    def instructions(self, reference: EpisodeReference) -> tuple[str, ...]:
        with self._opened(reference.path, reference.kind) as file:
            return self.stored_instructions(reference.path, file)

    def frequency(self, reference: EpisodeReference) -> float | None:
        with self._opened(reference.path, reference.kind) as file:
            return self.stored_frequency(file)

    def files(self, reference: EpisodeReference) -> tuple[Path, ...]:
        return (reference.path,)

    def advice(self, root: Path) -> str | None:
        return None

    def check(self, path: Path, kind: str = EXPERT) -> None:
        """Raises `DamagedFile` for a truncated or incomplete episode, or one of another kind.

        It does not decode the pictures.
        """
        with self._opened(path, kind) as file:
            pictures, joints = self._read_pictures(path, file), self._read_joints(path, file)
            self.stored_instructions(path, file)
            self._read_depths(path, file)
        _check_rows(path, {name: hold_last(row, len(joints)) for name, row in pictures.items()}, joints)
        for name, row in pictures.items():
            if not all(jpeg.is_whole(picture) for picture in row):
                raise CorruptDemonstration(path, f"a {name} picture is cut off")

    @contextmanager
    def _opened(self, path: Path, kind: str) -> Iterator[h5py.File]:
        """The open file, whose episode must be of this kind.

        Whatever h5py raises about damage in it, here or in the block, is a `CorruptDemonstration`.
        """
        try:
            with h5py.File(path, "r") as file:
                if self.group not in file:
                    reason = f"a file of this name should have the group {self.group!r}; it has {sorted(file)}"
                    raise CorruptDemonstration(path, reason)
                if (stored := str(file.attrs.get(KIND, EXPERT))) != kind:
                    raise CorruptDemonstration(path, f"its episode is of the kind {stored!r}, not {kind!r}", MISPLACED)
                yield file
        except DamagedFile:
            raise
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CorruptDemonstration(path, f"unreadable or incomplete ({error})") from error

    def _read_pictures(self, path: Path, file: h5py.File) -> dict[str, Pictures]:
        cameras = file[self.group]
        missing = [camera for camera in self.cameras.values() if f"{camera}/{self.pictures}" not in cameras]
        if missing:
            raise CorruptDemonstration(
                path,
                f"no pictures of {', '.join(missing)}; it has {', '.join(sorted(cameras)) or 'none'} "
                "(RoboTwin records wrists with camera.collect_wrist_camera: true)",
            )
        pictures = {name: np.asarray(cameras[camera][self.pictures][()]) for name, camera in self.cameras.items()}
        for name, row in pictures.items():
            if not _is_encoded(row):
                raise CorruptDemonstration(path, f"its {name} pictures are not a row of encoded pictures")
        return pictures

    def _read_depths(self, path: Path, file: h5py.File) -> tuple[Depths, Cameras]:
        return checked_depths(path, self.stored_depths(file), len(self._read_joints(path, file)))

    def _read_joints(self, path: Path, file: h5py.File) -> Joints:
        try:
            joints = self.stored_joints(file)
        except ValueError as error:
            raise CorruptDemonstration(path, f"inconsistent joints ({error})") from error
        return checked_joints(path, joints)


def read_seeds(folder: Path) -> list[int]:
    """The seeds of episodes 0, 1, ... of a folder; empty where it has no `seed.txt`.

    They may be separated by commas too. Raises `DamagedFile` if one of them is not a whole number.
    """
    path = folder / SEEDS_FILE
    if not path.exists():
        return []
    words = read_text(path, _SEEDS_FIX).replace(",", " ").split()
    for word in words:
        if not _SEED.fullmatch(word):
            raise DamagedFile(path, f"{word!r} is not a seed", _SEEDS_FIX)
    return [int(word) for word in words]


@dataclass(frozen=True)
class _Candidate:
    """A folder with episodes of a task, and what the names of folders say of them."""

    path: Path
    mode: str | None
    embodiment: str | None


def episode_folder(root: Path, task: str, mode: str, modes: Sequence[str], embodiment: str) -> Path | None:
    """The folder with the episodes of a task and mode, or None. Raises ValueError where several could be meant.

    A folder whose name says no mode is taken only where a single mode is asked for.
    """
    wanted = embodiment.replace("-", "_")
    found = [
        candidate
        for candidate in _candidates(root, task)
        if not wanted or candidate.embodiment is None or candidate.embodiment.replace("-", "_") == wanted
    ]
    chosen = [candidate for candidate in found if candidate.mode == mode]
    if not chosen and len(modes) == 1:
        chosen = [candidate for candidate in found if candidate.mode is None]
    if len(chosen) > 1:
        names = ", ".join(str(candidate.path.relative_to(root)) for candidate in chosen)
        robots = sorted({candidate.embodiment for candidate in chosen if candidate.embodiment})
        raise ValueError(
            f"{root} holds several folders of {task} ({mode}): {names}. Set demonstrations.embodiment to one of "
            f"{', '.join(robots) or 'their embodiments'}, or keep the wanted folder alone under a root of its own"
        )
    return chosen[0].path if chosen else None


def _candidates(root: Path, task: str) -> list[_Candidate]:
    """`<task>/<anything>` and `<anything>/<task>/<embodiment>` below the root, where they have a folder `data`."""
    found = []
    for path in sorted(folder.parent for folder in root.glob(f"{task}/*/data")):
        named = _MODE.fullmatch(path.name)
        robot = named["embodiment"] if named else path.name
        found.append(_Candidate(path, named["mode"] if named else None, None if robot == "demo" else robot))
    for path in sorted(folder.parent for folder in root.glob(f"*/{task}/*/data")):
        named = _MODE.fullmatch(path.parent.parent.name)
        found.append(_Candidate(path, named["mode"] if named else None, path.name))
    return found


def _is_encoded(row: Pictures) -> bool:
    if row.ndim == 2:
        return row.dtype.kind in "iu" and row.itemsize == 1
    kind = row.dtype.kind if row.ndim == 1 else ""
    return kind == "S" or (kind == "O" and all(isinstance(picture, bytes | np.ndarray) for picture in row))


def _decoded(path: Path, name: str, row: Pictures) -> npt.NDArray[np.uint8]:
    """The pictures of one camera, [T + 1, H, W, 3]."""
    pictures = [jpeg.decode(path, picture) for picture in row]
    if len({picture.shape for picture in pictures}) > 1:
        raise CorruptDemonstration(path, f"its {name} pictures differ in size")
    return np.stack(pictures)


def _check_rows(path: Path, pictures: Mapping[str, Pictures], joints: Joints) -> None:
    lengths = {len(joints), *(len(row) for row in pictures.values())}
    if len(lengths) > 1:
        raise CorruptDemonstration(path, f"inconsistent: joints {joints.shape}, rows {sorted(lengths)}")
