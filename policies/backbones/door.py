"""The interface of a frozen World Action Model. Everything outside `policies/backbones` uses a backbone through it.

Shapes: B batch, F_all latent frames (the first `observed_frames` of them are observed and stay clean), F future latent
frames, C latent channels, h x w latent grid, T actions of a chunk, A action dimension, D width of the pooled feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from policies.backbones.arms import Arms

Observation = Mapping[str, npt.NDArray[Any]]
"""The pictures `head`, `left_wrist` and `right_wrist`, uint8 [H, W, 3] each, and `joints`, float32 [14].

`joints` holds six joints and the gripper of the left arm, then the same of the right arm.
"""


@dataclass(frozen=True)
class Passed:
    """A chunk that was carried out, and what was seen meanwhile."""

    actions: npt.NDArray[np.float32]  # [T, A], absolute joint targets
    observations: Observation  # after every `WAMSpec.history_stride` of the actions: a first axis of size T / stride


@dataclass(frozen=True)
class History:
    """What an episode saw and did before a query. It belongs to the episode, and is whole: a backbone keeps none of it.

    Without chunks and without `kept`, the query is the first of its episode.
    """

    first: Observation  # that of the episode's first query
    chunks: tuple[Passed, ...] = ()  # the chunks since `kept`, or since `first`, oldest first
    kept: Any = None  # what `RememberingContext.history` returned at the query before these chunks. Opaque.


LATENT_READERS = ("future_latents", "all_latents")
"""The values of `WAMSpec.action_reads` with which an action reads latents, so that its memory costs no forward."""
OBSERVATION_READER = "observed_keys"
"""The value of `WAMSpec.action_reads` with which an action reads the observed frame only. Its memory costs nothing."""

ActsOn = Literal["joints", "arms", "nothing here"]
"""What a backbone's actions move: joints by their targets, tools by way of the robot's arms, or no robot of a suite."""


class Want(Flag):
    """The outputs that a forward is asked for."""

    VIDEO_FLOW = auto()
    POOLED = auto()
    MEMORY = auto()
    ACTION_FLOW = auto()
    DEPTH = auto()


EVERYTHING = Want.VIDEO_FLOW | Want.POOLED | Want.MEMORY | Want.ACTION_FLOW


@dataclass(frozen=True)
class ValueSpec:
    """What a backbone's value expert reads and predicts (WAV 4.2)."""

    noise_dim: int  # V: the numbers of a value noise
    horizon: int  # H: the returns of a prediction
    lowest: float  # the lowest return that it was trained on
    weights_hash: str = ""
    reader_hash: str = ""  # of what lets the action read the values (WAV, Equation 3); empty: the action reads none
    forwards_each: int = 0  # the video forwards of one value noise, where the video reads values; 0: one for all noises

    def forwards(self, noises: int) -> int:
        """Return the video forwards of `ValueWAM.score` for each row."""
        return noises * self.forwards_each or 1


@dataclass(frozen=True)
class WAMSpec:
    """The shapes and the capabilities of a backbone. Schedules check these values, never class names."""

    latent_channels: int
    latent_frames: int
    observed_frames: int
    latent_grid: tuple[int, int]
    feature_dim: int
    action_horizon: int
    action_dim: int  # the numbers of a finished action, which a suite takes
    video_shift: float
    action_shift: float  # shift of the grid on which an action chunk is denoised from one memory (cascade)
    action_updates: int  # Euler steps on that grid
    reference_updates: int  # updates of the full walk ("fixed-full")
    action_reads: str
    video_reads_action: bool  # if true, every memory depends on the action, and a cascade is impossible
    per_frame_sigma_trained: bool  # it was trained on future frames at different noise levels (NoiseGate, Stage 1)
    weights_hash: str
    gives: Want = EVERYTHING  # the outputs that its `forward` can return
    history_chunks: int = 0  # the chunks before a query that it reads. Unless 0, its context is a `RememberingContext`.
    history_stride: int = 0  # the actions between two observations of a history
    value: ValueSpec | None = None  # its value expert; None: it has none, and is no `ValueWAM`
    actions_are: str = "joint targets"  # in words, what the numbers of its own actions are
    acts_on: ActsOn = "joints"  # with "arms" it is an `ArmedWAM`
    tools: tuple[float, ...] = ()  # `Arms.signature` of the only robot that it fits; empty if it knows no kinematics

    @property
    def future_frames(self) -> int:
        return self.latent_frames - self.observed_frames

    @property
    def memory_needs_forward(self) -> bool:
        """Whether an action reads keys of a video forward. Then even a forced stop costs a forward."""
        return self.imagines and (self.action_reads not in LATENT_READERS or self.action_reads_values)

    @property
    def action_reads_values(self) -> bool:
        """Whether the action reads the values of the future too. Then a walk starts from a value noise as well."""
        return self.value is not None and bool(self.value.reader_hash)

    @property
    def imagines(self) -> bool:
        """Whether the action reads the imagined future at all."""
        return self.action_reads != OBSERVATION_READER

    def require_imagination(self, schedule: str) -> None:
        """Raise ValueError, which names the schedule, if what happens to the future cannot change an action."""
        if not self.imagines:
            raise ValueError(
                f"schedule {schedule!r} learns when and how far to denoise the future, but the action of backbone "
                f"{self.weights_hash} reads the observed frame only: use a backbone that imagines, or fixed-1"
            )

    def require(self, schedule: str, wants: Want, *, cascade: bool) -> None:
        """Raise ValueError, which names the schedule, if this backbone cannot serve such a walk."""
        if cascade and self.video_reads_action:
            raise ValueError(
                f"schedule {schedule!r} denoises actions from a video that stays as it is, but the video of backbone "
                f"{self.weights_hash} reads the action: use a joint schedule, such as joint-10"
            )
        lacking = wants & ~self.gives
        if lacking:
            names = ", ".join(str(want.name).lower() for want in lacking)
            raise ValueError(f"schedule {schedule!r} needs {names}, which backbone {self.weights_hash} does not give")


