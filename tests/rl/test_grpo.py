"""GRPO: advantages within groups, one clipped ratio a latent and step, the entropy bonus."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from policies.schedules.noisegate import GateOutput, GateTrace, GatingPolicy, NoiseGateSettings, gate_entropy
from rl.objective import Clock, Loss, clipped_loss
from rl.objectives.grpo import GRPO, GRPOConfig, entropy_weight, group_advantages, informative
from tests.analytic import SPEC

CONFIG = GRPOConfig()
STEPS = 3
GATE = NoiseGateSettings(
    steps=STEPS, persistence=0.5, channels=[8, 8], width=8, layers=1, heads=2, sigma_width=8, actor_width=8
)
BOUND = GATE.scale_bound
SHAPE = (8, STEPS, SPEC.future_frames)
FREE = torch.ones(SHAPE, dtype=torch.bool)
binary = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.sampled_from([0.0, 1.0]))
real = arrays(np.float64, (3, 8), elements=st.floats(-5, 5).map(lambda value: round(value, 3)))


def episode_advantages(returns: np.ndarray) -> np.ndarray:
    """One query each."""
    return group_advantages(returns[..., None], np.ones(returns.shape, dtype=int), "group", "group")[:, :, 0]


@given(real)
def test_advantages_of_a_group_are_centred_with_unit_spread(returns: np.ndarray) -> None:
    advantages = episode_advantages(returns)
    np.testing.assert_allclose(advantages.mean(axis=1), 0, atol=1e-9)
    spread = advantages[returns.std(axis=1) > 0.01].std(axis=1)
    np.testing.assert_allclose(spread, 1, rtol=1e-3)


@given(real, st.floats(0.1, 9), st.floats(-9, 9))
def test_advantages_do_not_depend_on_scale_or_offset(returns: np.ndarray, scale: float, offset: float) -> None:
    wide = returns[returns.std(axis=1) > 0.05]
    assume(len(wide))
    np.testing.assert_allclose(
        episode_advantages(scale * wide + offset), episode_advantages(wide), rtol=1e-3, atol=1e-3
    )


@given(binary)
def test_equal_returns_carry_nothing_and_differing_ones_something(returns: np.ndarray) -> None:
    differs = [len(set(group)) > 1 for group in returns.tolist()]
    assert informative(returns[..., None]).tolist() == differs
    assert (episode_advantages(returns) != 0).all(axis=1).tolist() == differs


@given(binary, st.randoms(use_true_random=False))
def test_the_order_of_a_group_does_not_matter(returns: np.ndarray, random: object) -> None:
    order = np.random.default_rng(0).permutation(returns.shape[1])
    np.testing.assert_allclose(episode_advantages(returns[:, order]), episode_advantages(returns)[:, order], atol=1e-12)


@given(binary, st.sampled_from(["group", "playing"]), st.randoms(use_true_random=False))
def test_an_episode_is_credited_as_long_as_it_lasts(returns: np.ndarray, baseline: str, random: object) -> None:
    queries = np.random.default_rng(0).integers(1, 6, returns.shape)
    advantages = group_advantages(returns[..., None], queries, baseline, "group")
    assert advantages.shape == (*returns.shape, queries.max())
    ended = np.arange(queries.max()) >= queries[:, :, None]
    assert (advantages[ended] == 0).all()
    np.testing.assert_allclose(advantages[:, :, 0], episode_advantages(returns), atol=1e-12)
    if baseline == "group":
        np.testing.assert_allclose(advantages, np.where(ended, 0, advantages[:, :, :1]))
    else:
        np.testing.assert_allclose(advantages.sum(axis=1), 0, atol=1e-9)


def test_without_a_scale_a_cost_weighs_the_same_whether_success_differs_or_not() -> None:
    """Divided by the spread, the cost of a group that always succeeds would count as much as success elsewhere."""
    cost, queries = np.array([[[-0.1], [-0.3]]]), np.ones((1, 2), dtype=int)
    plain = group_advantages(cost, queries, "group", "none")
    np.testing.assert_allclose(plain, [[[0.1], [-0.1]]])
    success = np.array([[[1.0], [0.0]]])
    with_success = group_advantages(success + cost, queries, "group", "none")
    np.testing.assert_allclose(with_success - plain, [[[0.5], [-0.5]]])
    np.testing.assert_allclose(group_advantages(cost, queries, "group", "group"), [[[1], [-1]]], rtol=1e-4)


@pytest.mark.parametrize("baseline", ["group", "playing"])
def test_each_query_is_compared_by_what_its_own_decisions_earned(baseline: str) -> None:
    returns, queries = np.array([[[1.0, 3.0], [2.0, 1.0]]]), np.array([[2, 2]])
    found = group_advantages(returns, queries, baseline, "none")
    np.testing.assert_allclose(found, [[[-0.5, 1.0], [0.5, -1.0]]])


def test_those_that_still_play_are_compared_with_each_other() -> None:
    returns, queries = np.array([[[1.0], [1.0], [0.0], [0.0]]]), np.array([[1, 2, 3, 3]])
    (blame,), (fair,) = (group_advantages(returns, queries, baseline, "group") for baseline in ("group", "playing"))
    np.testing.assert_allclose(blame, [[1, 0, 0], [1, 1, 0], [-1, -1, -1], [-1, -1, -1]], rtol=1e-5)
    np.testing.assert_allclose(
        fair, [[1, 0, 0], [1, 4 / 3, 0], [-1, -2 / 3, 0], [-1, -2 / 3, 0]], rtol=1e-5, atol=1e-12
    )


def test_the_entropy_bonus_decays_exponentially() -> None:
    assert [entropy_weight(updates, CONFIG) for updates in (0, 1, 1000)] == pytest.approx(
        [0.01, 0.00999, 0.003677], 1e-3
    )


def test_the_loss_takes_the_entropy_weight_of_its_iteration() -> None:
    gate, trace, advantage = sampled()
    for iteration in (0, 300):
        loss = GRPO(CONFIG).loss(gate.evaluate(trace), advantage, Clock(iteration, 400))
        expected = float(loss.policy) - entropy_weight(iteration, CONFIG) * float(loss.entropy)
        assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-6)


def gate_of(kind: type[GatingPolicy] = GatingPolicy) -> GatingPolicy:
    torch.manual_seed(0)
    return kind(**GatingPolicy.dimensions_of(SPEC), settings=GATE)  # type: ignore[arg-type]


def sampled() -> tuple[GatingPolicy, GateTrace, Tensor]:
    """Episodes of an untrained gate, and their advantages: half of them positive."""
    gate = gate_of()
    latents = torch.randn(*SHAPE[:2], SPEC.latent_channels, SPEC.latent_frames, *SPEC.latent_grid)
    sigma = torch.rand(SHAPE)
    with torch.no_grad():
        output = gate(latents, sigma)
        deviation = torch.randn_like(output.mean)
        u = output.mean + output.log_std.exp() * deviation
    advantage = torch.ones(SHAPE[:2])
    advantage[SHAPE[0] // 2 :] = -1
    log_std = output.log_std.expand(SHAPE[:2])
    return gate, GateTrace(latents, sigma, u, deviation, log_std, FREE), advantage


def loss_of(gate: GatingPolicy, trace: GateTrace, advantage: Tensor, weight: float = 0.0) -> Loss:
    return clipped_loss(gate.evaluate(trace), advantage, CONFIG, entropy_weight=weight)


class Scripted(GatingPolicy):
    """Answers what the test says, whatever it is asked."""

    output: GateOutput

    def forward(self, latents: Tensor, sigma: Tensor) -> GateOutput:
        return self.output


def scripted(output: GateOutput) -> GatingPolicy:
    gate = gate_of(Scripted)
    assert isinstance(gate, Scripted)
    gate.output = output
    return gate


def test_before_any_update_every_ratio_is_one() -> None:
    loss = loss_of(*sampled())
    torch.testing.assert_close(loss.ratio, torch.ones(SHAPE))
    assert float(loss.policy) == pytest.approx(0.0, abs=1e-6)
    assert float(loss.clip_fraction) == 0
    assert float(loss.approximate_kl) == pytest.approx(0.0, abs=1e-6)


def test_an_update_moves_probabilities_with_the_advantage() -> None:
    gate, trace, advantage = sampled()
    optimizer = torch.optim.Adam(gate.parameters(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        loss_of(gate, trace, advantage).total.backward()
        optimizer.step()
    shift = loss_of(gate, trace, advantage).ratio.log().mean(dim=2)
    assert float((shift * advantage).mean()) > 0


def test_latents_and_steps_are_clipped_one_by_one() -> None:
    """A ratio beyond the clip stops its own gradient, and no other's; a sum over frames would stop both."""
    mean = torch.zeros(1, 1, 2, requires_grad=True)
    u = torch.tensor([[[0.5, 0.5]]])
    sampled_at = torch.tensor([[[math.sqrt(0.5**2 + 2), 0.5]]])  # the first frame's ratio is e
    none = torch.empty(0)
    trace = GateTrace(none, none, u, sampled_at, torch.zeros(1, 1), FREE[:1, :1])
    loss_of(scripted(GateOutput(mean, torch.tensor(0.0))), trace, torch.ones(1, 1)).total.backward()
    assert mean.grad is not None
    assert mean.grad[0, 0, 0] == 0
    assert mean.grad[0, 0, 1] == pytest.approx(-0.25)  # -(1/2) A u / std^2


