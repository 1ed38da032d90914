"""Demonstrations on disk, in RoboTwin's legacy HDF5 layout: the same reader takes the official files.

    <root>/splits.json
    <root>/<task>/<mode>/data/episode<i>.hdf5
                        /instructions/episode<i>.json    {"seen": [...], "unseen": [...]}
                        /scene_info.json                 what was drawn from each episode's seed
                        /seed.txt                        the seeds of episodes 0, 1, ...

Arrays have one row an observation, T + 1 of them; there is no action array: action t is row t + 1 of the joints.
Pictures are JPEG made by OpenCV from RGB arrays as they are, so decoding with OpenCV gives RGB again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt

from envs.files import replaced_atomically
from envs.tabletop.robot import SIDES, fk

SPLITS = ("train", "validation", "test")
CAMERAS = {"head": "head_camera", "left_wrist": "left_camera", "right_wrist": "right_camera"}

Images = dict[str, npt.NDArray[np.uint8]]

_PARTS: dict[str, Any] = {"left_arm": np.s_[:6], "left_gripper": 6, "right_arm": np.s_[7:13], "right_gripper": 13}
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
_JPEG_END = b"\xff\xd9"
_GOLDEN = 0.6180339887498949


class CorruptDemonstration(ValueError):
    """A demonstration file that cannot be used; the message names it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}. Run the collection again: it replaces damaged files."


@dataclass(frozen=True)
class EpisodeReference:
    """Where an episode is. `seed` is unknown (None) for files without a `seed.txt`."""

    path: Path
    task: str
    mode: str
    index: int
    seed: int | None


@dataclass(frozen=True)
class Episode:
    """T actions between T + 1 observations."""

    images: Images  # head, left_wrist, right_wrist: [T + 1, H, W, 3] RGB
    joints: npt.NDArray[np.float32]  # [T + 1, 14], [L6, Lg, R6, Rg]
    instructions: tuple[str, ...]
    style: dict[str, Any]  # what the expert drew from the seed; empty for official files

    @property
    def actions(self) -> npt.NDArray[np.float32]:
        """[T, 14] absolute joint targets."""
        return self.joints[1:]

    @property
    def instruction(self) -> str:
        return self.instructions[0]

    def __len__(self) -> int:
        return len(self.joints) - 1


@dataclass(frozen=True)
class Folder:
    """The files of one task and mode."""

    root: Path
    task: str
    mode: str

    @property
    def path(self) -> Path:
        return self.root / self.task / self.mode

    @property
    def seeds_path(self) -> Path:
        return self.path / "seed.txt"

    def episode_path(self, index: int) -> Path:
        return self.path / "data" / f"episode{index}.hdf5"

    def instructions_path(self, index: int) -> Path:
        return self.path / "instructions" / f"episode{index}.json"

    @cached_property
    def scene_info(self) -> dict[str, Any]:
        path = self.path / "scene_info.json"
        return dict(read_json(path)) if path.exists() else {}

    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.seeds_path.read_text().split()] if self.seeds_path.exists() else []

    def episodes(self) -> list[EpisodeReference]:
        """By index; those of `seed.txt` where there is one, else all files."""
        seeds = self.seeds()
        found = {int(path.stem.removeprefix("episode")): path for path in (self.path / "data").glob("episode*.hdf5")}
        indices = range(len(seeds)) if seeds else sorted(found)
        return [
            EpisodeReference(found[index], self.task, self.mode, index, seeds[index] if seeds else None)
            for index in indices
            if index in found
        ]

    @classmethod
    def of(cls, episode_path: Path) -> Folder:
        _, mode, task, root = episode_path.absolute().parents[:4]
        return cls(root, task.name, mode.name)


def list_episodes(root: str | Path, tasks: Sequence[str], modes: Sequence[str], split: str) -> list[EpisodeReference]:
    """The episodes of a split (or `all`), by task, mode and index. ValueError if there are none."""
    if split not in (*SPLITS, "all"):
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    folders = [Folder(Path(root), task, mode) for task in tasks for mode in modes]
    episodes = [episode for folder in folders for episode in folder.episodes()]
    if split != "all" and episodes:
        chosen = set(read_json(Path(root) / "splits.json")[split])
        episodes = [episode for episode in episodes if episode.seed in chosen]
    if not episodes:
        wanted = f"{split} demonstrations of {', '.join(tasks)} ({', '.join(modes)})"
        raise ValueError(f"no {wanted} in {root}: run `make demos` first")
    return episodes


