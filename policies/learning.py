"""The learning side of a schedule: the trace of its decisions, and the policy that evaluates a trace.

Shapes: N rollouts, K decisions of each rollout (padded), J choices of each decision (for example: stop and jump).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from configs.schema import ScheduleConfig
from policies.backbones.door import WAMSpec
from policies.schedule import Course, WalkStart
from policies.trace import Trace

Settings = TypeVar("Settings", bound=ScheduleConfig)
AnyTrace = TypeVar("AnyTrace", bound=Trace)
Charts = Mapping[str, Mapping[str, list[Any]]]
"""TensorBoard charts: section -> title -> [kind, tags]. A tag is a regular expression that a whole name must match."""


@dataclass
class Evaluation:
    """A policy's view of the choices in N rollouts. Every tensor except `weight` has the shape [N, K, J]."""

    log_prob: Tensor  # log-probability of each choice under the current weights; 0 where the choice is not free
    log_prob_then: Tensor  # the same under the weights that drew the choice
    free: Tensor  # bool: the choice was drawn and could change something. False for padding and forced choices.
    entropy: Tensor
    divergence: Tensor  # KL from the policy's reference, which is the untrained schedule
    weight: Tensor  # [J]: the weight of each choice in the log-probability of its decision or path
    shown: dict[str, Tensor] = field(default_factory=dict)  # further scalars to report


class Policy(nn.Module, ABC, Generic[Settings, AnyTrace]):
    """The network of a learned schedule. Its constructor takes its `dimensions` and its settings."""

    trace_type: ClassVar[type[Trace]]
    charts: ClassVar[Charts] = {}  # charts of the metrics that `describe` returns

    settings: Settings

    @classmethod
    @abstractmethod
    def dimensions_of(cls, spec: WAMSpec) -> dict[str, float]:
        """Return the constructor arguments that depend on the backbone, as JSON values."""

    @property
    @abstractmethod
    def dimensions(self) -> dict[str, float]:
        """The same arguments, as this network was built. With the settings they rebuild a network of this shape."""

    @abstractmethod
    def evaluate(self, trace: AnyTrace) -> Evaluation:
        """Evaluate the choices of a trace [N, K, ...] under the current weights. No backbone is needed."""

    def prepare(self, trace: AnyTrace) -> None:
        """Learn the range of the inputs from the decisions [K, ...] of the first rollouts, before the first update.

        It must not change what the untrained policy decides. It is called before every update.
        """

    def describe(self, traces: Sequence[AnyTrace]) -> dict[str, float]:
        """Return metrics to report, from the traces [K, ...] of one or more rollouts."""
        return {}


AnyPolicy = TypeVar("AnyPolicy", bound="Policy[Any, Any]")


@dataclass(frozen=True)
class LearnedSchedule(ABC, Generic[AnyPolicy, Settings]):
    """A policy together with the settings of its walks."""

    policy: AnyPolicy
    settings: Settings
    trained_on: str = ""  # the hash of the backbone that it was trained on; empty: any backbone of the right shape

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def follows_reference(self) -> bool:
        """Whether every walk is a prefix of the reference walk, so that stored reference walks can replace it."""
        return False

    def check(self, spec: WAMSpec) -> None:
        """Raise ValueError if this backbone imagines nothing, has other shapes, or is not the one of the training."""
        spec.require_imagination(self.name)
        ours, theirs = self.policy.dimensions, self.policy.dimensions_of(spec)
        different = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
        if different:
            listed = ", ".join(f"{name} {own}, the backbone has {other}" for name, (own, other) in different.items())
            raise ValueError(f"schedule {self.name!r} was made for {listed}: train one on this backbone")
        if self.trained_on and spec.weights_hash != self.trained_on:
            raise ValueError(
                f"schedule {self.name!r} was trained on backbone {self.trained_on}, the loaded one is "
                f"{spec.weights_hash}: load that backbone, or train a schedule on this one"
            )

    @abstractmethod
    def start(self, start: WalkStart) -> Course:
        """Start a course for one batch."""


@dataclass(frozen=True)
class LearnedKind:
    """The three classes that make up a learned schedule."""

    settings: type[ScheduleConfig]
    policy: type[Policy[Any, Any]]
    schedule: type[LearnedSchedule[Any, Any]]

    def new_policy(self, spec: WAMSpec, settings: ScheduleConfig) -> Policy[Any, Any]:
        """Build an untrained policy for this backbone."""
        return self.policy_of(self.policy.dimensions_of(spec), settings)

    def policy_of(self, dimensions: Mapping[str, float], settings: ScheduleConfig) -> Policy[Any, Any]:
        """Build a policy from saved dimensions. Raises TypeError if they do not fit this kind."""
        return self.policy(**dimensions, settings=settings)
