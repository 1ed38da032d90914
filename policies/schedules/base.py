"""What a schedule is: a policy over the walk from pure noise towards clean, decided at every video forward.

A new schedule is one file here: a class with the members of `Schedule`, and a builder under `@register(name)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from configs.schema import SchedulerConfig
from policies.wam.interface import WAMSpec

IntArray = npt.NDArray[np.int64]


@dataclass
class Decision:
    """What a schedule says about the b rows of one video forward."""

    stop: Tensor  # bool [b]
    sigma_next: Tensor  # float32 [b]; meaningless where `stop`
    trace: Mapping[str, Tensor] = field(default_factory=dict)  # [b, ...] each: what a learner wants back


class Course(Protocol):
    """One schedule on one batch: may keep state for each of the rows it was started with.

    `rows` (int64 [b]) names the batch rows still walking; all of them have made `updates` updates.
    """

    def ended(self, rows: Tensor, sigma: Tensor, updates: int) -> Tensor:
        """bool [b]: rows that must stop here whatever the backbone says, so that no forward is spent on asking."""
        ...

    def decide(self, rows: Tensor, pooled: Tensor, sigma: Tensor, updates: int) -> Decision:
        """Stop or move, from `pooled` float32 [b, D] and `sigma` float32 [b]."""
        ...


class Schedule(Protocol):
    """A named way to walk."""

    @property
    def name(self) -> str: ...

    def check(self, spec: WAMSpec) -> None:
        """Raise ValueError if this schedule cannot drive a backbone of this description."""
        ...

    def start(self, seeds: Sequence[int], deterministic: bool, device: torch.device) -> Course:
        """Begin a batch. Row i's random numbers come from seeds[i] alone; deterministic courses use none."""
        ...


@dataclass(frozen=True)
class Request:
    """What a builder may use: "fixed-5" arrives at the builder of "fixed" with argument "5"."""

    name: str
    argument: str
    spec: WAMSpec
    config: SchedulerConfig
    network: nn.Module | None


Builder = Callable[[Request], Schedule]
_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Make `build_schedule(name)` and `build_schedule(name + "-argument")` call the decorated builder."""

    def add(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return add


def build_schedule(
    name: str, spec: WAMSpec, config: SchedulerConfig | None = None, network: nn.Module | None = None
) -> Schedule:
    """The schedule called `name`: "fixed-full", "fixed-5", "stop-only", "jump-only", "sants", ...

    Learned schedules take `network`; without one they start from the untrained initial policy.
    Raises ValueError, naming the known schedules, for an unknown name.
    """
    package = importlib.import_module("policies.schedules")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"policies.schedules.{module.name}")
    canonical = name.replace("_", "-")
    head, _, tail = canonical.rpartition("-")
    key, argument = (canonical, "") if canonical in _BUILDERS else (head, tail)
    if key not in _BUILDERS:
        known = ", ".join(["fixed-full", "fixed-<updates>", *sorted(_BUILDERS.keys() - {"fixed"})])
        raise ValueError(f"unknown schedule {name!r}: use one of {known}")
    return _BUILDERS[key](Request(canonical, argument, spec, config or SchedulerConfig(), network))


def uniform_streams(seeds: Sequence[int], draws: tuple[int, ...], stream: int) -> npt.NDArray[np.float64]:
    """Uniform numbers [B, *draws] whose row i depends on (seeds[i], stream) alone, never on the batch."""
    rows = [np.random.Generator(np.random.Philox(key=[seed, stream])).random(draws) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, *draws))
