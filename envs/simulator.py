"""The interface of simulators, and the types that a simulator process and its owner exchange.

A suite of tasks is a folder beside this file. Its `spec.py` says how to start its simulator. A worker in another
interpreter (Python 3.10 or later) loads this file too, so it imports only the standard library and numpy.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from configs.schema import EnvConfig

ACTION_SIZE = 14
"""How many numbers an action has unless a suite says otherwise: [6 left joints, gripper, 6 right joints, gripper]."""

CAMERAS = ("head", "left_wrist", "right_wrist")

Observation = dict[str, npt.NDArray[Any]]
"""`head`, `left_wrist` and `right_wrist`: uint8 [H, W, 3]; `joints`: float32 [action size].

With `env.depth` it also has, for each of these cameras NAME, float32 arrays: `NAME_depth` [H, W], metres along the
optical axis, 0 where nothing was hit; `NAME_intrinsics` [3, 3], in pixels; `NAME_pose` [4, 4], the pose of the camera
in the world, in the OpenCV convention (x right, y down, z forward).
"""

MEASURED = ("depth", "intrinsics", "pose")
"""What an observation with `env.depth` has of a camera besides its picture, after `NAME_`."""


@dataclass(frozen=True)
class ResetReply:
    """The first observation of an episode."""

    observation: Observation
    instruction: str


@dataclass(frozen=True)
class ChunkReply:
    """This is what a chunk of actions led to. `executed` is less than its length where the episode ended inside it."""

    observation: Observation
    executed: int
    success: bool
    done: bool
    frames: npt.NDArray[np.uint8] | None  # the head camera after each action, [executed, H, W, 3], if recorded
    passed: Observation = field(default_factory=dict)  # the values of the observations on the way, [n, ...], if asked


@dataclass(frozen=True)
class CameraTrack:
    """A camera during an episode of T actions."""

    intrinsics: npt.NDArray[np.float32]  # [3, 3], in pixels
    poses: npt.NDArray[np.float32]  # [T + 1, 4, 4], in the world, in the OpenCV convention (x right, y down, z forward)


@dataclass(frozen=True)
class ExpertReply:
    """This is one episode of the scripted expert, T actions long. Action t is `joints[t + 1]`."""

    images: dict[str, npt.NDArray[np.uint8]]  # head, left_wrist, right_wrist: [T + 1, H, W, 3]
    joints: npt.NDArray[np.float32]  # drive targets, [T + 1, action size]
    instruction: str
    outcome: str
    style: dict[str, Any]  # what the expert drew from the seed: JSON values
    depths: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # [T + 1, H, W] if `env.depth`, else none
    cameras: dict[str, CameraTrack] = field(default_factory=dict)  # of the same names as `depths`

    @classmethod
    def of(cls, columns: Observation, instruction: str, outcome: str, style: dict[str, Any]) -> ExpertReply:
        """Make one from the values of all observations: `columns` are those of one, with a first axis of size T + 1."""
        depths = {name: columns[f"{name}_depth"] for name in CAMERAS if f"{name}_depth" in columns}
        cameras = {name: CameraTrack(columns[f"{name}_intrinsics"][0], columns[f"{name}_pose"]) for name in depths}
        others = {"joints", *(f"{name}_{kind}" for name in depths for kind in MEASURED)}
        images = {name: values for name, values in columns.items() if name not in others}
        return cls(images, columns["joints"], instruction, outcome, style, depths, cameras)

    @property
    def columns(self) -> Observation:
        """Return what `of` takes."""
        columns: Observation = {**self.images, "joints": self.joints}
        for name, depth in self.depths.items():
            camera = self.cameras[name]
            intrinsics = np.broadcast_to(camera.intrinsics, (len(depth), 3, 3))
            columns |= measured(name, depth, intrinsics, camera.poses)
        return columns


class Simulator(Protocol):
    """A worker process calls this. An exception is sent to the owner as a fault, with its `outcome` if it has one.

    A simulator may have an attribute `description` (JSON values), which tells the owner what its results depend on.
    """

    def reset(self, *, task: str, mode: str, seed: int) -> ResetReply:
        """Begins an episode."""

    def step_chunk(self, actions: npt.NDArray[np.float32], record: bool) -> ChunkReply:
        """Takes the actions [T, action size] one after another until the episode ends."""

    def demonstrate(self, *, task: str, mode: str, seed: int) -> ExpertReply:
        """Lets the scripted expert play a whole episode."""

    def close(self) -> None:
        """Gives up the current episode."""


def step_in_parts(simulator: Simulator, actions: npt.NDArray[np.float32], record: bool, every: int) -> ChunkReply:
    """Let a simulator take the actions [T, action size], and see it after every so many of them, unless `every` is 0.

    The reply is that of the whole chunk. Its `passed` holds the observations after every part that was executed.
    """
    if not every:
        return simulator.step_chunk(actions, record)
    replies: list[ChunkReply] = []
    while len(actions) and not (replies and (replies[-1].success or replies[-1].done)):
        replies.append(simulator.step_chunk(actions[:every], record))
        actions = actions[every:]
    films = [reply.frames for reply in replies if reply.frames is not None]
    return replace(
        replies[-1],
        executed=sum(reply.executed for reply in replies),
        frames=np.concatenate(films) if films else None,
        passed=stacked([reply.observation for reply in replies]),
    )


def stacked(observations: Sequence[Observation]) -> Observation:
    """Return the values of several observations by their names, with a first axis for the observations."""
    return {name: np.stack([one[name] for one in observations]) for name in observations[0]}


@dataclass(frozen=True)
class SimulatorSpec:
    """It says how to build a simulator in another process, and can be pickled.

    `factory` is `module:callable`, which is called with `kwargs` (JSON values). A module with a leading dot is one of
    this package, whatever the process calls this package. `command` starts another program in place of our worker, with
    the channel's file descriptor and the owner's process id as further arguments; `directory` is where it is started.
    """

    factory: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    directory: str | None = None
    action_size: int = ACTION_SIZE

    def __post_init__(self) -> None:
        if self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} must read 'module:callable'")
        json.dumps(dict(self.kwargs))


def measured(
    name: str, depth: npt.NDArray[Any], intrinsics: npt.NDArray[Any], pose: npt.NDArray[Any]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return what an observation with `env.depth` has of the camera `name` besides its picture, as float32."""
    values = (depth, intrinsics, pose)
    return {f"{name}_{kind}": np.asarray(value, np.float32) for kind, value in zip(MEASURED, values, strict=True)}


