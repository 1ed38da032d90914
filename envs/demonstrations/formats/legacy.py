"""RoboTwin's legacy HDF5 format. Our own collection writes it too.

    <root>/splits.json                                   written by our collection only
    <root>/<task>/<mode>/data/episode<i>.hdf5
                        /instructions/episode<i>.json    {"seen": [...], "unseen": [...]}
                        /scene_info.json                 what was drawn from each episode's seed
                        /seed.txt                        the seeds of episodes 0, 1, ...

A file has one row for each of the T + 1 observations and no actions: action t is row t + 1 of the joints. With depth
each camera also has `depth` (float64 [T + 1, H, W], millimetres, 0 where nothing was hit), `intrinsic_cv`
[T + 1, 3, 3], `extrinsic_cv` [T + 1, 3, 4], from the world to the camera in OpenCV's convention, and `cam2world_gl`
[T + 1, 4, 4], from the camera in OpenGL's convention to the world. A file whose episode is no demonstration says so by
its attribute `kind` (see `envs.demonstrations.failures`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from configs.failures import EXPERT
from configs.stored import read_json
from envs.demonstrations import jpeg
from envs.demonstrations.episodes import (
    REPLACE,
    Cameras,
    CorruptDemonstration,
    Depths,
    EpisodeReference,
    Images,
    Joints,
    StoredDepth,
    Text,
    checked_texts,
)
from envs.demonstrations.hdf5 import KIND, SEEDS_FILE, Hdf5Format, read_seeds
from envs.files import replaced_atomically
from envs.simulator import CameraTrack, between_opengl_and_opencv
from envs.tabletop.robot import ARM_ACTION, ARM_JOINTS, SIDES, fk

DEPTHS_PER_CHUNK = 16
"""So many depth pictures are compressed together: what does not move costs little then."""


class _Instructions(BaseModel):
    seen: list[Text]
    unseen: list[Text] = []


class _Info(BaseModel):
    style: dict[str, Any] = {}  # written by our collection only


class _Scene(BaseModel):
    info: _Info = _Info()


@dataclass(frozen=True)
class Folder:
    """The folder knows where the files of one task and mode are."""

    root: Path
    task: str
    mode: str

    @property
    def path(self) -> Path:
        return self.root / self.task / self.mode

    @property
    def seeds_path(self) -> Path:
        return self.path / SEEDS_FILE

    def episode_path(self, index: int) -> Path:
        return self.path / "data" / f"episode{index}.hdf5"

    def instructions_path(self, index: int) -> Path:
        return self.path / "instructions" / f"episode{index}.json"

    @property
    def scene_info_path(self) -> Path:
        return self.path / "scene_info.json"

    @cached_property
    def scene_info(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each episode's scene, by `episode_<i>`. It is empty if the file is missing."""
        path = self.scene_info_path
        return read_json(path, dict[str, dict[str, Any]], REPLACE) if path.exists() else {}

    def style(self, index: int) -> dict[str, Any]:
        """Return what the expert drew from an episode's seed. It is empty if this is not stored."""
        path = self.scene_info_path
        scenes = read_json(path, dict[str, _Scene], REPLACE) if path.exists() else {}
        return scenes.get(f"episode_{index}", _Scene()).info.style

    def seeds(self) -> list[int]:
        """The seeds of episodes 0, 1, ...; empty where the file is missing."""
        return read_seeds(self.path)

    @classmethod
    def of(cls, episode_path: Path) -> Folder:
        """The folder that an episode's data file is in."""
        _, mode, task, root = episode_path.absolute().parents[:4]
        return cls(root, task.name, mode.name)


