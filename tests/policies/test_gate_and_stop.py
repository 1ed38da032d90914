"""Gate and stop: both heads, the end of a walk on a frozen memory, and what the learner is told of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli

from policies.backbones.door import EVERYTHING, Want
from policies.backbones.flow import euler_update, shifted_grid
from policies.backbones.tiny.model import FrozenContext, FrozenWorldActionModel
from policies.catalogue import build_schedule
from policies.hazard import stop_probability
from policies.schedules.gate_and_stop import (
    GateAndStopCourse,
    GateAndStopPolicy,
    GateAndStopSchedule,
    GateAndStopSettings,
    GateAndStopTrace,
)
from policies.walk import replay, walk
from policies.walk_record import WalkRecord
from tests.analytic import SPEC
from tests.policies.points import action_flow, decode, point_at, start_of, video_forward
from tests.policies.small_wam import small_wam
from tests.policies.test_wam import context_of
from tests.policies.traces import padded, together_and_alone, trace_of

STEPS = 6
pytestmark = pytest.mark.filterwarnings("ignore:.*different noise levels:RuntimeWarning")


@pytest.fixture(scope="module", params=["future_latents", "all_keys"])
def wam(request: pytest.FixtureRequest) -> FrozenWorldActionModel:
    return small_wam(request.param)


@pytest.fixture(scope="module")
def context(wam: FrozenWorldActionModel) -> FrozenContext:
    return context_of(wam).select(torch.tensor([0, 1, 2, 0, 1, 2]))


def untrained(wam: FrozenWorldActionModel, **changes: object) -> GateAndStopSchedule:
    own = GateAndStopSettings(**{"steps": STEPS, "channels": [8, 8], "width": 16, **changes})
    return GateAndStopSchedule(GateAndStopPolicy(**GateAndStopPolicy.dimensions_of(wam.spec), settings=own), own)


def opinionated(wam: FrozenWorldActionModel, **changes: object) -> GateAndStopSchedule:
    """Scales that differ between frames, steps and rows, and stops that make a batch ragged."""
    torch.manual_seed(4)
    schedule = untrained(wam, **{"initial_stop_bias": -1.0, **changes})
    torch.nn.init.normal_(schedule.policy.gate.mean.weight, std=1.0)
    torch.nn.init.normal_(schedule.policy.stop_head.weight, std=0.5)
    return schedule


def sampled(wam: FrozenWorldActionModel, context: FrozenContext, schedule: GateAndStopSchedule) -> list[WalkRecord]:
    """Walks of different lengths, some of which are never stopped."""
    records = walk(wam, context, schedule, range(6), range(20, 26), deterministic=False).records
    assert len({record.updates for record in records}) > 2
    assert {record.forced for record in records} == {False, True}
    return records


@pytest.mark.parametrize("steps", [4, 10])
def test_untrained_and_deployed_it_is_the_shared_schedule(
    wam: FrozenWorldActionModel, context: FrozenContext, steps: int
) -> None:
    own = untrained(wam, steps=steps)
    ours = walk(wam, context, own, range(6))
    shared = walk(wam, context, build_schedule(f"joint-{steps}", wam.spec, own.settings), range(6))
    np.testing.assert_array_equal(ours.actions, shared.actions)
    assert ours.forwards.tolist() == shared.forwards.tolist() == [steps] * 6
    for one, other in zip(ours.records, shared.records, strict=True):
        np.testing.assert_array_equal(one.sigma_video, other.sigma_video)
        np.testing.assert_array_equal(one.sigma_action, other.sigma_action)
        assert one.forced
        assert other.forced


@torch.no_grad()
@pytest.mark.parametrize("least", [1, 3, STEPS - 1])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_stopped_action_goes_on_alone_with_the_memory_of_the_deciding_forward(
    wam: FrozenWorldActionModel,
    context: FrozenContext,
    least: int,
    deterministic: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop written out. A stop at the last step would change nothing, so that there it is never asked for."""
    schedule = untrained(wam, initial_stop_bias=30.0, min_updates=least, initial_log_std=-3.0)
    original, runs = wam.model.action.forward, []
    monkeypatch.setattr(wam.model.action, "forward", lambda *given: (runs.append(len(given[0])), original(*given))[1])
    batch = walk(wam, context, schedule, range(6), deterministic=deterministic)
    assert runs == [6] * (STEPS if least == STEPS - 1 else STEPS + 1)
    video, action = shifted_grid(STEPS, wam.spec.video_shift), shifted_grid(STEPS, schedule.settings.action_shift)
    for row, record in enumerate(batch.records):
        assert (record.updates, record.forwards) == ((STEPS, STEPS) if least == STEPS - 1 else (least, least + 1))
        assert record.forced == (least == STEPS - 1)
        np.testing.assert_array_equal(record.sigma_action, action[: record.updates + 1])
        np.testing.assert_array_equal(record.action_grid, action)
        if deterministic:
            np.testing.assert_allclose(record.sigma_video, video[: record.updates + 1, None].repeat(1, 2), atol=1e-6)
        one = context.select(torch.tensor([row]))
        x, actions = wam.initial_noise(one, [row])
        levels = torch.from_numpy(record.sigma_video)
        for step in range(record.updates):
            output = video_forward(wam, one, x, levels[step : step + 1])
            flow = action_flow(wam, one, output.memory, actions, action[step : step + 1])
            actions = actions + (action[step + 1] - action[step]) * flow
            x = euler_update(x, output.video_flow, levels[step : step + 1], levels[step + 1 : step + 2], 1)
        np.testing.assert_allclose(record.latents, x[0].numpy(), rtol=1e-2, atol=1e-2)
        memory = video_forward(wam, one, x, levels[-1:]).memory
        chunk = decode(wam, one, memory, actions, action[record.updates :])
        np.testing.assert_allclose(record.actions, chunk[0], rtol=0, atol=1e-4)


