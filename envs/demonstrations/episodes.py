"""What a demonstration is, whatever its format, and what the formats share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import StringConstraints

from configs.failures import EXPERT
from configs.stored import DamagedFile, checked
from envs.demonstrations.units import Units
from envs.simulator import CAMERAS, CameraTrack, Observation

SPLITS = ("train", "validation", "test")

Images = dict[str, npt.NDArray[np.uint8]]
"""The pictures of `head`, `left_wrist` and `right_wrist`, each [T + 1, H, W, 3] in RGB."""

Depths = dict[str, npt.NDArray[np.float32]]
"""Depth pictures [T + 1, H, W] of the same names, metres along the optical axis, 0 where nothing was hit; or none."""

Cameras = dict[str, CameraTrack]
"""How the cameras of these depth pictures see, and where they are; or none."""

StoredDepth = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
"""Of one camera: depth [T + 1, H, W] in metres, intrinsics [T + 1, 3, 3] and poses [T + 1, 4, 4] as they are stored."""

Joints = npt.NDArray[np.float32]
"""Drive targets [left arm, gripper, right arm, gripper], [T + 1, A]; A is 14 with two arms of six joints."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""An instruction, without white space around it."""

REPLACE = "Collect, convert or download it again."
"""What to do with a damaged file of a demonstration, for `configs.stored`."""

T = TypeVar("T", bound=np.generic)

GOLDEN_RATIO = 0.6180339887498949


class CorruptDemonstration(DamagedFile):
    """A file of a demonstration cannot be used. The text names it, the reason, and what to do."""

    def __init__(self, path: Path, reason: str, fix: str = REPLACE) -> None:
        super().__init__(path, reason, fix)


@dataclass(frozen=True)
class EpisodeReference:
    """A reference says where an episode is, and in which format."""

    path: Path  # of the file that holds its joints
    task: str
    mode: str
    index: int  # among the episodes of this task and mode
    seed: int | None  # None where it is not known
    format: str  # the `name` of a format in `envs.demonstrations.formats`
    row: int = 0  # which episode it is of a dataset whose files hold many; 0 where `path` holds one episode
    split: str | None = None  # None where the dataset itself does not say
    units: Units | None = None  # of the stored joints; None: they are read as they are stored, and not checked
    kind: str = EXPERT  # `expert` for a demonstration, else one of `configs.failures.KINDS`
    succeeded: bool = True  # whether the task was done in the end


@dataclass(frozen=True)
class Episode:
    """T actions between T + 1 observations. Where no picture follows the last action, the one before is repeated."""

    images: Images
    joints: Joints
    instructions: tuple[str, ...]  # several wordings of the same task
    style: dict[str, Any]  # what the expert drew from the seed, as JSON values; empty where this is not stored
    depths: Depths = field(default_factory=dict)  # empty where they are not stored, or were not asked for
    cameras: Cameras = field(default_factory=dict)  # of the same names as `depths`

    @property
    def actions(self) -> Joints:
        """Absolute joint targets, [T, A]."""
        return self.joints[1:]

    @property
    def instruction(self) -> str:
        """The first wording."""
        return self.instructions[0]

    def until(self, step: int) -> Observation:
        """Return the observations from the first to that of a control step: values with a first axis of step + 1."""
        return {name: values[: step + 1] for name, values in self._columns().items()}

    def at(self, step: int) -> Observation:
        """Return the observation at a control step."""
        return {name: values[step] for name, values in self._columns().items()}

    def _columns(self) -> Observation:
        """Return all observations: values with a first axis of size T + 1."""
        return {**self.images, "joints": self.joints}

    def __len__(self) -> int:
        return len(self.joints) - 1


def split_of(seed: int, validation_fraction: float, test_fraction: float) -> str:
    """The split of a seed, which never changes. A golden-ratio sequence spreads each split evenly over the seeds."""
    position = seed * GOLDEN_RATIO % 1.0
    if position < test_fraction:
        return "test"
    return "validation" if 0.5 <= position < 0.5 + validation_fraction else "train"