@given(st.floats(-2, 2), st.floats(-2.5, 0.4), st.floats(0, 0.1))
def test_the_bonus_is_the_weighted_entropy_of_the_scales(mean: float, log_std: float, weight: float) -> None:
    u = torch.full((4, STEPS, 2), mean)
    output = GateOutput(u, torch.tensor(log_std))
    trace = GateTrace(u, u, u, 0 * u, torch.full((4, STEPS), log_std), FREE[:4])
    loss = loss_of(scripted(output), trace, torch.zeros(4, STEPS), weight)
    expected = gate_entropy(output, BOUND).mean()
    assert float(loss.entropy) == pytest.approx(float(expected), abs=1e-5)
    assert float(loss.total) == pytest.approx(-weight * float(expected), abs=1e-5)


def test_a_decision_that_changes_nothing_teaches_nothing() -> None:
    gate, trace, advantage = sampled()
    some = FREE.clone()
    some[:, 1, 1] = False
    moved, other = trace.u + 1, trace.u + 1
    other[:, 1, 1] -= 5
    masked = loss_of(gate, replace(trace, free=some, u=moved), advantage)
    ignored = loss_of(gate, replace(trace, free=some, u=other), advantage)
    assert ignored.total.item() == masked.total.item()
    assert masked.policy.item() != 0


def test_the_bonus_widens_the_policy() -> None:
    gate, trace, advantage = sampled()
    loss_of(gate, trace, torch.zeros_like(advantage), weight=0.1).total.backward()
    assert gate.log_std.grad is not None
    assert float(gate.log_std.grad) < 0  # descent makes it larger


def test_the_spread_of_the_gate_is_shown() -> None:
    loss = loss_of(*sampled())
    assert float(loss.shown["std"]) == pytest.approx(math.exp(GATE.initial_log_std))


def test_a_number_that_is_not_finite_shows_in_its_row_alone() -> None:
    gate, trace, advantage = sampled()
    trace.deviation[5, 2, 0] = torch.nan
    finite = torch.isfinite(loss_of(gate, trace, advantage).ratio).all(dim=(1, 2))
    assert finite.tolist() == [row != 5 for row in range(8)]