@settings(max_examples=4)
@given(st.permutations(range(6)), st.booleans())
def test_a_row_does_not_depend_on_its_batch(
    wam: FrozenWorldActionModel, context: FrozenContext, order: list[int], deterministic: bool
) -> None:
    """Not even where other rows stop before it: each has a stream of random numbers of its own."""
    for record, alone in together_and_alone(wam, context, opinionated(wam), order, deterministic):
        assert (record.updates, record.forwards, record.forced) == (alone.updates, alone.forwards, alone.forced)
        np.testing.assert_allclose(record.sigma_video, alone.sigma_video, atol=1e-5)
        np.testing.assert_array_equal(record.sigma_action, alone.sigma_action)
        np.testing.assert_allclose(record.actions, alone.actions, atol=1e-3)
        together, single = (trace_of(one, GateAndStopTrace) for one in (record, alone))
        for name in ("u", "pooled", "stop_log_prob"):
            torch.testing.assert_close(getattr(together, name), getattr(single, name), rtol=0, atol=1e-3)
        for name in ("stop", "stop_free", "free"):
            assert torch.equal(getattr(together, name), getattr(single, name))


def test_walks_of_one_noise_differ_by_their_decisions_alone(
    wam: FrozenWorldActionModel, context: FrozenContext
) -> None:
    schedule, rows = opinionated(wam), context.select(torch.zeros(6, dtype=torch.int64))
    one, two = (
        walk(wam, rows, schedule, [1] * 6, seeds, deterministic=False) for seeds in (range(6), [0, 1, 2, 3, 4, 50])
    )
    assert len(set(one.updates.tolist())) > 1
    assert len(np.unique(one.actions[:, 0, 0])) == 6
    np.testing.assert_array_equal(one.actions[:5], two.actions[:5])
    assert not np.allclose(one.actions[5], two.actions[5])
    deployed = walk(wam, rows, schedule, [1] * 6, range(6))
    np.testing.assert_allclose(deployed.actions, deployed.actions[:1].repeat(6, axis=0), atol=1e-5)


