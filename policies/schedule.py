"""What a schedule is: it steers the walk from pure noise towards clean, and decides once at every video forward.

A point of the walk has a noise level for each future frame and one for the action. There are three kinds of walks. In
a *cascade* the action stays at pure noise until the video stops. In a *joint* walk both move together. In an
*asynchronous* walk the action is clean before the video is. The walker (`policies.walk`) is the same for all of them.

A new schedule is one file in `policies/schedules`: a `Course`, a `Schedule` that starts it, and a builder under
`@register("name")` of `policies.catalogue`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from policies.backbones.door import FrozenWAM, Point, WAMSpec, Want
from policies.solvers import Solver, euler
from policies.trace import Trace


@dataclass
class Decision:
    """What a schedule decides for the b rows of one video forward."""

    sigma_video: Tensor  # float32 [b, F]: the next noise levels; ignored where `stop` is true
    sigma_action: Tensor  # float32 [b]: the next noise level; ignored where `stop` is true
    stop: Tensor  # bool [b]: the video stays as it is, and the action is finished from this forward's memory
    trace: Trace | None = None  # [b, ...] each: these decisions, if the schedule learns


class Course(ABC):
    """A schedule that walks one batch. It may keep state for each row of the batch."""

    wants: Want = Want.VIDEO_FLOW | Want.MEMORY
    """The outputs that every forward must return. With ACTION_FLOW, each update also moves the action."""

    def __init__(self, action_grid: Tensor) -> None:
        """`action_grid`, float32 [n + 1], holds the levels from 1 to 0 on which a stopped row's action is finished."""
        self.action_grid = action_grid
        self.solver: Solver = euler

    @abstractmethod
    def ended(self, rows: Tensor, point: Point, updates: int) -> Tensor:
        """Return bool [b]: the rows that must stop here, whatever the backbone says. No forward is spent on them.

        `rows` (int64 [b]) are the batch rows that still walk. Each of them has made `updates` updates.
        """

    @abstractmethod
    def decide(self, rows: Tensor, point: Point, pooled: Tensor, updates: int) -> Decision:
        """Decide where each row goes, or that it stops. `pooled`, float32 [b, D], is empty if it is not in `wants`."""


@dataclass(frozen=True)
class WalkStart:
    """What a course is started with. The random numbers of row i depend on its two seeds alone."""

    seeds: Sequence[int]
    deterministic: bool  # true: a schedule that learns draws no random numbers
    device: torch.device
    spec: WAMSpec
    episode_seeds: Sequence[int]  # seeds of the random numbers that all walks of an episode share
    queries: Sequence[int] = ()  # from 0, which query of its episode each row is; empty: each is a first query
    may_stop: bool = True  # false: the course walks on to its end, and its trace says how likely each stop was


class Schedule(Protocol):
    """A named rule for walking. One schedule may start many courses."""

    @property
    def name(self) -> str: ...

    def check(self, spec: WAMSpec) -> None:
        """Raise ValueError if this schedule cannot walk on the described backbone."""
        ...

    def start(self, start: WalkStart) -> Course:
        """Start a course for one batch."""
        ...


@dataclass(frozen=True)
class ChosenStart:
    """The start of B walks, as a planner chose it."""

    x: Tensor  # float32 [B, C, F_all, h, w], observed frames first
    actions: Tensor  # [B, T, A]
    forwards: Tensor  # int64 [B]: the video forwards that the search took
    scores: Tensor  # float32 [B, rounds, candidates]
    values: Tensor  # float32 [B, V]: the noises from which values are denoised, where an action reads values

    def select(self, rows: Tensor) -> ChosenStart:
        """Return the rows at the int64 indices [b]."""
        place = rows.to(self.forwards.device)
        return ChosenStart(self.x[rows], self.actions[rows], self.forwards[place], self.scores[rows], self.values[rows])


@runtime_checkable
class PlannedSchedule(Schedule, Protocol):
    """A schedule that chooses the initial noise of its walks."""

    def choose_start(self, wam: FrozenWAM, context: Any, noise_seeds: Sequence[int]) -> ChosenStart:
        """Choose the initial noise. Row i depends on (context row i, noise_seeds[i]) alone."""
        ...


def warn_of_frames_never_seen(name: str, spec: WAMSpec) -> None:
    """Warn if the backbone was never trained on future frames at different noise levels."""
    if not spec.per_frame_sigma_trained:
        warnings.warn(
            f"schedule {name!r} gives the future frames different noise levels, but backbone {spec.weights_hash} was "
            "trained on shared ones only: its results mean little before a training on levels of their own (of a small "
            "backbone, by pretrain.noise=independent)",
            RuntimeWarning,
            stacklevel=2,
        )
