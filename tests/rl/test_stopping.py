"""Every possible stop of a path, weighted by its probability, in place of a stop that is drawn."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from configs.schema import ActionErrorConfig
from policies.backbones.door import FrozenWAM
from policies.learning import LearnedSchedule
from policies.schedules.gate_and_stop import GateAndStopPolicy, GateAndStopSchedule, GateAndStopSettings
from policies.schedules.sants import SantsPolicy, SantsSchedule, SantsSettings
from policies.trace import StoppableTrace
from policies.walk import walk
from rl.experience.paths import PathSampler
from rl.experience.records import PathTask
from rl.experience.rollouts import Rollouts, concatenate
from rl.experience.stopping import over_stops
from rl.method import choose, method_problems
from rl.objective import Clock
from rl.objectives.path_ppo import PathPPO, PathPPOConfig
from rl.reward import Rewards
from rl.rewards.cost import CostConfig
from tests.analytic import ROBOT, SPEC, AnalyticWAM, make_segments

SEGMENTS = make_segments(6)
COST = Rewards({"cost": CostConfig(divided_by=1, weight=0.1, ramp_fraction=0)}, SPEC)


def sants(name: str = "sants", seed: int = 0) -> SantsSchedule:
    """A schedule that stops often, with random weights in its heads."""
    torch.manual_seed(seed)
    settings = SantsSettings(name=name, initial_stop_bias=-0.5, untrained_updates=5, max_decisions=7)
    policy = SantsPolicy(SPEC.feature_dim, SPEC.reference_updates, SPEC.video_shift, settings)
    for head in (policy.stop_head, policy.jump_head):
        torch.nn.init.normal_(head.weight, std=0.3)
    return SantsSchedule(policy, settings)


def gate_and_stop() -> GateAndStopSchedule:
    torch.manual_seed(0)
    settings = GateAndStopSettings(initial_stop_bias=-0.5)
    policy = GateAndStopPolicy(**GateAndStopPolicy.dimensions_of(GATED_SPEC), settings=settings)
    return GateAndStopSchedule(policy, settings)


GATED_SPEC = replace(SPEC, per_frame_sigma_trained=True)


def tasks(paths: int, seed: int = 0) -> list[PathTask]:
    return [
        PathTask(row, 100 + row, 1000 * seed + 10 * row + path) for row in range(len(SEGMENTS)) for path in range(paths)
    ]


def sampled(schedule: LearnedSchedule, prefixes: bool, paths: int = 2, seed: int = 0) -> Rollouts:
    sampler = PathSampler(AnalyticWAM(), ActionErrorConfig(), ROBOT)
    found, _, failures = sampler.sample(SEGMENTS, tasks(paths, seed), (), schedule, False, prefixes)
    assert failures == []
    return found


@pytest.mark.parametrize(
    ("wam", "schedule"),
    [(AnalyticWAM(), sants()), (AnalyticWAM(), sants("stop-only")), (AnalyticWAM(GATED_SPEC), gate_and_stop())],
)
def test_a_walk_that_went_on_is_cut_where_one_that_stopped_ended(wam: FrozenWAM, schedule: LearnedSchedule) -> None:
    """The same seeds: trace, actions and updates of the drawn stop are those of the cut, to the bit."""
    context = wam.observe([s.observation for s in SEGMENTS], [s.instruction for s in SEGMENTS])
    seeds = range(len(SEGMENTS))
    stopped = walk(wam, context, schedule, seeds, deterministic=False).records
    went_on = walk(wam, context, schedule, seeds, deterministic=False, prefixes=True).records
    assert any(not record.forced for record in stopped)
    for one, whole in zip(stopped, went_on, strict=True):
        assert isinstance(one.trace, StoppableTrace)
        assert isinstance(whole.trace, StoppableTrace)
        assert whole.prefixes is not None
        assert len(whole.prefixes) == len(whole.trace)
        assert not whole.trace.stop.any()
        if one.forced:
            assert_same(one.trace, whole.trace)
            continue
        assert_same(one.trace, whole.trace.stopped_at(one.updates))
        np.testing.assert_allclose(one.actions, whole.prefixes[one.updates], atol=1e-6)


def assert_same(one: StoppableTrace, other: StoppableTrace) -> None:
    for entry in fields(one):
        torch.testing.assert_close(getattr(one, entry.name), getattr(other, entry.name), msg=entry.name)


@given(seed=st.integers(0, 20))
def test_the_ends_of_a_path_are_all_there_and_their_weights_are_probabilities(seed: int) -> None:
    paths = sampled(sants(seed=seed), prefixes=True, paths=1, seed=seed)
    ends = over_stops(paths)
    assert ends.names == [name for name, length in zip(paths.names, paths.lengths, strict=True) for _ in range(length)]
    for name in set(ends.names):
        rows = [row for row, own in enumerate(ends.names) if own == name]
        own, whole = ends.select(rows), paths.where([other == name for other in paths.names])
        assert own.weights.sum() == pytest.approx(1)
        assert (own.weights > 0).all()
        assert own.updates.tolist() == [*range(1, int(whole.updates[0])), whole.updates[0]]
        assert [len(levels) - 1 for levels in own.levels] == own.updates.tolist()
        np.testing.assert_array_equal(own.errors[:-1], whole.prefix_errors[1:])
        np.testing.assert_array_equal(own.errors[-1], whole.errors[0])
        assert own.forwards[:-1].tolist() == (own.updates[:-1] + 1).tolist()


def gradient(schedule: SantsSchedule, rollouts: Rollouts) -> Tensor:
    """The gradient of the loss by all weights of the policy, when the rollouts score their cost."""
    objective = PathPPO(PathPPOConfig(baseline="others", reference_kl_start=0, reference_kl_end=0))
    advantages = objective.advantages(rollouts, COST.score(rollouts, 1.0).credit)
    assert rollouts.trace is not None
    trace = rollouts.trace.padded(rollouts.lengths.tolist())
    schedule.policy.zero_grad()
    evaluation = schedule.policy.evaluate(trace)  # type: ignore[arg-type]
    objective.loss(evaluation, torch.from_numpy(rollouts.per_decision(advantages)), Clock(0, 1)).total.backward()
    return torch.cat([weights.grad.flatten() for weights in schedule.policy.parameters() if weights.grad is not None])


def test_the_gradient_is_the_expectation_of_the_sampled_one() -> None:
    """Within four standard errors over 60 batches, and with less than half of the noise."""
    schedule = sants()
    exact, drawn = (
        torch.stack(
            [
                gradient(schedule, prepared)
                for seed in range(60)
                for prepared in [prepare(sampled(schedule, every, 4, seed))]
            ]
        )
        for every, prepare in ((True, over_stops), (False, lambda paths: paths))
    )
    error = ((exact.var(0) + drawn.var(0)) / len(exact)).sqrt() + 1e-7
    assert float(((exact.mean(0) - drawn.mean(0)) / error).abs().max()) < 4.5
    cosine = torch.nn.functional.cosine_similarity(exact.mean(0), drawn.mean(0), dim=0)
    assert float(cosine) > 0.98
    assert float(exact.std(0).norm()) < 0.6 * float(drawn.std(0).norm())


def test_a_whole_batch_of_unweighted_paths_is_what_it_was() -> None:
    """Weights of one change nothing: the ends of several paths are told apart by the paths' names."""
    paths = sampled(sants(), prefixes=False)
    objective = PathPPO(PathPPOConfig(baseline="others"))
    returns = np.arange(len(paths), dtype=np.float64)[:, None]
    advantages = objective.advantages(paths, returns)[:, 0]
    np.testing.assert_allclose(advantages, [-1.0, 1.0] * len(SEGMENTS))
    assert objective.minibatch(paths) == min(64, len(paths))


def test_minibatches_hold_as_many_paths_with_all_their_ends() -> None:
    paths = concatenate([sampled(sants(), prefixes=True, seed=seed) for seed in range(3)])
    ends = over_stops(paths)
    share = PathPPO(PathPPOConfig(minibatch_paths=12)).minibatch(ends) / len(ends)
    assert share == pytest.approx(12 / len(paths), abs=1 / len(ends))


def test_a_schedule_that_never_stops_has_no_stops_to_score(tmp_path: Path) -> None:
    settings = choose("noisegate", "segments")
    settings.collector.stops = "all"  # type: ignore[attr-defined]
    problems = {problem.key: problem.message for problem in method_problems(settings)}
    assert "noisegate never stops" in problems["collector.stops"]
    assert "collector.stops" not in {problem.key for problem in method_problems(choose("sants", "segments"))}
