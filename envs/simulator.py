"""What a simulator is to the rest of the project: the two sides of `envs.process` agree on these types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from configs.schema import EnvConfig

ACTION_SIZE = 14  # [L6, Lg, R6, Rg]
_SUITES = {"tabletop": "envs.tabletop.simulator:TabletopSimulator"}

Observation = dict[str, npt.NDArray[Any]]
"""`head`, `left_wrist`, `right_wrist`: uint8 [H, W, 3]; `joints`: float32 [14]."""


@dataclass(frozen=True)
class ResetReply:
    """The first observation of an episode."""

    observation: Observation
    instruction: str


@dataclass(frozen=True)
class ChunkReply:
    """The state after a chunk. `executed` is less than asked for where the episode ended inside it."""

    observation: Observation
    executed: int
    success: bool
    done: bool
    frames: npt.NDArray[np.uint8] | None  # head camera [executed, H, W, 3], where a recording was asked for


@dataclass(frozen=True)
class ExpertReply:
    """One episode of the scripted expert, T actions long. Action t is `joints[t + 1]`."""

    images: dict[str, npt.NDArray[np.uint8]]  # head, left_wrist, right_wrist: [T + 1, H, W, 3]
    joints: npt.NDArray[np.float32]  # [T + 1, 14] drive targets
    instruction: str
    outcome: str
    style: dict[str, Any]  # what the expert drew from the seed: JSON values


class Simulator(Protocol):
    """Lives in the worker process. What it raises reaches the owner as data, as `exception.outcome` if it has one."""

    def reset(self, *, task: str, mode: str, seed: int) -> ResetReply: ...

    def step_chunk(self, actions: npt.NDArray[np.float32], record: bool) -> ChunkReply: ...

    def demonstrate(self, *, task: str, mode: str, seed: int) -> ExpertReply: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SimulatorSpec:
    """How to build a simulator in another process; picklable.

    `factory` is `module:callable` in that process and takes `kwargs` (JSON values). `command` replaces our worker by
    another interpreter and script (the channel's descriptor and the owner's pid are appended); `directory` is its cwd.
    """

    factory: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    directory: str | None = None

    def __post_init__(self) -> None:
        if self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} must read 'module:callable'")
        json.dumps(dict(self.kwargs))


def checked_actions(actions: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """`actions` as float32 [T, 14], T >= 1; ValueError where the shape differs or a value is not finite."""
    array = np.asarray(actions, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != ACTION_SIZE or not len(array):
        raise ValueError(f"an action chunk must have shape [T, {ACTION_SIZE}] with T >= 1, got {list(array.shape)}")
    if not np.isfinite(array).all():
        step, joint = np.argwhere(~np.isfinite(array))[0]
        at = f"joint {joint} (column {joint})"
        raise ValueError(f"action {step} of the chunk has {array[step, joint]} at {at}: send finite targets")
    return array


def simulator_spec(env: EnvConfig) -> SimulatorSpec:
    """The simulator that a configuration names. ValueError for an unknown suite."""
    if env.suite not in _SUITES:
        raise ValueError(f"unknown suite {env.suite!r}: choose one of {', '.join(_SUITES)}")
    sizes = {"head_size": env.head_size, "wrist_size": env.wrist_size, "control_hz": env.control_hz}
    return SimulatorSpec(_SUITES[env.suite], sizes)