def between_opengl_and_opencv(poses: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Poses [..., 4, 4] of cameras in OpenGL's convention (x right, y up, z backward) in OpenCV's, or the reverse."""
    return poses * np.array([1, -1, -1, 1], poses.dtype)


def checked_actions(actions: npt.ArrayLike, size: int = ACTION_SIZE) -> npt.NDArray[np.float32]:
    """`actions` as float32 [T, size] with T >= 1. Raises ValueError for another shape or a value that is not finite."""
    array = np.asarray(actions, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != size or not len(array):
        raise ValueError(f"an action chunk must have shape [T, {size}] with T >= 1, got {list(array.shape)}")
    if not np.isfinite(array).all():
        step, column = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"action {step} of the chunk has {array[step, column]} in column {column}: send finite targets"
        )
    return array


def known_suites() -> list[str]:
    """The names of the suites: every folder beside this file that says how to start a simulator."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/spec.py"))


def simulator_spec(env: EnvConfig) -> SimulatorSpec:
    """The simulator of the suite that `env` names. Raises ValueError for an unknown suite or settings it refuses."""
    if env.suite not in known_suites():
        raise ValueError(f"unknown suite {env.suite!r}: choose one of {', '.join(known_suites())}")
    spec: SimulatorSpec = importlib.import_module(f"{__package__}.{env.suite}.spec").simulator_spec(env)
    return spec
