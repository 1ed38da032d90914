"""What is known of a published World Action Model without its weights: one `Layout` for each, found by its key.

A layout is one entry of a file in `layouts/`. It imports nothing heavy, so that a dry run and the doctor may read all
of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, cast

import torch

from configs.registry import Registry
from policies.backbones.door import EVERYTHING, Want
from policies.backbones.published.canvases import Encoded
from policies.backbones.shapes import COMPRESSION, OBSERVED_FRAMES, View

EMPTY_TEXT = ""
"""The instruction without words, which guidance compares with."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every tensor by its name."""


@dataclass(frozen=True)
class Size:
    """The numbers of a model: as published ("full"), or small enough for a test ("tiny")."""

    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    freq_dim: int
    text_dim: int  # the width of the text encoder's features
    text_length: int  # the tokens to which a text is padded
    views: tuple[View, ...]  # where each camera is on the canvas: see `canvases.py`
    frames: int  # latent frames, the observed one included
    horizon: int  # the actions of a chunk
    action_width: int = 0  # the width of an action expert; 0: the model has none
    action_ffn_dim: int = 0
    depth_layers: int = 0  # the copies of the last blocks that predict depth; 0: there is no such branch
    encoded: Encoded = "together"  # whether all cameras are encoded as one picture, or "apart"
    channels: int = 48
    patch: int = 2

    def __post_init__(self) -> None:
        """Raise ValueError for a camera whose cells patches would cut off, or mix with those of another camera."""
        for view in self.views:
            if any(cells % self.patch for cells in (view.top, view.left, view.height, view.width)):
                step = COMPRESSION * self.patch
                raise ValueError(
                    f"camera {view.camera} of {COMPRESSION * view.height} x {COMPRESSION * view.width} pixels: the "
                    f"height and the width of a camera, and its place on the canvas, must be multiples of {step} pixels"
                )

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def history_stride(self) -> int:
        """The actions between two pictures of a history, of which one latent frame has four."""
        return self.horizon // (4 * (self.frames - OBSERVED_FRAMES))

    @property
    def grid(self) -> tuple[int, int]:
        """The latent cells (height, width) of the canvas."""
        return max(view.rows.stop for view in self.views), max(view.columns.stop for view in self.views)

    @property
    def canvas(self) -> tuple[int, int]:
        """The pixels (height, width) of the canvas."""
        height, width = self.grid
        return COMPRESSION * height, COMPRESSION * width


@dataclass(frozen=True)
class ActionNumbers:
    """What the numbers of an action and of a state are, and how they are normalised."""

    space: str  # a key of `action_spaces.SPACES`, such as "joints"
    action_dim: int
    state_dim: int  # the numbers that the model reads of the robot; 0: none
    normalisation: str  # "z-score", "min/max", "quantiles" (1 % and 99 %) or "none"
    network_dim: int = 0  # the numbers of an action in the network, if these are more. Those of other robots are 0.
    places: tuple[int, ...] = ()  # where the network has the numbers of an action; empty: in their order


@dataclass(frozen=True)
class Grids:
    """The noise levels of a walk. `reference_updates` are those of the full walk, `fixed-full`."""

    video_shift: float
    action_shift: float
    action_updates: int
    reference_updates: int


@dataclass(frozen=True)
class Source:
    """Where weights come from. Nothing is ever downloaded by itself."""

    hub: str  # the repository on the Hugging Face Hub; empty: no weights are published
    files: tuple[str, ...]  # the files or patterns that are needed of it
    gigabytes: float
    licence: str  # "not stated" if the repository shows none


@dataclass(frozen=True, eq=False)
class Layout:
    """Everything about a published model that its weights do not say. A layout equals itself alone."""

    key: str  # the value of `wam.backbone`
    title: str
    family: str  # the module that builds and runs it, such as "policies.backbones.published.mixture"
    source: Source
    template: str  # the text that is encoded, with {instruction} where the instruction goes
    text_encoder: str  # the repository on the Hub whose text encoder made the features
    numbers: ActionNumbers
    grids: Grids
    sizes: Mapping[str, Size]  # "full" and "tiny"
    checkpoint_name: Callable[[str], str]  # from the name of a tensor here to its name in a checkpoint
    action_reads: str = "all_keys"  # see `WAMSpec.action_reads`
    video_reads_action: bool = False
    per_frame_sigma_trained: bool = False
    value_dim: int = 0  # the numbers of a value token, one token for each action; 0: it has no value expert
    lowest_return: float = 0.0  # the lowest return that it may have been trained on
    active_actions: tuple[int, ...] = ()  # the numbers of an action that were trained; empty: all of them
    history_chunks: int = 0  # see `WAMSpec.history_chunks`
    guidance: float = 1.0  # classifier-free guidance of the video's velocity; 1: none
    gives: Want = EVERYTHING
    ignored: tuple[str, ...] = ()  # prefixes of tensors in a checkpoint that are of no use here
    prefix: str = ""  # of all its names where a checkpoint holds other networks too; `checkpoint_name` leaves it out
    statistics: str = "*stats*.json"  # the name of the file of its normalisation
    padding: str = "zeros"  # what follows a text: "zeros" that are read, "unread" ones, or "encoded" by the encoder
    crop: float = 1.0  # the share of a picture's height and width that is kept, from its middle
    notes: tuple[str, ...] = ()  # what a user should know before trusting its numbers; a dry run prints them

    @property
    def acts(self) -> bool:
        """Whether it gives actions. A video model alone only starts Stage 1."""
        return Want.ACTION_FLOW in self.gives

    @property
    def always_read(self) -> tuple[str, ...]:
        """The instructions whose features it reads besides those of the tasks."""
        return (EMPTY_TEXT,) if self.guidance != 1 else ()

    def checkpoint_names(self, names: list[str]) -> dict[str, str]:
        """Return the names in a checkpoint by our names. AssertionError if two would be the same."""
        found = {name: self.checkpoint_name(name) for name in names}
        assert len(set(found.values())) == len(found), f"the key map of {self.key} is not one to one"
        return found


LAYOUTS: Registry[Layout] = Registry("policies.backbones.published.layouts", "published backbone")


class PublishedFamily(Protocol):
    """What the module that `Layout.family` names has. That of a model that does not act has no `FROZEN`."""

    FROZEN: Callable[..., Any]  # the class that takes the networks and what is beside them, such as `FrozenMixture`

    def build(self, layout: Layout, size: Size) -> Any:
        """Return the networks, a `torch.nn.Module`, in which `Layout.checkpoint_name` knows every tensor."""
        ...


def family_of(layout: Layout) -> PublishedFamily:
    """Return the module that builds the networks of a layout. It imports diffusers, which takes seconds."""
    return cast(PublishedFamily, importlib.import_module(layout.family))


def wanted_tensors(layout: Layout, size: Size) -> Shapes:
    """Return the shapes of all tensors that a checkpoint must have, by their names there."""
    with torch.device("meta"):
        model = family_of(layout).build(layout, size)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = layout.checkpoint_names(list(shapes))
    return MappingProxyType({names[name]: shape for name, shape in shapes.items()})