@dataclass
class Point:
    """The state of B rows of a walk: noisy latents and actions, with their noise levels."""

    x: Tensor  # float32 [B, C, F_all, h, w], observed frames first
    actions: Tensor  # [B, T, A], normalised; a backbone may add rows for what it denoises along, such as states
    sigma_video: Tensor  # float32 [B, F]
    sigma_action: Tensor  # float32 [B]

    def __len__(self) -> int:
        return len(self.sigma_action)

    def select(self, rows: Tensor) -> Point:
        """Return the rows at the int64 indices [b]."""
        return Point(self.x[rows], self.actions[rows], self.sigma_video[rows], self.sigma_action[rows])


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass
class Output:
    """The outputs of a forward. A field that was not wanted may be empty (`memory`: None)."""

    video_flow: Tensor = field(default_factory=_nothing)  # float32 [B, C, F_all, h, w], eps - x0; 0 where observed
    pooled: Tensor = field(default_factory=_nothing)  # float32 [B, D], mean over the last block's future tokens
    memory: Any = None  # what an action reads of the video. Opaque: use `select_memory` and `join_memories`.
    action_flow: Tensor = field(default_factory=_nothing)  # [B, T, A], velocity of the normalised chunk
    depth: Tensor = field(default_factory=_nothing)  # float32 [B, C, F_all, h, w]: latents of clean inverse depth


class Context(Protocol):
    """An encoded batch of observations: everything that stays the same along a walk."""

    def __len__(self) -> int: ...

    def select(self, rows: Tensor) -> Context:
        """Return the rows at the int64 indices [b]. An index may occur more than once."""
        ...


class RememberingContext(Context, Protocol):
    """The context of a backbone that reads a history."""

    def history(self, row: int) -> Any:
        """Return what `History.kept` holds at the next query of the row's episode. It never changes."""
        ...


class FrozenWAM(Protocol):
    """A backbone whose weights never change. All methods run without gradients."""

    @property
    def spec(self) -> WAMSpec: ...

    def observe(
        self, observations: Sequence[Observation], instructions: Sequence[str], histories: Sequence[History] = ()
    ) -> Any:
        """Encode a batch of observations and return its `Context`.

        If `spec.history_chunks`, `histories` has the `History` of each row. Without any, every row is the first query
        of an episode. Other backbones ignore it.
        """
        ...

    def initial_noise(self, context: Any, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw the start of a walk: latents [B, C, F_all, h, w] with clean observed frames, and actions [B, T, A].

        Every quantity that is denoised along with the actions has rows of its own behind theirs. Where rows are longer
        than a backbone's own actions, it does not read the rest.

        The noise of row i depends on seeds[i] alone.
        """
        ...

    def forward(self, context: Any, point: Point, wants: Want, memory: Any = None) -> Output:
        """Run the backbone once at `point`, only as far as `wants` requires.

        If `memory` is given, the action reads it and the video is not run; then only ACTION_FLOW may be wanted. MEMORY
        alone costs no video forward unless `spec.memory_needs_forward`.
        """
        ...

    def select_memory(self, memory: Any, rows: Tensor) -> Any:
        """Return the rows of a memory at the int64 indices [b]."""
        ...

    def join_memories(self, memories: Sequence[Any]) -> Any:
        """Concatenate memories along the batch, so that rows which stopped at different decisions form one batch."""
        ...

    def finish_actions(self, context: Any, actions: Tensor) -> npt.NDArray[np.float32]:
        """Convert clean normalised chunks to absolute joint targets, float32 [B, T, A]; grippers are in [0, 1]."""
        ...

    def imagined_pictures(self, latents: Tensor) -> dict[str, npt.NDArray[np.uint8]]:
        """Decode the predicted pictures of every camera from latents [B, C, F_all, h, w].

        Returns uint8 [B, future pixel frames, H, W, 3] by the camera's name, such as `head`.
        """
        ...


class ArmedWAM(FrozenWAM, Protocol):
    """A backbone with `spec.acts_on` "arms": it reads and moves tools, and finds joints by the arms of the robot."""

    def take_arms(self, arms: Arms) -> None:
        """Remember the arms of the robot, whose poses are those of its suite. Call it before `observe`."""
        ...


class ValueWAM(FrozenWAM, Protocol):
    """A backbone that has a value expert, which `spec.value` describes."""

    def score(self, context: Any, point: Point, noises: Tensor) -> Tensor:
        """Predict the discounted returns of the futures at `point`, from value noises float32 [B, N, V].

        The value expert reads the video's features at the noise levels of the point. It costs `spec.value.forwards(N)`
        video forwards: one, whatever N is, if the video does not read values. Returns float32 [B, N, H], in the units
        of the dense reward.
        """
        ...

    def with_value_noise(self, context: Any, actions: Tensor, noises: Tensor) -> tuple[Any, Tensor]:
        """Return context and initial actions, whose walk starts from the value noises float32 [B, V].

        A backbone keeps them in the context, or denoises values along with the actions, in rows behind theirs. It is
        asked only if `spec.action_reads_values`.
        """
        ...


class DepthWAM(FrozenWAM, Protocol):
    """A backbone that gives DEPTH."""

    def imagined_depths(self, depth: Tensor) -> dict[str, npt.NDArray[np.float32]]:
        """Decode predicted depth latents [B, C, F_all, h, w], as `forward` returns them.

        Returns float32 [B, future pixel frames, H, W] by the camera's name, in metres along the optical axis.
        """
        ...
