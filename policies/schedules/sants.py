"""SANTS: a network reads the pooled video feature and decides when to stop and how far to jump (SANTS 3.2).

Two ablations are the same schedule with one of its two heads switched off: stop-only, which jumps along the reference
grid, and jump-only, which never stops before the terminal level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.distributions import Beta, kl_divergence

from configs.fields import Problem, setting
from configs.schema import ScheduleConfig
from policies.backbones.door import Point, WAMSpec, Want
from policies.backbones.flow import next_on_grid, shifted_grid
from policies.catalogue import register_learned
from policies.hazard import StopRule, stop_divergence, stop_entropy, stop_log_prob
from policies.layers import silu_mlp
from policies.learning import Charts, Evaluation, LearnedKind, LearnedSchedule, Policy
from policies.schedule import Course, Decision, WalkStart
from policies.streams import uniform_streams
from policies.trace import StoppableTrace

NAMES = ("sants", "stop-only", "jump-only")
DECISION_STREAM = 1
LOWEST_MODE, MODE_RANGE = 0.02, 0.96  # C: the mode stays in [0.02, 0.98]
SATURATION = 0.02  # C: the reference mode stays this far from both ends of its range, where the sigmoid has no slope
SMALLEST_SPREAD = 1e-3  # of a feature: one that hardly varies is not blown up
RATIO_MARGIN = 1e-5  # sampled ratios stay this far from 0 and 1, so that their density is finite


@dataclass
class SantsSettings(ScheduleConfig):
    """The SANTS network and its walks. Comments name the paper's values for the 5B backbone."""

    name: str = setting("sants", choices=NAMES)
    trunk_widths: list[int] = setting([128, 64], at_least=1)  # C: 512, 128
    # C: scale each feature by its spread over the first paths. What all states share can be far larger than what tells
    # them apart; then the policy learns one constant for all of them, long before it learns to look at the state.
    standardise: bool = False
    # C: what the noise level weighs at the start, relative to the whole feature. It is the same for all states at the
    # first decision; the more it weighs, the more of what is learned in one state is done in every other one.
    sigma_weight: float = setting(1.0, at_least=0, at_most=10)
    stop_threshold: float = setting(0.85, at_least=0, at_most=1)
    min_updates: int = setting(1, at_least=1)  # C
    max_decisions: int = setting(25, at_least=1)  # C
    untrained_updates: int = setting(0, at_least=0)  # how many the untrained walk makes; 0: those of the full walk
    terminal_sigma: float = setting(0.05, at_least=0, at_most=0.999)  # C: a jump below it goes to 0 and ends the walk
    initial_stop_bias: float = setting(-2.94)  # C
    # A Beta distribution has a mode only above 2, and the inverse softplus overflows above about 700.
    initial_concentration: float = setting(20.0, above=2, at_most=700)  # C
    max_concentration: float = setting(200.0, above=2, at_most=1e6)  # C
    jump_log_prob_scale: float = setting(0.3, at_least=0)  # C: weight of the jumps in the log-probability of a path
    reference_stop_probability: float = setting(0.01, above=0, at_most=0.999)  # P: the reference almost never stops

    def conflicts(self) -> Iterator[Problem]:
        if not self.trunk_widths:
            yield Problem("trunk_widths", "[] is no network", "Use widths like [128, 64].")
        if self.min_updates > self.max_decisions:
            yield Problem("min_updates", "is above max_decisions", f"Use at most {self.max_decisions}.")
        if self.initial_concentration > self.max_concentration:
            fix = f"Use at most {self.max_concentration}."
            yield Problem("initial_concentration", "is above max_concentration", fix)