def split_of(seed: int, validation_fraction: float, test_fraction: float) -> str:
    """The split of a seed, for ever: a golden-ratio sequence spreads every split evenly over the seeds."""
    position = seed * _GOLDEN % 1.0
    if position < test_fraction:
        return "test"
    return "validation" if 0.5 <= position < 0.5 + validation_fraction else "train"


def dataset_hash(episodes: Iterable[EpisodeReference]) -> str:
    """SHA-256 over the episodes' files (data and instructions) in the given order."""
    digest = hashlib.sha256()
    for episode in episodes:
        folder = Folder.of(episode.path)
        digest.update(f"{episode.task}/{episode.mode}/{episode.index}\n".encode())
        for path in (episode.path, folder.instructions_path(episode.index)):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_episode(path: Path, images: Images, joints: npt.NDArray[np.float32]) -> None:
    """Writes images [T + 1, H, W, 3] by camera and joints [T + 1, 14], all or nothing."""
    vector = joints.astype(np.float64)
    with replaced_atomically(path) as temporary, h5py.File(temporary, "w") as file:
        for name, camera in CAMERAS.items():
            file[f"observation/{camera}/rgb"] = np.array([_encode(frame) for frame in images[name]])
        for part, columns in _PARTS.items():
            file[f"joint_action/{part}"] = vector[:, columns]
        file["joint_action/vector"] = vector
        for side in SIDES:
            file[f"endpose/{side}_endpose"] = np.concatenate(fk(vector[:, _PARTS[f"{side}_arm"]], side), axis=1)
            file[f"endpose/{side}_gripper"] = vector[:, _PARTS[f"{side}_gripper"]]
        file["pointcloud"] = np.zeros((len(vector), 0))


def read_episode(path: str | Path) -> Episode:
    """Reads an episode of ours or of RoboTwin. Raises `CorruptDemonstration`."""
    path = Path(path)
    pictures, joints = _read_file(path)
    folder, index = Folder.of(path), int(path.stem.removeprefix("episode"))
    instructions_path = folder.instructions_path(index)
    if not instructions_path.exists():
        raise CorruptDemonstration(path, f"its instructions are missing ({instructions_path})")
    instructions = read_json(instructions_path)
    images = {name: np.stack([_decode(path, picture) for picture in row]) for name, row in pictures.items()}
    style = folder.scene_info.get(f"episode_{index}", {}).get("info", {}).get("style", {})
    return Episode(images, joints, (*instructions["seen"], *instructions.get("unseen", ())), style)


def episode_length(path: Path) -> int:
    """How many observations an episode holds, from the file's header alone. Raises `CorruptDemonstration`."""
    try:
        with h5py.File(path, "r") as file:
            return int(file["joint_action/vector"].shape[0])
    except (OSError, KeyError) as error:
        raise CorruptDemonstration(path, f"unreadable or incomplete ({error})") from error


def check_episode(path: Path) -> None:
    """Raises `CorruptDemonstration` for a truncated or incomplete file, without decoding its pictures."""
    pictures, _ = _read_file(path)
    for name, row in pictures.items():
        if not all(picture.endswith(_JPEG_END) for picture in row):
            raise CorruptDemonstration(path, f"a {name} picture is cut off")


def read_json(path: Path) -> Any:
    """Raises `CorruptDemonstration`."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptDemonstration(path, f"unreadable ({error})") from error


def _read_file(path: Path) -> tuple[dict[str, npt.NDArray[np.bytes_]], npt.NDArray[np.float32]]:
    try:
        with h5py.File(path, "r") as file:
            if "observation" not in file:
                raise CorruptDemonstration(path, f"not RoboTwin's legacy layout: it holds {sorted(file)}")
            pictures = {name: file[f"observation/{camera}/rgb"][()] for name, camera in CAMERAS.items()}
            joints = file["joint_action/vector"][()].astype(np.float32)
    except (OSError, KeyError) as error:
        raise CorruptDemonstration(path, f"unreadable or incomplete ({error})") from error
    lengths = {len(joints), *(len(row) for row in pictures.values())}
    if len(lengths) > 1 or joints.ndim != 2 or len(joints) < 2 or not np.isfinite(joints).all():
        raise CorruptDemonstration(path, f"inconsistent: joints {joints.shape}, rows {sorted(lengths)}")
    return pictures, joints


def _encode(rgb: npt.NDArray[np.uint8]) -> bytes:
    _, encoded = cv2.imencode(".jpg", rgb, _JPEG)
    return encoded.tobytes()


def _decode(path: Path, picture: bytes) -> npt.NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise CorruptDemonstration(path, "a picture does not decode")
    return decoded.astype(np.uint8, copy=False)
