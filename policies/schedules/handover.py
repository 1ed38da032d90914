"""Hand-over: X-WAM's asynchronous walk, in which a network decides when the action is handed over.

Without a decision it is `async-10-50`. To hand over is to take the action from its level to 0 in one Euler step, by the
flow of the forward at which it was decided: the clean action that the backbone expects there. So it costs no forward
of its own. It can be decided at every forward but the last, which ends at 0 anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.fields import Problem, setting
from policies.backbones.door import Point, WAMSpec, Want
from policies.catalogue import register_learned
from policies.hazard import StopRule, stop_divergence, stop_entropy, stop_log_prob
from policies.layers import silu_mlp
from policies.learning import Charts, Evaluation, LearnedKind, LearnedSchedule, Policy
from policies.schedule import Course, Decision, WalkStart
from policies.schedules.asynchronous import AsynchronousSettings
from policies.streams import uniform_streams
from policies.trace import Trace

HANDOVER_STREAM = 5
SMALLEST_SPREAD = 1e-3  # of a feature: one that hardly varies is not blown up


@dataclass
class HandoverSettings(AsynchronousSettings):
    """The settings of the walk and of the network that hands over."""

    name: str = setting("handover", choices=("handover",))
    trunk_widths: list[int] = setting([64], at_least=1)  # C
    # C: what the number of the forward weighs at the start, relative to the whole feature. The more it weighs, the
    # more of what is learned in one state is done in every other one.
    step_weight: float = setting(0.25, at_least=0, at_most=10)
    min_forwards: int = setting(1, at_least=1)  # C: the first forward at which it may hand over
    handover_threshold: float = setting(0.85, at_least=0, at_most=1)  # on the cumulative probability, when deployed
    initial_bias: float = setting(-2.94)  # C: hands over with 0.05 at each forward; deployed, that is never
    reference_probability: float = setting(0.01, above=0, at_most=0.999)  # of handing over at each forward

    def conflicts(self) -> Iterator[Problem]:
        yield from super().conflicts()
        if not self.trunk_widths:
            yield Problem("trunk_widths", "[] is no network", "Use widths like [64].")
        if self.min_forwards >= self.action_steps:
            yield Problem("min_forwards", "leaves nothing to decide", f"Use at most {self.action_steps - 1}.")


@dataclass
class HandoverTrace(Trace):
    """What each decision saw and drew. A walk that hands over has a clean action and goes no further."""

    pooled: Tensor  # float32 [..., D]
    progress: Tensor  # float32 [...]: the share of the action's steps that were made
    handed_over: Tensor  # bool [...]
    free: Tensor  # bool [...]: the decision was drawn and could change something
    handover_log_prob: Tensor  # float32 [...], under the weights that drew it; 0 where the decision was forced

    @property
    def drawn(self) -> Tensor:
        return self.free


class HandoverPolicy(Policy[HandoverSettings, HandoverTrace]):
    """A network on the pooled feature, scaled by its spread, and on the number of the forward."""

    trace_type = HandoverTrace
    feature_mean: Tensor  # float32 [D], of the normalised features of the first walks
    feature_std: Tensor  # float32 [D]
    charts: ClassVar[Charts] = {"2 policy": {"handing over": ["Multiline", ["policy/handover_rate"]]}}

    def __init__(self, feature_dim: int, settings: HandoverSettings) -> None:
        super().__init__()
        self.feature_dim, self.settings = feature_dim, settings
        widths = [feature_dim + 1, *settings.trunk_widths]
        self.norm = nn.LayerNorm(feature_dim)
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.trunk = silu_mlp(widths)
        self.head = nn.Linear(widths[-1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, settings.initial_bias)
        with torch.no_grad():
            self.trunk.get_parameter("0.weight")[:, -1] *= settings.step_weight * feature_dim**0.5

    @classmethod
    def dimensions_of(cls, spec: WAMSpec) -> dict[str, float]:
        return {"feature_dim": spec.feature_dim}

    @property
    def dimensions(self) -> dict[str, float]:
        return {"feature_dim": self.feature_dim}

    def hazard(self, pooled: Tensor, progress: Tensor) -> Tensor:
        """Return the increment of the hazard to hand over, [...], from `pooled` [..., D] and `progress` [...]."""
        features = (self.norm(pooled) - self.feature_mean) / self.feature_std
        hidden = self.trunk(torch.cat([features, 2 * progress[..., None] - 1], dim=-1))
        increment: Tensor = F.softplus(self.head(hidden)[..., 0])
        return increment

    @torch.no_grad()
    def prepare(self, trace: HandoverTrace) -> None:
        """Measure mean and spread of the features, once. The untrained head does not look at them yet."""
        if not self.feature_mean.any():
            features = self.norm(trace.pooled)
            self.feature_mean.copy_(features.mean(dim=0))
            self.feature_std.copy_(features.std(dim=0, correction=0).clamp_min(SMALLEST_SPREAD))

    def evaluate(self, trace: HandoverTrace) -> Evaluation:
        """Evaluate the only choice of each decision. The reference rarely hands over before the action is clean."""
        hazard = self.hazard(trace.pooled, trace.progress)
        now = torch.where(trace.free, stop_log_prob(hazard, trace.handed_over), torch.zeros_like(hazard))
        return Evaluation(
            log_prob=now[..., None],
            log_prob_then=trace.handover_log_prob[..., None],
            free=trace.free[..., None],
            entropy=stop_entropy(hazard)[..., None],
            divergence=stop_divergence(hazard, self.settings.reference_probability)[..., None],
            weight=hazard.new_ones(1),
        )

    def describe(self, traces: Sequence[HandoverTrace]) -> dict[str, float]:
        """Return how often it hands over where it may."""
        joined = HandoverTrace.join(traces)
        handed_over = joined.handed_over[joined.free]
        return {"policy/handover_rate": float(handed_over.float().mean()) if len(handed_over) else np.nan}


class HandoverCourse(Course):
    """One batch under a network that hands over. A row whose action is clean goes no further."""

    wants = Want.VIDEO_FLOW | Want.POOLED | Want.ACTION_FLOW

    def __init__(self, policy: HandoverPolicy, settings: HandoverSettings, start: WalkStart) -> None:
        video, action = settings.grids(start.spec)
        super().__init__(action.to(start.device))
        self.video_grid = video.to(start.device)
        self.policy, self.settings = policy, settings
        draws = None if start.deterministic else uniform_streams(start.seeds, (settings.action_steps,), HANDOVER_STREAM)
        self.rule = StopRule(settings.handover_threshold, len(start.seeds), start.device, draws)

    def ended(self, rows: Tensor, point: Point, updates: int) -> Tensor:
        return point.sigma_action <= 0

    def decide(self, rows: Tensor, point: Point, pooled: Tensor, updates: int) -> Decision:
        """Return the next levels. Those who hand over take their video along by the same step as all others."""
        steps = self.settings.action_steps
        progress = torch.full_like(point.sigma_action, updates / steps)
        hazard = self.policy.hazard(pooled, progress)
        may_decide = self.settings.min_forwards - 1 <= updates < steps - 1
        free = torch.full_like(rows, may_decide, dtype=torch.bool)
        handed_over = self.rule.stops(hazard, free, rows, updates)
        own = torch.where(free, stop_log_prob(hazard, handed_over), torch.zeros_like(hazard))
        sigma_action = torch.where(handed_over, 0.0, self.action_grid[updates + 1])
        sigma_video = self.video_grid[updates + 1].expand_as(point.sigma_video)
        trace = HandoverTrace(pooled, progress, handed_over, free, own)
        return Decision(sigma_video, sigma_action, torch.zeros_like(handed_over), trace)


@dataclass(frozen=True)
class HandoverSchedule(LearnedSchedule[HandoverPolicy, HandoverSettings]):
    """A network that hands over with the settings of its walks."""

    def check(self, spec: WAMSpec) -> None:
        spec.require(self.name, HandoverCourse.wants, cascade=False)
        super().check(spec)

    @property
    def video_steps(self) -> int:
        return self.settings.video_steps

    def start(self, start: WalkStart) -> Course:
        return HandoverCourse(self.policy.to(start.device), self.settings, start)


register_learned("handover", kind=LearnedKind(HandoverSettings, HandoverPolicy, HandoverSchedule))