@dataclass
class SantsTrace(StoppableTrace):
    """What each decision saw and drew. `stop_free` and `jump_free` mark drawn choices; the others were forced."""

    pooled: Tensor  # float32 [..., D]
    sigma: Tensor  # float32 [...]
    stop: Tensor  # bool [...]
    ratio: Tensor  # float32 [...], sigma_next / sigma
    stop_free: Tensor  # bool [...]
    jump_free: Tensor  # bool [...]
    stop_log_prob: Tensor  # float32 [...], under the weights that drew it
    jump_log_prob: Tensor  # float32 [...], under the weights that drew it

    @property
    def drawn(self) -> Tensor:
        return self.stop_free | self.jump_free

    def leave_out_others(self) -> None:
        self.jump_free[-1], self.jump_log_prob[-1] = False, 0.0


@dataclass
class SantsOutput:
    """The outputs of the two heads, each of the input's leading shape."""

    hazard: Tensor  # increment dH >= 0 of the stop hazard (Eq. 1)
    mode: Tensor  # mode of the distribution of the ratio sigma_next / sigma
    concentration: Tensor  # c > 2

    def jump(self) -> Beta:
        """Return the distribution of the ratio sigma_next / sigma, in float64 and unimodal (Eq. 6)."""
        return beta_of_mode(self.mode, self.concentration)


def beta_of_mode(mode: Tensor, concentration: Tensor) -> Beta:
    """Return the Beta distribution with this mode. Both of its parameters are above 1."""
    spread = concentration.double() - 2
    return Beta(1 + mode.double() * spread, 1 + (1 - mode.double()) * spread, validate_args=False)


def reference_mode(sigma: Tensor, updates: int, shift: float) -> Tensor:
    """Return the ratio sigma_next / sigma of the reference grid, clamped to modes that training can still change."""
    inside = sigma.clamp_min(1e-6)
    unit = (next_on_grid(inside, updates, shift) / inside - LOWEST_MODE) / MODE_RANGE
    return LOWEST_MODE + MODE_RANGE * unit.clamp(SATURATION, 1 - SATURATION)