@pytest.mark.parametrize("persistence", [0.0, 0.6])
def test_the_policy_that_drew_is_the_policy_that_is_evaluated(
    wam: FrozenWorldActionModel, context: FrozenContext, persistence: float
) -> None:
    schedule = opinionated(wam, persistence=persistence)
    evaluation = schedule.policy.evaluate(padded(sampled(wam, context, schedule), GateAndStopTrace))
    free = evaluation.free
    torch.testing.assert_close(evaluation.log_prob[free], evaluation.log_prob_then[free], rtol=1e-5, atol=1e-5)
    shapes = {tuple(getattr(evaluation, name).shape) for name in ("log_prob", "log_prob_then", "entropy", "divergence")}
    assert shapes == {tuple(free.shape)}
    assert free.shape[-1] == wam.spec.future_frames + 1 == len(evaluation.weight)
    assert (evaluation.weight == 1).all()
    assert (evaluation.log_prob[..., -1][~free[..., -1]] == 0).all()
    assert (evaluation.log_prob_then[..., -1][~free[..., -1]] == 0).all()


@pytest.mark.parametrize("least", [1, 2])
def test_choices_that_change_nothing_are_not_free(
    wam: FrozenWorldActionModel, context: FrozenContext, least: int
) -> None:
    schedule = opinionated(wam, min_updates=least)
    records = sampled(wam, context, schedule)
    free = schedule.policy.evaluate(padded(records, GateAndStopTrace)).free
    assert free.shape[:2] == (6, STEPS)
    for row, record in enumerate(records):
        trace = trace_of(record, GateAndStopTrace)
        decisions = torch.arange(len(trace))
        assert len(trace) == record.forwards == record.updates + (not record.forced)
        assert trace.stop[:-1].sum() == 0
        assert trace.stop[-1] == (not record.forced)
        moves = (trace.sigma > 0) & ((decisions < STEPS - 1) & ~trace.stop)[:, None]
        assert torch.equal(trace.free, moves)
        assert torch.equal(trace.stop_free, (decisions >= least) & (decisions < STEPS - 1))
        assert torch.equal(trace.drawn, moves.any(-1) | trace.stop_free)
        assert torch.equal(free[row, : len(trace)], torch.cat([trace.free, trace.stop_free[:, None]], dim=-1))
        assert not free[row, len(trace) :].any()
        np.testing.assert_array_equal(trace.sigma, record.sigma_video[: len(trace)])


