"""Path PPO: ratios, clipping, divergences, baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from policies.hazard import stop_probability
from policies.learning import Evaluation
from policies.schedules.sants import (
    SantsOutput,
    SantsPolicy,
    SantsSchedule,
    SantsSettings,
    SantsTrace,
    beta_of_mode,
)
from policies.walk import walk
from rl.experience.rollouts import Rollouts
from rl.objective import Clock, Loss, clipped_surrogate, log_ratios, masked_mean
from rl.objectives.path_ppo import PathPPO, PathPPOConfig, advance_baseline, leave_one_out, reference_kl_weight
from tests.analytic import SPEC, AnalyticWAM, make_segments

CONFIG = PathPPOConfig()
PATHS = 12


def network_of(settings: SantsSettings) -> SantsPolicy:
    return SantsPolicy(SPEC.feature_dim, SPEC.reference_updates, SPEC.video_shift, settings)


def sampled_paths(advantage: float = 1.0, padding: int = 0) -> tuple[SantsPolicy, SantsTrace, Tensor]:
    """Paths of the initial policy and their advantages, padded to the longest and `padding` decisions more."""
    torch.manual_seed(0)
    settings = SantsSettings()
    network, wam, segments = network_of(settings), AnalyticWAM(), make_segments(PATHS)
    context = wam.observe([s.observation for s in segments], [s.instruction for s in segments])
    records = walk(wam, context, SantsSchedule(network, settings), range(PATHS), deterministic=False).records
    traces = [record.trace for record in records if isinstance(record.trace, SantsTrace)]
    trace = SantsTrace.join(traces).padded([len(trace) for trace in traces])

    def pad(values: Tensor) -> Tensor:
        return torch.cat([values, torch.zeros_like(values[:, :1]).repeat_interleave(padding, dim=1)], dim=1)

    wide = trace.map(pad)
    return network, wide, torch.full(wide.sigma.shape, advantage)


def path_ppo_loss(network: SantsPolicy, trace: SantsTrace, advantage: Tensor, kl_weight: float) -> Loss:
    config = PathPPOConfig(reference_kl_start=kl_weight, reference_kl_end=kl_weight)
    return PathPPO(config).loss(network.evaluate(trace), advantage, Clock(0, 1))


def divergence_of(evaluation: Evaluation, choice: int) -> float:
    """The mean over free choices."""
    return float(masked_mean(evaluation.divergence[..., choice], evaluation.free[..., choice]).detach())


def test_before_any_update_every_ratio_is_one() -> None:
    loss = path_ppo_loss(*sampled_paths(), 0.0)
    torch.testing.assert_close(loss.ratio, torch.ones(PATHS), rtol=1e-3, atol=1e-3)
    assert float(loss.policy) == pytest.approx(-1.0, abs=1e-3)
    assert float(loss.approximate_kl) == pytest.approx(0.0, abs=1e-4)
    assert float(loss.clip_fraction) == 0


def test_padding_changes_neither_loss_nor_gradient() -> None:
    results = []
    for padding in (0, 7):
        network, trace, advantage = sampled_paths(padding=padding)
        loss = path_ppo_loss(network, trace, advantage, 0.01)
        loss.total.backward()
        results.append([loss.total.detach(), *(parameter.grad for parameter in network.parameters())])
    for one, two in zip(*results, strict=True):
        assert one is not None
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
        assert torch.isfinite(one).all()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_an_update_moves_path_probabilities_with_the_advantage(advantage: float) -> None:
    network, trace, advantages = sampled_paths(advantage)
    advantages[6:] = -advantage
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    path_ppo_loss(network, trace, advantages, 0.0).total.backward()
    optimizer.step()
    shift = path_ppo_loss(network, trace, advantages, 0.0).ratio.log()
    assert float((shift * advantages[:, 0]).mean()) > 0


def test_jumps_are_scaled_in_the_path_probability() -> None:
    network, trace, advantage = sampled_paths()
    evaluation = network.evaluate(trace)
    assert evaluation.weight.tolist() == pytest.approx([1.0, SantsSettings().jump_log_prob_scale])
    now = torch.tensor([[[-1.0, 0.5], [-2.0, 0.0]]])  # stop and jump of two decisions
    free = torch.ones(now.shape, dtype=torch.bool)
    made_up = replace(evaluation, log_prob=now, log_prob_then=torch.zeros_like(now), free=free)
    log_ratio, _, _ = log_ratios(made_up, advantage[:1, :2], "path")
    assert log_ratio.tolist() == pytest.approx([-3 + 0.3 * 0.5])


@given(st.floats(0.01, 10), st.floats(-5, 5))
def test_the_surrogate_is_pessimistic(ratio: float, advantage: float) -> None:
    value = float(clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2))
    assert value <= ratio * advantage + 1e-5
    assert value <= np.clip(ratio, 0.8, 1.2) * advantage + 1e-5


def test_a_clipped_path_gives_no_gradient() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5], requires_grad=True)
    clipped_surrogate(ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0]


class Scripted(SantsPolicy):
    """Answers what the test says, whatever it is asked."""

    output: SantsOutput
    reference: Tensor

    def forward(self, pooled: Tensor, sigma: Tensor) -> SantsOutput:
        return self.output

    def reference_mode(self, sigma: Tensor) -> Tensor:
        return self.reference


@given(st.floats(0.01, 5.0), st.floats(0.03, 0.97), st.floats(0.03, 0.97), st.floats(3, 150))
def test_divergences_are_those_of_torch_distributions(hazard: float, mode: float, other: float, c: float) -> None:
    network = Scripted(SPEC.feature_dim, SPEC.reference_updates, SPEC.video_shift, SantsSettings())
    output = SantsOutput(*(torch.tensor([[value, 1.0]]) for value in (hazard, mode, c)))
    output.concentration[0, 1] = 5.0
    network.output, network.reference = output, torch.tensor([[other, 0.5]])
    free, none = torch.tensor([[True, False]]), torch.zeros(1, 2)
    pooled = torch.zeros(1, 2, SPEC.feature_dim)
    trace = SantsTrace(pooled, none + 0.5, free, none + 0.5, free, free, none, none)
    evaluation = network.evaluate(trace)
    stop = kl_divergence(Bernoulli(stop_probability(output.hazard[0, :1])), Bernoulli(torch.tensor([0.01])))
    jump = kl_divergence(*(beta_of_mode(torch.tensor([m]), torch.tensor([c])) for m in (mode, other)))
    for choice, expected in enumerate((stop, jump)):
        found = torch.tensor(divergence_of(evaluation, choice))
        torch.testing.assert_close(found, expected[0].float(), rtol=1e-3, atol=1e-4)
    loss = PathPPO(CONFIG).loss(evaluation, none, Clock(0, 1))
    torch.testing.assert_close(loss.reference_kl, (stop[0] + jump[0]).float(), rtol=1e-3, atol=2e-4)


def test_the_pull_to_the_reference_moves_modes_and_leaves_the_spread_alone() -> None:
    """The concentration of a jump is held fixed in its divergence, so that only the mode is pulled."""
    network, trace, _ = sampled_paths()
    torch.nn.init.normal_(network.jump_head.weight)
    evaluation = network.evaluate(trace)
    masked_mean(evaluation.divergence[..., 1], evaluation.free[..., 1]).backward()
    assert network.jump_head.bias.grad is not None
    mode, concentration = network.jump_head.bias.grad.tolist()
    assert mode != 0
    assert concentration == 0


def test_the_initial_policy_is_the_jump_reference_and_close_to_the_stop_reference() -> None:
    network, trace, advantage = sampled_paths()
    stop, jump = (divergence_of(network.evaluate(trace), choice) for choice in (0, 1))
    assert jump == pytest.approx(0.0, abs=1e-5)
    assert 0 < stop < 0.1
    loss = path_ppo_loss(network, trace, advantage, 1.0)
    assert float(loss.reference_kl) == pytest.approx(stop + jump, abs=1e-6)
    assert float(loss.total.detach()) == pytest.approx(float(loss.policy) + stop + jump, abs=1e-5)


def test_without_free_decisions_nothing_is_divided_by_zero() -> None:
    network, trace, advantage = sampled_paths()
    none = torch.zeros_like(trace.stop_free)
    forced = replace(trace, stop_free=none, jump_free=none)
    assert [divergence_of(network.evaluate(forced), choice) for choice in (0, 1)] == [0, 0]
    loss = path_ppo_loss(network, forced, advantage, 0.01)
    assert float(loss.reference_kl) == 0
    assert torch.isfinite(loss.total)


def test_the_divergence_weight_decays_linearly() -> None:
    assert [reference_kl_weight(p, CONFIG) for p in (0, 0.5, 1, 2)] == pytest.approx([0.01, 0.0055, 0.001, 0.001])


def test_the_loss_takes_the_divergence_weight_of_its_iteration() -> None:
    network, trace, advantage = sampled_paths()
    evaluation = network.evaluate(trace)
    for iteration, weight in ((0, 0.01), (2, 0.0055), (4, 0.001)):
        loss = PathPPO(CONFIG).loss(evaluation, advantage, Clock(iteration, 4))
        expected = float(loss.policy) + weight * float(loss.reference_kl)
        assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-6)


def test_the_baseline_is_a_moving_average_of_single_paths() -> None:
    assert advance_baseline(None, np.array([1.0, 3.0]), 0.5) == pytest.approx(0.5 * (0.5 * 2 + 0.5) + 1.5)
    assert advance_baseline(10.0, np.array([0.0]), 0.99) == pytest.approx(9.9)
    with pytest.raises(ValueError, match="no returns"):
        advance_baseline(1.0, np.array([]), 0.99)


def test_advantages_are_against_the_average_before_this_batch_or_against_the_others() -> None:
    rollouts = Rollouts.empty(["a", "b", "c"], [(1, 5), (1, 5), (2, 5)], "completed")
    returns = [np.array([[1.0], [2.0], [6.0]]), np.array([[0.0], [0.0], [3.0]])]
    average = PathPPO(PathPPOConfig(baseline_decay=0.5))
    first, second = (average.advantages(rollouts, values) for values in returns)
    assert first[:, 0].tolist() == [-2, -1, 3]  # the first batch starts the average at its mean
    after_first = advance_baseline(None, returns[0], 0.5)
    assert second[:, 0].tolist() == pytest.approx([-after_first, -after_first, 3 - after_first])
    assert average.baseline == pytest.approx(advance_baseline(after_first, returns[1], 0.5))
    others = PathPPO(PathPPOConfig(baseline="others"))
    assert others.advantages(rollouts, returns[0])[:, 0].tolist() == [-1, 1, 0]
    assert others.baseline is not None  # it moves on, and is shown, whatever the comparison is


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), min_size=1, max_size=12))
def test_a_path_is_compared_with_the_others_of_its_segment(paths: list[tuple[int, float]]) -> None:
    groups, returns = [group for group, _ in paths], np.array([[value] for _, value in paths])
    compared = leave_one_out(returns, groups)
    for row, group in enumerate(groups):
        others = [value for other, (own, value) in enumerate(paths) if own == group and other != row]
        assert compared[row] == pytest.approx(np.mean(others) if others else returns[row], abs=1e-9)