class SantsPolicy(Policy[SantsSettings, SantsTrace]):
    """A trunk with a stop head and a jump head. Untrained, it stops rarely and follows the reference grid."""

    trace_type = SantsTrace
    feature_mean: Tensor  # float32 [D], with `feature_std` only if `settings.standardise`
    feature_std: Tensor
    charts: ClassVar[Charts] = {
        "2 policy": {
            "stopping": ["Multiline", ["policy/stop_rate", "policy/forced_stops"]],
            "jumps": ["Multiline", ["policy/jump_ratio", "policy/jump_ratio_std"]],
        }
    }

    def __init__(self, feature_dim: int, reference_updates: int, shift: float, settings: SantsSettings) -> None:
        super().__init__()
        self.feature_dim, self.reference_updates, self.shift = feature_dim, reference_updates, shift
        self.settings = settings
        widths = [feature_dim + 1, *settings.trunk_widths]
        self.norm = nn.LayerNorm(feature_dim)
        if settings.standardise:
            self.register_buffer("feature_mean", torch.zeros(feature_dim))
            self.register_buffer("feature_std", torch.ones(feature_dim))
        self.trunk = silu_mlp(widths)
        self.stop_head = nn.Linear(widths[-1], 1)
        self.jump_head = nn.Linear(widths[-1], 2)
        for head in (self.stop_head, self.jump_head):
            nn.init.zeros_(head.weight)
        nn.init.constant_(self.stop_head.bias, settings.initial_stop_bias)
        with torch.no_grad():
            self.trunk.get_parameter("0.weight")[:, -1] *= settings.sigma_weight * feature_dim**0.5
            self.jump_head.bias.copy_(torch.tensor([0.0, np.log(np.expm1(settings.initial_concentration - 2))]))

    @classmethod
    def dimensions_of(cls, spec: WAMSpec) -> dict[str, float]:
        return {
            "feature_dim": spec.feature_dim,
            "reference_updates": spec.reference_updates,
            "shift": spec.video_shift,
        }

    @property
    def dimensions(self) -> dict[str, float]:
        return {
            "feature_dim": self.feature_dim,
            "reference_updates": self.reference_updates,
            "shift": self.shift,
        }

    def forward(self, pooled: Tensor, sigma: Tensor) -> SantsOutput:
        """Run both heads on `pooled`, float32 [..., D], and `sigma`, float32 [...]."""
        features = self.norm(pooled)
        if self.settings.standardise:
            features = (features - self.feature_mean) / self.feature_std
        hidden = self.trunk(torch.cat([features, sigma[..., None]], dim=-1))
        mode_logit, concentration_logit = self.jump_head(hidden).unbind(-1)
        offset = torch.logit((self.reference_mode(sigma) - LOWEST_MODE) / MODE_RANGE)
        return SantsOutput(
            hazard=F.softplus(self.stop_head(hidden)[..., 0]),
            mode=LOWEST_MODE + MODE_RANGE * torch.sigmoid(mode_logit + offset),
            concentration=(2 + F.softplus(concentration_logit)).clamp_max(self.settings.max_concentration),
        )

    @torch.no_grad()
    def prepare(self, trace: SantsTrace) -> None:
        """Measure mean and spread of the features, once. The untrained heads do not look at them yet."""
        if self.settings.standardise and not self.feature_mean.any():
            features = self.norm(trace.pooled)
            self.feature_mean.copy_(features.mean(dim=0))
            self.feature_std.copy_(features.std(dim=0, correction=0).clamp_min(SMALLEST_SPREAD))

    def reference_mode(self, sigma: Tensor) -> Tensor:
        return reference_mode(sigma, self.settings.untrained_updates or self.reference_updates, self.shift)

    def evaluate(self, trace: SantsTrace) -> Evaluation:
        """Evaluate two choices for each decision: stop and jump. The reference rarely stops and follows the grid."""
        output = self(trace.pooled, trace.sigma)
        now = log_prob(output, trace.stop, trace.ratio, trace.stop_free, trace.jump_free)
        stop_kl = stop_divergence(output.hazard, self.settings.reference_stop_probability)
        concentration = output.concentration.detach()  # the divergence pulls only the mode towards the reference
        jump_kl = kl_divergence(
            beta_of_mode(output.mode, concentration),
            beta_of_mode(self.reference_mode(trace.sigma), concentration),
        )
        return Evaluation(
            log_prob=torch.stack(now, dim=-1),
            log_prob_then=torch.stack([trace.stop_log_prob, trace.jump_log_prob], dim=-1),
            free=torch.stack([trace.stop_free, trace.jump_free], dim=-1),
            entropy=torch.stack([stop_entropy(output.hazard), output.jump().entropy().float()], dim=-1),
            divergence=torch.stack([stop_kl, jump_kl.float()], dim=-1),
            weight=trace.sigma.new_tensor([1.0, self.settings.jump_log_prob_scale]),
        )

    def describe(self, traces: Sequence[SantsTrace]) -> dict[str, float]:
        """Return how often it stops where it may, the share of paths that it did not stop, and how far it jumps."""
        last_stopped = [bool(trace.stop[-1]) if len(trace) else False for trace in traces]
        joined = SantsTrace.join(traces)
        stops, ratios = joined.stop[joined.stop_free], joined.ratio[joined.jump_free].double()
        return {
            "policy/stop_rate": float(stops.float().mean()) if len(stops) else np.nan,
            "policy/forced_stops": 1 - float(np.mean(last_stopped)),
            "policy/jump_ratio": float(ratios.mean()) if len(ratios) else np.nan,
            "policy/jump_ratio_std": float(ratios.std(correction=0)) if len(ratios) else np.nan,
        }