class LegacyFormat(Hdf5Format):
    name = "legacy"
    prefix = "episode"
    group = "observation"
    cameras = {"head": "head_camera", "left_wrist": "left_camera", "right_wrist": "right_camera"}  # noqa: RUF012
    pictures = "rgb"

    def stored_joints(self, file: h5py.File) -> npt.NDArray[np.float64]:
        return np.asarray(file["joint_action/vector"][()])

    def stored_instructions(self, path: Path, file: h5py.File) -> tuple[str, ...]:
        stored = self._instructions_path(path)
        if not stored.exists():
            raise CorruptDemonstration(path, f"its instructions are missing ({stored})")
        content = read_json(stored, _Instructions, REPLACE)
        return checked_texts(stored, [*content.seen, *content.unseen])

    def stored_depths(self, file: h5py.File) -> dict[str, StoredDepth]:
        cameras = {name: file[self.group][camera] for name, camera in self.cameras.items()}
        if not any("depth" in camera for camera in cameras.values()):
            return {}
        return {name: _read_depth(camera) for name, camera in cameras.items()}

    def stored_style(self, path: Path) -> dict[str, Any]:
        index = self.index_of(path)
        return {} if index is None else Folder.of(path).style(index)

    def files(self, reference: EpisodeReference) -> tuple[Path, ...]:
        instructions = self._instructions_path(reference.path)
        return (reference.path, instructions) if instructions.exists() else (reference.path,)

    def _instructions_path(self, path: Path) -> Path:
        """The file of instructions that belongs to an episode's data file."""
        return path.parent.parent / "instructions" / f"episode{self.index_of(path)}.json"


def write_episode(
    path: Path,
    images: Images,
    joints: Joints,
    depths: Depths | None = None,
    cameras: Cameras | None = None,
    kind: str = EXPERT,
) -> None:
    """Writes images [T + 1, H, W, 3] by camera and joints [T + 1, 14] of the built-in robot, all or nothing.

    `depths` and `cameras` are those of an `Episode`, of all cameras or of none. A file of another `kind` than that of
    demonstrations is read only by a reference of that kind.
    """
    vector = joints.astype(np.float64)
    halves = dict(zip(SIDES, np.split(vector, [ARM_ACTION], axis=1), strict=True))
    with replaced_atomically(path) as temporary, h5py.File(temporary, "w") as file:
        if kind != EXPERT:
            file.attrs[KIND] = kind
        for name, camera in FORMAT.cameras.items():
            pictures = np.array([jpeg.encode(frame) for frame in images[name]])
            file[f"{FORMAT.group}/{camera}/{FORMAT.pictures}"] = pictures
            if depths and cameras:
                _write_depth(file[f"{FORMAT.group}/{camera}"], depths[name], cameras[name])
        for side, half in halves.items():
            file[f"joint_action/{side}_arm"] = half[:, :ARM_JOINTS]
            file[f"joint_action/{side}_gripper"] = half[:, ARM_JOINTS]
        file["joint_action/vector"] = vector
        for side, half in halves.items():
            file[f"endpose/{side}_endpose"] = np.concatenate(fk(half[:, :ARM_JOINTS], side), axis=1)
            file[f"endpose/{side}_gripper"] = half[:, ARM_JOINTS]
        file["pointcloud"] = np.zeros((len(vector), 0))


def _write_depth(camera: h5py.Group, depth: npt.NDArray[np.float32], track: CameraTrack) -> None:
    """Writes depth in millimetres. Times 1000 a float32 is exact as a float64, so that nothing is lost."""
    rows, height, width = depth.shape
    values = {
        "depth": (depth.astype(np.float64) * 1000, (min(rows, DEPTHS_PER_CHUNK), height, width)),
        "intrinsic_cv": (np.repeat(track.intrinsics[None], rows, axis=0), (rows, 3, 3)),
        "extrinsic_cv": (np.linalg.inv(track.poses.astype(np.float64))[:, :3].astype(np.float32), (rows, 3, 4)),
        "cam2world_gl": (between_opengl_and_opencv(track.poses), (rows, 4, 4)),
    }
    for name, (data, chunks) in values.items():
        camera.create_dataset(name, data=data, chunks=chunks, compression="gzip", shuffle=True)


def _read_depth(camera: h5py.Group) -> StoredDepth:
    metres = np.asarray(camera["depth"][()]) / 1000
    poses = between_opengl_and_opencv(np.asarray(camera["cam2world_gl"][()]))
    return metres, np.asarray(camera["intrinsic_cv"][()]), poses


FORMAT = LegacyFormat()