def test_what_was_drawn_has_the_probability_of_a_coin(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    schedule = opinionated(wam)
    for record in sampled(wam, context, schedule):
        trace = trace_of(record, GateAndStopTrace)
        with torch.no_grad():
            coin = Bernoulli(probs=stop_probability(schedule.policy.hazard(trace.pooled, trace.sigma)))
        expected = torch.where(trace.stop_free, coin.log_prob(trace.stop.float()), 0.0)
        torch.testing.assert_close(trace.stop_log_prob, expected, rtol=1e-4, atol=1e-5)


def test_records_replay_to_the_same_actions(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    records = sampled(wam, context, opinionated(wam))
    again = replay(wam, context, [replace(record, trace=None) for record in records])
    np.testing.assert_allclose(again.actions, np.stack([record.actions for record in records]), atol=1e-5)
    for record, other in zip(records, again.records, strict=True):
        np.testing.assert_array_equal(record.sigma_video, other.sigma_video)
        np.testing.assert_array_equal(record.sigma_action, other.sigma_action)
        asked = not record.forced and wam.spec.memory_needs_forward
        assert other.forwards == record.updates + asked


@pytest.mark.parametrize("part", ["log_prob", "entropy", "divergence"])
def test_gradients_reach_both_heads(wam: FrozenWorldActionModel, context: FrozenContext, part: str) -> None:
    schedule = opinionated(wam)
    trace = padded(sampled(wam, context, schedule), GateAndStopTrace)
    with torch.no_grad():
        schedule.policy.gate.log_std -= 0.3  # away from the reference, where the divergence has no slope
    evaluation = schedule.policy.evaluate(trace)
    torch.where(evaluation.free, getattr(evaluation, part), 0.0).square().sum().backward()
    silent = {
        name
        for name, parameter in schedule.policy.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    }
    # A shift of all scores of a softmax changes nothing.
    assert all(name.endswith("score.bias") for name in silent)
    assert all(p.grad.isfinite().all() for p in schedule.policy.parameters() if p.grad is not None)


def test_a_choice_is_evaluated_by_its_own_head(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    schedule = opinionated(wam)
    trace = padded(sampled(wam, context, schedule), GateAndStopTrace)
    schedule.policy.evaluate(trace).log_prob[..., -1].sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in schedule.policy.gate.parameters())
    assert schedule.policy.stop_head.weight.grad.any()


def test_its_charts_show_the_scales_that_mattered_and_the_stops_that_were_free(
    wam: FrozenWorldActionModel, context: FrozenContext
) -> None:
    schedule = opinionated(wam)
    traces = [trace_of(record, GateAndStopTrace) for record in sampled(wam, context, schedule)]
    shown = schedule.policy.describe(traces)
    stopped, asked = sum(int(one.stop.sum()) for one in traces), sum(int(one.stop_free.sum()) for one in traces)
    assert shown["policy/stop_rate"] == pytest.approx(stopped / asked)
    u = torch.cat([one.u[one.free] for one in traces])
    scales = 1 + schedule.settings.scale_bound * torch.tanh(u.double())
    assert shown["policy/scale_mean"] == pytest.approx(float(scales.mean()))
    assert shown["policy/scale_std"] == pytest.approx(float(scales.std(correction=0)))
    nothing = replace(traces[0], free=traces[0].free & False, stop_free=traces[0].stop_free & False)
    assert all(np.isnan(value) for value in schedule.policy.describe([nothing]).values())


def course_of(deterministic: bool, rows: int, **changes: object) -> GateAndStopCourse:
    own = GateAndStopSettings(**{"steps": STEPS, "channels": [8, 8], "width": 16, **changes})
    policy = GateAndStopPolicy(**GateAndStopPolicy.dimensions_of(SPEC), settings=own)
    course = GateAndStopSchedule(policy, own).start(start_of(SPEC, range(rows), deterministic))
    assert isinstance(course, GateAndStopCourse)
    return course


@torch.no_grad()
def test_deployment_stops_when_the_cumulative_probability_passes_the_threshold() -> None:
    """dH = log 2 at every decision that may stop: F = 0, 1/2, 3/4, 7/8."""
    course = course_of(True, 1, initial_stop_bias=0.0)
    point, pooled = point_at(SPEC, torch.tensor([0.9])), torch.zeros(1, SPEC.feature_dim)
    stops = [bool(course.decide(torch.arange(1), point, pooled, updates).stop) for updates in range(4)]
    assert stops == [False, False, False, True]


@torch.no_grad()
def test_sampled_stops_follow_their_probability_and_are_independent_of_the_scales() -> None:
    rows = 4000
    course = course_of(False, rows, initial_stop_bias=-1.0)
    point, pooled = point_at(SPEC, torch.full((rows,), 0.5)), torch.zeros(rows, SPEC.feature_dim)
    first, second = (course.decide(torch.arange(rows), point, pooled, updates) for updates in (1, 2))
    expected = 1 - np.exp(-np.log1p(np.exp(-1.0)))
    for decision in (first, second):
        assert float(decision.stop.float().mean()) == pytest.approx(expected, abs=0.025)
    assert isinstance(first.trace, GateAndStopTrace)
    columns = torch.stack([first.stop.float(), second.stop.float(), *first.trace.u.T])
    assert float((torch.corrcoef(columns) - torch.eye(4)).abs().max()) < 0.06


def test_a_backbone_that_does_not_fit_is_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"gate-and-stop.*feature_dim 16, the backbone has 17"):
        build_schedule("gate-and-stop", SPEC).check(replace(SPEC, feature_dim=17))
    with pytest.raises(ValueError, match=r"gate-and-stop.*future_frames 2, the backbone has 3"):
        build_schedule("gate-and-stop", SPEC).check(replace(SPEC, latent_frames=4))
    for want in GateAndStopCourse.wants:
        with pytest.raises(ValueError, match=rf"gate-and-stop.* needs {str(want.name).lower()}, .*analytic"):
            build_schedule("gate-and-stop", SPEC).check(replace(SPEC, gives=EVERYTHING & ~want))
    assert GateAndStopCourse.wants == EVERYTHING == Want.VIDEO_FLOW | Want.ACTION_FLOW | Want.MEMORY | Want.POOLED
    with pytest.warns(RuntimeWarning, match=r"gate-and-stop.*analytic"):
        build_schedule("gate-and-stop", SPEC).check(SPEC)