def log_prob(
    output: SantsOutput, stop: Tensor, ratio: Tensor, stop_free: Tensor, jump_free: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the stops and of the jumps, float32 each; 0 for forced choices and padding."""
    own = stop_log_prob(output.hazard, stop)
    inside = torch.where(jump_free, ratio, 0.5).double()
    jump_log_prob = output.jump().log_prob(inside).float()
    zero = torch.zeros_like(own)
    return torch.where(stop_free, own, zero), torch.where(jump_free, jump_log_prob, zero)


class SantsCourse(Course):
    """One batch under a SANTS policy: a cascade in which all frames share a noise level."""

    wants = Want.VIDEO_FLOW | Want.MEMORY | Want.POOLED

    def __init__(self, policy: SantsPolicy, settings: SantsSettings, start: WalkStart) -> None:
        spec = start.spec
        super().__init__(shifted_grid(spec.action_updates, spec.action_shift).to(start.device))
        self.policy, self.settings = policy, settings
        stop_draws = self.jump_draws = None
        if not start.deterministic:
            uniforms = uniform_streams(start.seeds, (settings.max_decisions, 2), DECISION_STREAM)
            stop_draws, self.jump_draws = uniforms[..., 0], uniforms[..., 1]
        self.stop_rule = StopRule(settings.stop_threshold, len(start.seeds), start.device, stop_draws)
        self.may_stop = start.may_stop

    def ended(self, rows: Tensor, point: Point, updates: int) -> Tensor:
        return (point.sigma_video[:, 0] <= 0) | (updates >= self.settings.max_decisions)

    def decide(self, rows: Tensor, point: Point, pooled: Tensor, updates: int) -> Decision:
        sigma = point.sigma_video[:, 0]
        output = self.policy(pooled, sigma)
        may_stop = self.settings.name != "jump-only" and updates >= self.settings.min_updates
        stop_free = torch.full_like(rows, may_stop, dtype=torch.bool)
        stop = self.stop_rule.stops(output.hazard, stop_free & self.may_stop, rows, updates)
        jump_free = torch.full_like(stop, self.settings.name != "stop-only") & ~stop
        ratio = self._ratio(output, rows, sigma, updates)
        sigma_next = ratio * sigma
        sigma_next = torch.where(sigma_next < self.settings.terminal_sigma, torch.zeros_like(sigma), sigma_next)
        drawn = log_prob(output, stop, ratio, stop_free, jump_free)
        trace = SantsTrace(pooled, sigma, stop, ratio, stop_free, jump_free, *drawn)
        return Decision(sigma_next[:, None].expand_as(point.sigma_video), point.sigma_action, stop, trace)

    def _ratio(self, output: SantsOutput, rows: Tensor, sigma: Tensor, updates: int) -> Tensor:
        """Return the ratio of the reference grid (stop-only), the mode, or a draw by inverse transform sampling."""
        if self.settings.name == "stop-only":
            return next_on_grid(sigma, self.policy.reference_updates, self.policy.shift) / sigma
        if self.jump_draws is None:
            return output.mode
        jump, draws = output.jump(), self.jump_draws[rows.cpu().numpy(), updates]
        drawn = betaincinv(jump.concentration1.cpu().numpy(), jump.concentration0.cpu().numpy(), draws)
        return torch.as_tensor(drawn.clip(RATIO_MARGIN, 1 - RATIO_MARGIN), dtype=torch.float32, device=rows.device)


@dataclass(frozen=True)
class SantsSchedule(LearnedSchedule[SantsPolicy, SantsSettings]):
    """A SANTS policy with the settings of its walks. The name in the settings says which heads are used."""

    @property
    def follows_reference(self) -> bool:
        return self.name == "stop-only"

    def check(self, spec: WAMSpec) -> None:
        spec.require(self.name, SantsCourse.wants | Want.ACTION_FLOW, cascade=True)
        super().check(spec)

    def start(self, start: WalkStart) -> Course:
        return SantsCourse(self.policy.to(start.device), self.settings, start)


register_learned(*NAMES, kind=LearnedKind(SantsSettings, SantsPolicy, SantsSchedule))