def drive_targets(state: Joints, action: Joints) -> Joints:
    """The drive targets of an episode that is stored as N rows of state and action, each [N, A].

    They are the first state, then every action: [N + 1, A]. Where each row's action equals its state, the rows are the
    drive targets themselves: [N, A]. Raises ValueError if the shapes of state and action differ.
    """
    if state.shape != action.shape:
        raise ValueError(f"its states {state.shape} and its actions {action.shape} differ in shape")
    return state if np.array_equal(state, action) else np.concatenate([state[:1], action])


def hold_last(pictures: npt.NDArray[T], rows: int) -> npt.NDArray[T]:
    """`pictures`, with the last one repeated if there is one fewer than `rows`."""
    return np.concatenate([pictures, pictures[-1:]]) if len(pictures) == rows - 1 else pictures


def checked_joints(path: Path, joints: npt.NDArray[np.floating[Any]]) -> Joints:
    """`joints` as float32. Raises `CorruptDemonstration` unless they are finite, [T + 1, A] with T >= 1 and A >= 1."""
    if joints.dtype.kind in "iuf" and joints.ndim == 2 and len(joints) > 1 and joints.size:
        with np.errstate(over="ignore"):
            converted = joints.astype(np.float32)
        if np.isfinite(converted).all():
            return converted
    raise CorruptDemonstration(
        path, f"inconsistent: its joints {joints.shape} are not finite numbers of shape [T + 1, A]"
    )


def checked_depths(path: Path, stored: Mapping[str, StoredDepth], rows: int) -> tuple[Depths, Cameras]:
    """The depth pictures and cameras of an episode with so many rows of joints, as float32.

    `stored` has all cameras, or none. Raises `CorruptDemonstration` for other shapes, for values that are not finite,
    for depths below zero, and for intrinsics that change.
    """
    depths: Depths = {}
    cameras: Cameras = {}
    for name in CAMERAS if stored else ():
        shapes = (rows, None, None), (rows, 3, 3), (rows, 4, 4)
        kinds = "depth pictures", "intrinsics", "poses"
        depth, intrinsics, poses = (
            _checked_floats(path, f"{name} {kind}", values, shape)
            for kind, values, shape in zip(kinds, stored[name], shapes, strict=True)
        )
        if (depth < 0).any():
            raise CorruptDemonstration(path, f"its {name} depth pictures have values below 0")
        if (intrinsics != intrinsics[0]).any():
            raise CorruptDemonstration(path, f"its {name} intrinsics change during the episode")
        depths[name], cameras[name] = depth, CameraTrack(intrinsics[0], poses)
    return depths, cameras


def _checked_floats(
    path: Path, what: str, values: npt.NDArray[Any], shape: tuple[int | None, ...]
) -> npt.NDArray[np.float32]:
    """`values` as float32. A None in `shape` is any size. Raises `CorruptDemonstration`."""
    fits = values.ndim == len(shape) and all(
        size in (None, found) for size, found in zip(shape, values.shape, strict=True)
    )
    if values.dtype.kind == "f" and fits and values.size:
        with np.errstate(over="ignore"):
            converted = values.astype(np.float32)
        if np.isfinite(converted).all():
            return converted
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    raise CorruptDemonstration(
        path, f"its {what} ({values.dtype} {list(values.shape)}) are not finite numbers of shape [{wanted}]"
    )


def checked_texts(path: Path, texts: object) -> tuple[str, ...]:
    """The instructions of an episode, without white space around them.

    Raises `DamagedFile` unless `texts` is a list of at least one text, and each has something in it.
    """
    instructions = checked(path, {"instructions": texts}, dict[str, list[Text]], REPLACE)["instructions"]
    if not instructions:
        raise CorruptDemonstration(path, "its list of instructions is empty")
    return tuple(instructions)
