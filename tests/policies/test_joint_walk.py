"""The joint walk: video and action together, a noise level for each future frame."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.backbones.door import Point, Want
from policies.backbones.flow import shifted_grid
from policies.backbones.tiny.model import FrozenContext, FrozenWorldActionModel
from policies.catalogue import build_schedule
from policies.schedule import Course, Decision, WalkStart
from policies.schedules.noisegate import GateTrace, GatingPolicy, NoiseGateSchedule, NoiseGateSettings, episode_log_prob
from policies.walk import replay, walk
from tests.analytic import SPEC, AnalyticWAM, make_segments
from tests.policies.points import action_flow, memory_at, video_forward
from tests.policies.small_wam import small_wam
from tests.policies.test_wam import context_of as encode
from tests.policies.traces import padded, together_and_alone, trace_of

READS = ("future_latents", "all_keys")
STEPS, BOUND, ACTION_SHIFT = 5, 0.5, 3.0
pytestmark = pytest.mark.filterwarnings("ignore:.*different noise levels:RuntimeWarning")


@pytest.fixture(scope="module", params=READS)
def wam(request: pytest.FixtureRequest) -> FrozenWorldActionModel:
    return small_wam(request.param)


@pytest.fixture(scope="module")
def context(wam: FrozenWorldActionModel) -> FrozenContext:
    return encode(wam)


def opinionated(wam: FrozenWorldActionModel, persistence: float = 0.0) -> NoiseGateSchedule:
    """A gate whose scales differ between frames, steps and rows."""
    torch.manual_seed(2)
    settings = NoiseGateSettings(steps=STEPS, scale_bound=BOUND, action_shift=ACTION_SHIFT, persistence=persistence)
    policy = GatingPolicy(**GatingPolicy.dimensions_of(wam.spec), settings=settings)
    torch.nn.init.normal_(policy.mean.weight, std=1.0)
    return NoiseGateSchedule(policy, settings)


@torch.no_grad()
def test_it_is_the_loop_of_the_paper(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    """Algorithm 1 written out, one row at a time, with the recorded scales."""
    records = walk(wam, context, opinionated(wam), [1, 2, 3], deterministic=False).records
    video_grid, action_grid = shifted_grid(STEPS, wam.spec.video_shift), shifted_grid(STEPS, ACTION_SHIFT)
    for row, record in enumerate(records):
        one = context.select(torch.tensor([row]))
        x, actions = wam.initial_noise(one, [row + 1])
        sigma = torch.ones(1, 2)
        for step, (level, level_next) in enumerate(pairwise(action_grid)):
            np.testing.assert_allclose(record.sigma_video[step], sigma[0], atol=1e-6)
            output = video_forward(wam, one, x, sigma)
            memory = memory_at(wam, one, x, sigma)
            actions = actions + (level_next - level) * action_flow(wam, one, memory, actions, level[None])
            scale = 1 + BOUND * torch.tanh(trace_of(record, GateTrace).u[step])
            sigma_next = (sigma - scale * (video_grid[step] - video_grid[step + 1])).clamp(0, 1)
            for frame in (0, 1):
                x[:, :, 1 + frame] += (sigma_next - sigma)[0, frame] * output.video_flow[:, :, 1 + frame]
            sigma = sigma_next
        np.testing.assert_allclose(record.sigma_video[STEPS], sigma[0], atol=1e-6)
        np.testing.assert_allclose(record.actions, wam.finish_actions(one, actions)[0], atol=1e-4)


@settings(max_examples=4)
@given(st.permutations(range(3)), st.booleans())
def test_a_row_does_not_depend_on_its_batch(
    wam: FrozenWorldActionModel, context: FrozenContext, order: list[int], deterministic: bool
) -> None:
    for record, alone in together_and_alone(wam, context, opinionated(wam), order, deterministic):
        np.testing.assert_allclose(record.sigma_video, alone.sigma_video, atol=1e-5)
        np.testing.assert_allclose(record.actions, alone.actions, atol=1e-3)
        torch.testing.assert_close(trace_of(record, GateTrace).u, trace_of(alone, GateTrace).u, rtol=0, atol=1e-3)


@pytest.mark.parametrize("persistence", [0.0, 0.6])
def test_stored_log_probabilities_are_those_recomputed(
    wam: FrozenWorldActionModel, context: FrozenContext, persistence: float
) -> None:
    schedule = opinionated(wam, persistence)
    records = walk(wam, context, schedule, [1, 2, 3], deterministic=False).records
    trace = padded(records, GateTrace)
    output = schedule.policy(trace.latents.float(), trace.sigma)
    given = (trace.u, trace.free, BOUND, persistence)
    stored = episode_log_prob(trace.deviation, trace.log_std[..., None], *given)
    recomputed = episode_log_prob((trace.u - output.mean) / output.log_std.exp(), output.log_std, *given)
    torch.testing.assert_close(recomputed, stored, rtol=1e-3, atol=1e-4)
    assert recomputed.requires_grad
    evaluation = schedule.policy.evaluate(trace)
    assert torch.equal(evaluation.free, trace.free)
    torch.testing.assert_close(evaluation.log_prob, torch.where(trace.free, recomputed, 0.0))
    torch.testing.assert_close(evaluation.log_prob_then, torch.where(trace.free, stored, 0.0))


def test_the_trace_is_small_and_tells_what_was_decided(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    record = walk(wam, context, opinionated(wam), [1, 2, 3], deterministic=False).records[0]
    trace = trace_of(record, GateTrace)
    assert {name: (values.dtype, tuple(values.shape)) for name, values in trace.columns().items()} == {
        "latents": (torch.float16, (STEPS, 48, 3, 6, 4)),
        "sigma": (torch.float32, (STEPS, 2)),
        "free": (torch.bool, (STEPS, 2)),
        "u": (torch.float32, (STEPS, 2)),
        "deviation": (torch.float32, (STEPS, 2)),
        "log_std": (torch.float32, (STEPS,)),
    }
    assert len(trace) == STEPS
    assert torch.equal(trace.drawn, trace.free.any(-1))
    assert (record.sigma_video.shape, record.sigma_video.dtype) == ((STEPS + 1, 2), np.float32)
    assert record.updates == record.forwards == STEPS
    np.testing.assert_array_equal(trace.free, (trace.sigma.numpy() > 0) & (np.arange(STEPS) < STEPS - 1)[:, None])
    np.testing.assert_array_equal(trace.sigma, record.sigma_video[:-1])
    assert record.depth == pytest.approx(1 - record.sigma_video[-2].mean()), "the last forward is before the last step"
    np.testing.assert_array_equal(record.sigma_action, shifted_grid(STEPS, ACTION_SHIFT))
    observed = context.observed[0, :, 0].half().numpy()
    np.testing.assert_array_equal(trace.latents[:, :, 0], np.broadcast_to(observed, (STEPS, *observed.shape)))


def test_evaluation_takes_the_mean_and_training_draws(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    schedule = opinionated(wam)
    quiet, again = (walk(wam, context, schedule, [1, 2, 3], seeds) for seeds in ([4, 5, 6], [7, 8, 9]))
    np.testing.assert_array_equal(quiet.actions, again.actions)
    with torch.no_grad():
        trace = padded(quiet.records, GateTrace)
        output = schedule.policy(trace.latents.float(), trace.sigma)
    torch.testing.assert_close(trace.u, output.mean, rtol=1e-4, atol=1e-5)
    one, two = (walk(wam, context, schedule, [1, 1, 1], seeds, deterministic=False) for seeds in ([4, 5, 6], [4, 5, 7]))
    first, second = (trace_of(record, GateTrace).u for record in one.records[:2])
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(one.records[1].sigma_video, two.records[1].sigma_video)
    assert not np.allclose(one.records[2].sigma_video, two.records[2].sigma_video)


def test_an_untrained_gate_is_the_shared_schedule(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    gate, shared = (walk(wam, context, build_schedule(name, wam.spec), [1, 2, 3]) for name in ("noisegate", "joint-10"))
    np.testing.assert_allclose(gate.records[0].sigma_video, shared.records[0].sigma_video, atol=1e-6)
    np.testing.assert_allclose(gate.actions, shared.actions, atol=1e-4)


def test_each_step_is_one_video_and_one_action_forward(
    wam: FrozenWorldActionModel, context: FrozenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(part: object, name: str) -> None:
        original = getattr(part, name)
        monkeypatch.setattr(part, name, lambda *arguments: (calls.append(name), original(*arguments))[1])

    counted(wam, "forward")
    counted(wam.model, "imagine")
    counted(wam.model.action, "forward")
    batch = walk(wam, context, build_schedule("joint-4", wam.spec), [1, 2, 3])
    assert calls == ["forward", "imagine", "forward"] * 4
    assert batch.forwards.tolist() == batch.updates.tolist() == [4, 4, 4]


def test_a_saved_walk_replays_to_the_same_actions(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    batch = walk(wam, context, opinionated(wam), [1, 2, 3], deterministic=False)
    restored = [replace(record, trace=None) for record in batch.records]
    np.testing.assert_allclose(replay(wam, context, restored).actions, batch.actions, atol=1e-5)


def test_a_grid_of_one_cell_and_a_backbone_that_is_no_network_will_do() -> None:
    wam, segments = AnalyticWAM(), make_segments(4)
    context = wam.observe([s.observation for s in segments], [s.instruction for s in segments])
    schedule = build_schedule("noisegate", SPEC, NoiseGateSettings(steps=3))
    batch = walk(wam, context, schedule, range(4), deterministic=False)
    assert wam.forward_rows == 3 * 4 == batch.forwards.sum()
    assert np.isfinite(batch.actions).all()


def test_levels_that_are_not_finite_name_their_rows(wam: FrozenWorldActionModel, context: FrozenContext) -> None:
    class BrokenCourse(Course):
        wants = Want.VIDEO_FLOW | Want.ACTION_FLOW

        def ended(self, rows: torch.Tensor, point: Point, updates: int) -> torch.Tensor:
            return point.sigma_action <= 0

        def decide(self, rows: torch.Tensor, point: Point, pooled: torch.Tensor, updates: int) -> Decision:
            levels = point.sigma_video / 2
            levels[1] = torch.nan
            action = self.action_grid[updates + 1].expand(len(rows))
            return Decision(levels, action, torch.zeros_like(rows, dtype=torch.bool))

    class Broken:
        name = "broken"

        def check(self, spec: object) -> None: ...

        def start(self, start: WalkStart) -> Course:
            return BrokenCourse(torch.tensor([1.0, 0.5, 0.0]))

    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        walk(wam, context, Broken(), [1, 2, 3])
