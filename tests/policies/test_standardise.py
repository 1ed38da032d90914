"""SANTS scales its features by their spread: what all states share does not hide what tells them apart."""

from __future__ import annotations

import pytest
import torch

from policies.schedules.sants import SantsPolicy, SantsSchedule, SantsSettings, SantsTrace
from policies.walk import walk
from tests.analytic import SPEC, AnalyticWAM, make_segments

ROWS, SHARED, OWN = 64, 30.0, 0.1


def policy_of(standardise: bool) -> SantsPolicy:
    torch.manual_seed(0)
    settings = SantsSettings(standardise=standardise)
    return SantsPolicy(SPEC.feature_dim, SPEC.reference_updates, SPEC.video_shift, settings)


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled features [N, D] of two kinds of states, which share most of them, and the kind [N] of each."""
    generator = torch.Generator().manual_seed(1)
    kind = torch.arange(ROWS) % 2
    shared, own = (
        SHARED * torch.randn(SPEC.feature_dim, generator=generator),
        torch.randn(2, SPEC.feature_dim, generator=generator),
    )
    return shared + OWN * own[kind], kind


def trace_of(pooled: torch.Tensor) -> SantsTrace:
    """Only `pooled` matters here."""
    others = {name: torch.zeros(len(pooled)) for name in SantsTrace.__dataclass_fields__ if name != "pooled"}
    return SantsTrace(pooled=pooled, **others)


def told_apart(policy: SantsPolicy, steps: int = 40) -> float:
    """How far the modes of both kinds are apart after so many steps that push them apart, and both together."""
    pooled, kind = features()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(steps):
        mode = policy(pooled, torch.ones(ROWS)).mode
        optimizer.zero_grad()
        (mode.mean() + 0.3 * (mode[kind == 0].mean() - mode[kind == 1].mean())).backward()
        optimizer.step()
    mode = policy(pooled, torch.ones(ROWS)).mode.detach()
    return float(mode[kind == 1].mean() - mode[kind == 0].mean())


def test_preparing_changes_no_decision_of_the_untrained_policy() -> None:
    policy, (pooled, _) = policy_of(True), features()
    before = policy(pooled, torch.ones(ROWS))
    policy.prepare(trace_of(pooled))
    after = policy(pooled, torch.ones(ROWS))
    assert torch.equal(before.mode, after.mode)
    assert torch.equal(before.hazard, after.hazard)
    scaled = (policy.norm(pooled) - policy.feature_mean) / policy.feature_std
    torch.testing.assert_close(scaled.mean(0), torch.zeros(SPEC.feature_dim), atol=1e-2, rtol=0)


def test_the_features_are_measured_once() -> None:
    policy, (pooled, _) = policy_of(True), features()
    policy.prepare(trace_of(pooled))
    mean = policy.feature_mean.clone()
    policy.prepare(trace_of(-pooled))
    assert torch.equal(policy.feature_mean, mean)


def test_states_are_told_apart_where_they_would_share_one_constant() -> None:
    plain, standardised = policy_of(False), policy_of(True)
    pooled, _ = features()
    for policy in (plain, standardised):
        policy.prepare(trace_of(pooled))
    assert told_apart(standardised) > 5 * told_apart(plain)


@pytest.mark.parametrize("standardise", [False, True])
def test_the_statistics_travel_with_the_weights(standardise: bool) -> None:
    """And a policy that was trained without them loads as before."""
    policy, (pooled, _) = policy_of(standardise), features()
    policy.prepare(trace_of(pooled))
    assert ("feature_mean" in policy.state_dict()) == standardise
    other = policy_of(standardise)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other(pooled, torch.ones(ROWS)).hazard, policy(pooled, torch.ones(ROWS)).hazard)


def test_an_unprepared_policy_walks_like_one_without_statistics() -> None:
    segments, wam = make_segments(3), AnalyticWAM()
    context = wam.observe([s.observation for s in segments], [s.instruction for s in segments])
    plain, standardised = (
        walk(wam, context, SantsSchedule(policy, policy.settings), range(3), deterministic=False).records
        for policy in (policy_of(False), policy_of(True))
    )
    assert [record.sigma_video.tolist() for record in plain] == [record.sigma_video.tolist() for record in standardised]


def test_the_noise_level_may_weigh_less_than_the_features() -> None:
    columns = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        policy = SantsPolicy(**SantsPolicy.dimensions_of(SPEC), settings=SantsSettings(sigma_weight=weight))
        columns.append(policy.trunk.get_parameter("0.weight").detach())
    whole, quarter = columns
    assert torch.equal(whole[:, :-1], quarter[:, :-1])
    torch.testing.assert_close(quarter[:, -1], 0.25 * whole[:, -1])
