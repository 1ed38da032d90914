"""Small demonstrations in every format, made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2
import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from configs.stored import DamagedFile
from envs.demonstrations import Episode, EpisodeReference
from envs.demonstrations.formats.legacy import write_episode
from envs.demonstrations.formats.lerobot.files import Limits
from envs.demonstrations.formats.lerobot.writer import DatasetWriter
from envs.simulator import CameraTrack

T = TypeVar("T")

SIZES = {"head": (48, 64), "left_wrist": (32, 32), "right_wrist": (32, 32)}
XPOLICYLAB_CAMERAS = {"head": "cam_head", "left_wrist": "cam_left_wrist", "right_wrist": "cam_right_wrist"}
XPOLICYLAB_PARTS = ("left_arm_joint_states", "left_ee_joint_states", "right_arm_joint_states", "right_ee_joint_states")
FORMATS = ("legacy", "xpolicylab", "lerobot")


def answer(look: Callable[[], T]) -> T | str:
    """What a reader answers: its result, or else the text of its one clear error. Nothing else may be raised."""
    try:
        return look()
    except DamagedFile as error:
        text = str(error)
    assert "\n" not in text
    return text


def smooth(rng: np.random.Generator, rows: int, height: int, width: int) -> np.ndarray:
    """A picture without hard edges, growing brighter: [rows, height, width, 3]."""
    coarse = rng.integers(40, 160, (3, 3, 3), dtype=np.uint8)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.stack([fine + np.uint8(10 * row) for row in range(rows)])


def episode_of(seed: int, actions: int = 6, joints: int = 14, colour: tuple[int, int, int] | None = None) -> Episode:
    rng = np.random.default_rng(seed)
    images = {
        name: smooth(rng, actions + 1, *size) if colour is None else np.full((actions + 1, *size, 3), colour, np.uint8)
        for name, size in SIZES.items()
    }
    vectors = rng.uniform(-1, 1, (actions + 1, joints)).astype(np.float32)
    grippers = [joints // 2 - 1, joints - 1]
    vectors[:, grippers] = np.abs(vectors[:, grippers])
    return Episode(images, vectors, (f"press bell {seed}", "ring it"), {"arm": "left"})


def with_depth(episode: Episode, seed: int = 0) -> Episode:
    """The episode with made-up depth pictures, in which nothing is hit in a third of the pixels, and moving cameras."""
    rng = np.random.default_rng(seed)
    depths, cameras = {}, {}
    for name, pictures in episode.images.items():
        depth = rng.uniform(0.05, 2.0, pictures.shape[:3]).astype(np.float32)
        depths[name] = np.where(rng.random(depth.shape) < 1 / 3, np.float32(0), depth)
        poses = np.tile(np.eye(4, dtype=np.float32), (len(pictures), 1, 1))
        poses[:, :3, :3] = Rotation.random(len(pictures), random_state=seed).as_matrix()
        poses[:, :3, 3] = rng.uniform(-1, 1, (len(pictures), 3))
        cameras[name] = CameraTrack(rng.uniform(1, 90, (3, 3)).astype(np.float32), poses)
    return replace(episode, depths=depths, cameras=cameras)


def write_legacy(folder: Path, index: int, episode: Episode) -> Path:
    """As RoboTwin lays it out; of 14 joints as our collection writes it."""
    path = folder / "data" / f"episode{index}.hdf5"
    arm = episode.joints.shape[1] // 2 - 1
    still = np.zeros((len(episode.joints), 14), np.float32)
    write_episode(path, episode.images, still, episode.depths, episode.cameras)
    with h5py.File(path, "a") as file:
        del file["joint_action"]
        file["joint_action/vector"] = episode.joints.astype(np.float64)
        file["joint_action/left_arm"] = episode.joints[:, :arm].astype(np.float64)
    texts = folder / "instructions" / f"episode{index}.json"
    texts.parent.mkdir(parents=True, exist_ok=True)
    texts.write_text(json.dumps({"seen": episode.instructions[:1], "unseen": episode.instructions[1:]}))
    return path


def write_xpolicylab(folder: Path, index: int, episode: Episode, frequency: int = 15) -> Path:
    """One row an action; pictures encoded by OpenCV as if RGB were BGR."""
    path = folder / "data" / f"episode_{index:07d}.hdf5"
    path.parent.mkdir(parents=True, exist_ok=True)
    arm = episode.joints.shape[1] // 2 - 1
    parts = np.split(episode.joints, [arm, arm + 1, 2 * arm + 1], axis=1)
    with h5py.File(path, "w") as file:
        file.attrs["source_format"] = "RoboTwin"
        file["data_format_version"] = "v1.0"
        file["instructions"] = json.dumps(episode.instructions)
        file["additional_info/frequency"] = np.int32(frequency)
        for name, values in zip(XPOLICYLAB_PARTS, parts, strict=True):
            file[f"state/{name}"], file[f"action/{name}"] = values[:-1], values[1:]
        for view, camera in XPOLICYLAB_CAMERAS.items():
            encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in episode.images[view][:-1]]
            file[f"vision/{camera}/colors"] = np.array(encoded)
    return path


def write_dataset(root: Path, episodes: list[Episode], limits: Limits | None = None, fps: float = 10.0) -> None:
    """All of them training episodes of `click_bell` in clean scenes."""
    root.mkdir(parents=True)
    with DatasetWriter(root, fps, "toy", limits) as writer:
        for index, episode in enumerate(episodes):
            reference = EpisodeReference(Path(f"{index}"), "click_bell", "clean", index, index, "legacy")
            writer.add(reference, episode, "train")


def write_format(name: str, root: Path, episodes: list[Episode]) -> None:
    """`click_bell` in clean scenes, in the folder that the format has for it."""
    if name == "lerobot":
        write_dataset(root, episodes)
    for index, episode in enumerate(episodes):
        if name == "legacy":
            write_legacy(root / "click_bell" / "demo_clean", index, episode)
        elif name == "xpolicylab":
            write_xpolicylab(root / "demo_clean" / "click_bell" / "aloha_agilex", index, episode)
