"""The stages in which a backbone is trained, and what a family says of them in its module `training`.

A family that can be trained has a module `policies.backbones.<family>.training` with the functions of `Trainable`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from configs.pretraining import PretrainConfig
from configs.stored import DamagedFile
from policies.backbones.arms import Arms
from policies.backbones.clips import Clips, RecordedEpisode
from policies.backbones.codecs import LatentCodec
from policies.backbones.optimisation import Curve, OnProgress, Optimisation, compiled, fast_training, run_steps
from policies.backbones.resuming import ResumePoint

LossOf = Callable[[Any, Clips, Any, PretrainConfig, Generator], Tensor]
"""Takes model, batch, normalisation, settings and a generator; returns the loss."""


@dataclass(frozen=True)
class Part:
    """A part of a model that is trained by a loss of its own."""

    steps: int
    loss: LossOf
    modules: tuple[str, ...]  # the attributes of the model that are trained
    compiled: tuple[tuple[str, str], ...] = ()  # methods that `pretrain.compile` fuses: attribute (or ""), method
    ignores: tuple[str, ...] = ()  # keys and sections of `pretrain` that other parts read, and this one does not


@dataclass
class Start:
    """What a training begins with."""

    model: nn.Module
    codec: LatentCodec | None  # None: the autoencoder is trained from nothing
    normalisation: Any | None  # None: measured on the clips
    trains_codec: bool


@dataclass(frozen=True)
class Recording:
    """The parts of a demonstration, T actions long, that a family may use."""

    pictures: Mapping[str, npt.NDArray[np.uint8]]  # of each camera, [T + 1, H, W, 3]
    depths: Mapping[str, npt.NDArray[np.float32]]  # of each camera, [T + 1, H, W] in metres; empty if not asked for
    joints: npt.NDArray[np.float32]  # [T + 1, A]
    instruction: str
    task: str


class Trainable(Protocol):
    """The functions of a family's module `training`."""

    def needs_depth(self, config: PretrainConfig) -> bool:
        """Whether the demonstrations must hold depth."""
        ...

    def needs_arms(self, config: PretrainConfig) -> bool:
        """Whether states or actions are poses of the robot's tools, so that its kinematics must be known."""
        ...

    def encoded_with(self, config: PretrainConfig) -> dict[str, Any]:
        """Return the settings, by key, on which encoded clips depend besides the demonstrations, as JSON values."""
        ...

    def record(self, config: PretrainConfig, recording: Recording) -> RecordedEpisode:
        """Prepare the pictures of an episode as the autoencoder takes them."""
        ...

    def begin(self, config: PretrainConfig, arms: Arms | None) -> Start:
        """Return the model of `pretrain.start_from`, or an untrained one. `arms` are None if they are not needed.

        Raises ValueError for a start that does not fit, such as one for other arms.
        """
        ...

    def train_codec(
        self, start: LatentCodec | None, episodes: list[Any], config: PretrainConfig, progress: OnProgress
    ) -> tuple[Curve, LatentCodec]:
        """Train the autoencoder, from `start` on if there is one."""
        ...

    def encode(
        self, codec: LatentCodec, config: PretrainConfig
    ) -> Callable[[Any, npt.NDArray[np.int64]], tuple[Tensor, Tensor]]:
        """Return the function that `clips.encode_episodes` takes."""
        ...

    def measure(self, clips: Clips, arms: Arms | None) -> Any:
        """Measure the normalisation of states and actions. `arms` is None if they are not needed."""
        ...

    def parts(self, config: PretrainConfig) -> dict[str, Part]:
        """Return the parts, by name, in the order in which they are trained."""
        ...

    def save(
        self,
        folder: Path,
        model: Any,
        codec: LatentCodec,
        normalisation: Any,
        config: PretrainConfig,
        recipe: dict[str, Any],
    ) -> None:
        """Write a checkpoint."""
        ...


def trainable(family: str) -> Trainable:
    """Return the module that trains a family."""
    return cast(Trainable, importlib.import_module(f"policies.backbones.{family}.training"))


def train_part(
    part: Part,
    model: Any,
    clips: Clips,
    normalisation: Any,
    config: PretrainConfig,
    progress: OnProgress,
    point: ResumePoint | None = None,
) -> tuple[Curve, dict[str, Tensor]]:
    """Train a part in place, from `point` on if an earlier call was interrupted.

    Returns the loss curve and the trained tensors by their names in the model.
    """
    modules = nn.ModuleDict({name: getattr(model, name) for name in part.modules})
    generator = Generator().manual_seed(config.seed + 1)
    optimisation = Optimisation(modules, part.steps, config.learning_rate, config.ema_decay, generator)

    def loss_of() -> Tensor:
        with fast_training(True):
            return part.loss(model, clips.batch(config.batch, generator), normalisation, config, generator)

    fused = [(getattr(model, owner) if owner else model, method) for owner, method in part.compiled]
    with compiled(fused, config.compile):
        curve = run_steps(optimisation, loss_of, progress, point)
    return curve, {name: tensor.clone() for name, tensor in modules.state_dict().items()}


def load_part(part: Part, model: Any, path: Path) -> None:
    """Load the tensors that `train_part` returned, and that were stored in `path`.

    Raises `DamagedFile` for a file that is cut, ValueError for one that was trained with other settings.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedFile(path, f"it does not hold tensors ({error})", "The stage is trained again.") from error
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if name.split(".")[0] in part.modules}
    if {name: tensor.shape for name, tensor in tensors.items()} != own:
        raise ValueError(f"{path} was trained with other settings: delete it, or choose another pretrain.output")
    model.load_state_dict(tensors, strict=False)


@torch.no_grad()
def held_out_loss(part: Part, model: Any, clips: Clips, normalisation: Any, config: PretrainConfig) -> float:
    """Return the mean loss on held-out clips, always with the same noise."""
    generator = Generator().manual_seed(12345)
    batches = [clips.batch(config.batch, generator) for _ in range(8)]
    return float(np.mean([part.loss(model, batch, normalisation, config, generator).item() for batch in batches]))
