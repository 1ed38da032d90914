"""When the action is handed over: what a hand-over is, what decides it, and what the learner is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli

from configs.fields import section_problems
from policies.backbones.door import EVERYTHING, Point, Want
from policies.backbones.flow import shifted_grid
from policies.backbones.xwam.frozen import FrozenXWAM, XWAMContext
from policies.catalogue import build_schedule
from policies.exported import export_schedule, load_schedule
from policies.grids import GridSchedule, QuerySchedule
from policies.hazard import stop_probability
from policies.imagining import imagine, whole_grid
from policies.schedules.handover import HandoverPolicy, HandoverSchedule, HandoverSettings, HandoverTrace
from policies.walk import replay, walk
from policies.walk_record import WalkRecord
from rl.method import check_backbone, choose, method_problems
from tests.analytic import SPEC
from tests.policies.small_xwam import small_xwam
from tests.policies.test_wam import observations
from tests.policies.traces import padded, together_and_alone, trace_of

STEPS, VIDEO_STEPS = 5, 9
NEVER, ALWAYS = -60.0, 60.0  # biases


@pytest.fixture(scope="module")
def wam() -> FrozenXWAM:
    return small_xwam()


@pytest.fixture(scope="module")
def context(wam: FrozenXWAM) -> XWAMContext:
    seen = wam.observe(observations(3), ["press a bell", "lift the pot", "press the left bell"])
    return seen.select(torch.tensor([0, 1, 2, 0, 1, 2]))


def untrained(wam: FrozenXWAM, **changes: object) -> HandoverSchedule:
    own = HandoverSettings(**{"action_steps": STEPS, "video_steps": VIDEO_STEPS, **changes})
    return HandoverSchedule(HandoverPolicy(**HandoverPolicy.dimensions_of(wam.spec), settings=own), own)


def opinionated(wam: FrozenXWAM, **changes: object) -> HandoverSchedule:
    """It hands over early in one row and late or never in others."""
    torch.manual_seed(3)
    schedule = untrained(wam, **{"initial_bias": -0.5, **changes})
    torch.nn.init.normal_(schedule.policy.head.weight, std=0.5)
    return schedule


def sampled(wam: FrozenXWAM, context: XWAMContext, schedule: HandoverSchedule) -> list[WalkRecord]:
    """Walks of different lengths."""
    records = walk(wam, context, schedule, range(6), range(20, 26), deterministic=False).records
    assert len({record.forwards for record in records}) > 2
    return records


def assert_same_walk(one: WalkRecord, other: WalkRecord) -> None:
    np.testing.assert_array_equal(one.actions, other.actions)
    np.testing.assert_array_equal(one.latents, other.latents)
    np.testing.assert_array_equal(one.sigma_video, other.sigma_video)
    np.testing.assert_array_equal(one.sigma_action, other.sigma_action)
    assert (one.forwards, one.updates, one.depth) == (other.forwards, other.updates, other.depth)


@pytest.mark.parametrize(("steps", "video_steps"), [(5, 9), (10, 50), (4, 4)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_without_a_hand_over_it_is_the_asynchronous_schedule(
    wam: FrozenXWAM, context: XWAMContext, steps: int, video_steps: int, deterministic: bool
) -> None:
    schedule = untrained(wam, initial_bias=NEVER, action_steps=steps, video_steps=video_steps)
    ours = walk(wam, context, schedule, range(6), deterministic=deterministic)
    theirs = walk(wam, context, build_schedule(f"async-{steps}-{video_steps}", wam.spec), range(6))
    assert ours.forwards.tolist() == [steps] * 6
    for one, other in zip(ours.records, theirs.records, strict=True):
        assert_same_walk(one, other)


def test_untrained_and_deployed_it_never_hands_over_early(wam: FrozenXWAM, context: XWAMContext) -> None:
    ours = walk(wam, context, build_schedule("handover", wam.spec), range(6))
    theirs = walk(wam, context, build_schedule("async", wam.spec), range(6))
    np.testing.assert_array_equal(ours.actions, theirs.actions)


@pytest.mark.parametrize("forwards", [1, 3, STEPS - 1])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_constant_hand_over_has_a_name(
    wam: FrozenXWAM, context: XWAMContext, forwards: int, deterministic: bool
) -> None:
    schedule = untrained(wam, initial_bias=ALWAYS, min_forwards=forwards)
    ours = walk(wam, context, schedule, range(6), deterministic=deterministic)
    theirs = walk(wam, context, build_schedule(f"async-{forwards}-of-{STEPS}-{VIDEO_STEPS}", wam.spec), range(6))
    assert ours.forwards.tolist() == [forwards] * 6
    for one, other in zip(ours.records, theirs.records, strict=True):
        assert_same_walk(one, other)


@torch.no_grad()
def test_what_is_handed_over_is_the_clean_action_that_the_last_forward_expects(
    wam: FrozenXWAM, context: XWAMContext
) -> None:
    """The loop written out. The states that go with the actions are clean too, the video takes its usual step."""
    batch = walk(wam, context, untrained(wam, initial_bias=ALWAYS, min_forwards=2), range(6))
    video, action = shifted_grid(VIDEO_STEPS, wam.spec.video_shift), shifted_grid(STEPS, wam.spec.action_shift)
    x, actions = wam.initial_noise(context, range(6))
    for step, level in enumerate((action[1], torch.tensor(0.0))):
        point = Point(x, actions, video[step].expand(6, wam.spec.future_frames), action[step].expand(6))
        output = wam.forward(context, point, Want.VIDEO_FLOW | Want.ACTION_FLOW)
        clean = actions - action[step] * output.action_flow
        actions = actions + (level - action[step]) * output.action_flow
        x = x + (video[step + 1] - video[step]) * output.video_flow
    torch.testing.assert_close(actions, clean)
    torch.testing.assert_close(batch.end.actions, clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.end.x, x, rtol=0, atol=1e-5)
    assert not batch.end.sigma_action.any()
    assert batch.records[0].depth == pytest.approx(1 - float(video[1]))
    imagined = imagine(wam, context, batch.end, VIDEO_STEPS, depth=True)
    assert imagined.forwards == VIDEO_STEPS - 2
    assert imagined.depth is not None


def test_the_future_goes_on_from_different_hand_overs(wam: FrozenXWAM, context: XWAMContext) -> None:
    batch = walk(wam, context, opinionated(wam), range(6), deterministic=False)
    assert len(set(batch.forwards.tolist())) > 1
    imagined = imagine(wam, context, batch.end, VIDEO_STEPS)
    assert imagined.forwards == VIDEO_STEPS - batch.forwards.min()
    assert imagined.latents.isfinite().all()


@settings(max_examples=4)
@given(st.permutations(range(6)), st.booleans())
def test_a_row_does_not_depend_on_its_batch(
    wam: FrozenXWAM, context: XWAMContext, order: list[int], deterministic: bool
) -> None:
    for record, alone in together_and_alone(wam, context, opinionated(wam), order, deterministic):
        assert record.forwards == alone.forwards
        np.testing.assert_array_equal(record.sigma_action, alone.sigma_action)
        np.testing.assert_allclose(record.actions, alone.actions, atol=1e-4)


def test_walks_of_one_noise_differ_by_their_decisions_alone(wam: FrozenXWAM, context: XWAMContext) -> None:
    schedule, rows = untrained(wam, initial_bias=-1.0), context.select(torch.zeros(6, dtype=torch.int64))
    batch = walk(wam, rows, schedule, [1] * 6, range(6), deterministic=False)
    assert 1 < len(set(batch.forwards.tolist())) < 6
    for forwards in set(batch.forwards.tolist()):
        same = batch.actions[batch.forwards == forwards]
        np.testing.assert_allclose(same, same[:1].repeat(len(same), axis=0), atol=1e-5)
    assert len(np.unique(batch.actions[:, 0, 0].round(5))) == len(set(batch.forwards.tolist()))


def test_a_walk_is_replayed_from_its_record(wam: FrozenXWAM, context: XWAMContext) -> None:
    records = sampled(wam, context, opinionated(wam))
    again = replay(wam, context, records)
    np.testing.assert_allclose(again.actions, np.stack([record.actions for record in records]), atol=1e-5)
    assert again.forwards.tolist() == [record.forwards for record in records]


@pytest.mark.parametrize("least", [1, 3])
def test_only_decisions_that_change_something_are_free(wam: FrozenXWAM, context: XWAMContext, least: int) -> None:
    records = walk(wam, context, opinionated(wam, min_forwards=least), range(6), deterministic=False).records
    for record in records:
        trace, decisions = trace_of(record, HandoverTrace), torch.arange(record.forwards)
        assert len(trace) == record.forwards == record.updates
        assert torch.equal(trace.free, (decisions >= least - 1) & (decisions < STEPS - 1))
        assert not trace.handed_over[:-1].any()
        assert trace.handed_over[-1] == (record.forwards < STEPS)
        torch.testing.assert_close(trace.progress, decisions / STEPS)


def test_the_policy_that_drew_is_the_policy_that_is_evaluated(wam: FrozenXWAM, context: XWAMContext) -> None:
    schedule = opinionated(wam)
    trace = padded(sampled(wam, context, schedule), HandoverTrace)
    evaluation = schedule.policy.evaluate(trace)
    torch.testing.assert_close(evaluation.log_prob, evaluation.log_prob_then, rtol=1e-4, atol=1e-5)
    coin = Bernoulli(probs=stop_probability(schedule.policy.hazard(trace.pooled, trace.progress)))
    expected = torch.where(trace.free, coin.log_prob(trace.handed_over.float()), 0.0)
    torch.testing.assert_close(evaluation.log_prob[..., 0], expected, rtol=1e-4, atol=1e-5)
    assert evaluation.weight.tolist() == [1.0]
    assert torch.equal(evaluation.free[..., 0], trace.free)


def test_the_gradient_of_a_log_probability_is_that_of_its_difference(wam: FrozenXWAM, context: XWAMContext) -> None:
    """By the bias, against central differences in float64. Forced decisions and padding have none."""
    schedule = opinionated(wam)
    trace = padded(sampled(wam, context, schedule), HandoverTrace).map(
        lambda values: values.double() if values.is_floating_point() else values
    )
    policy = schedule.policy.double()

    def total() -> torch.Tensor:
        return policy.evaluate(trace).log_prob.sum()

    total().backward()
    assert policy.head.bias.grad is not None
    with torch.no_grad():
        policy.head.bias += 1e-5
        above = total()
        policy.head.bias -= 2e-5
        difference = (above - total()) / 2e-5
    torch.testing.assert_close(policy.head.bias.grad[0], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["log_prob", "entropy", "divergence"])
def test_gradients_reach_every_weight_and_are_finite(wam: FrozenXWAM, context: XWAMContext, part: str) -> None:
    schedule = opinionated(wam)
    evaluation = schedule.policy.evaluate(padded(sampled(wam, context, schedule), HandoverTrace))
    torch.where(evaluation.free, getattr(evaluation, part), 0.0).sum().backward()
    for name, parameter in schedule.policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_preparing_scales_the_features_and_changes_no_decision_of_the_untrained(
    wam: FrozenXWAM, context: XWAMContext
) -> None:
    schedule = untrained(wam, initial_bias=-1.0)
    records = sampled(wam, context, schedule)
    trace = HandoverTrace.join([trace_of(record, HandoverTrace) for record in records])
    schedule.policy.prepare(trace)
    features = (schedule.policy.norm(trace.pooled) - schedule.policy.feature_mean) / schedule.policy.feature_std
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(wam.spec.feature_dim), atol=1e-3, rtol=0)
    before = schedule.policy.feature_mean.clone()
    schedule.policy.prepare(trace.select(torch.tensor([0])))
    assert torch.equal(schedule.policy.feature_mean, before), "measured once"
    again = walk(wam, context, schedule, range(6), range(20, 26), deterministic=False)
    assert again.forwards.tolist() == [record.forwards for record in records]
    described = schedule.policy.describe([trace_of(record, HandoverTrace) for record in records])
    assert described["policy/handover_rate"] == pytest.approx(float(trace.handed_over[trace.free].float().mean()))


def test_an_export_walks_as_the_original_with_its_measured_features(
    wam: FrozenXWAM, context: XWAMContext, tmp_path: Path
) -> None:
    schedule = opinionated(wam)
    schedule.policy.prepare(
        HandoverTrace.join([trace_of(one, HandoverTrace) for one in sampled(wam, context, schedule)])
    )
    export_schedule(tmp_path, schedule, wam.spec)
    one, two = (walk(wam, context, each, range(6)) for each in (schedule, load_schedule(tmp_path)))
    np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(one.forwards, two.forwards)
    with pytest.raises(ValueError, match="train"):
        load_schedule(tmp_path).check(replace(wam.spec, weights_hash="1" * 16))


@pytest.mark.parametrize("want", [Want.POOLED, Want.ACTION_FLOW, Want.VIDEO_FLOW])
def test_a_backbone_that_lacks_something_is_refused_by_name(want: Want) -> None:
    spec = replace(SPEC, gives=EVERYTHING & ~want)
    with pytest.raises(ValueError, match=rf"'handover' needs {str(want.name).lower()}"):
        build_schedule("handover", spec).check(spec)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"video_steps": 9}, "video_steps"),
        ({"trunk_widths": []}, "trunk_widths"),
        ({"min_forwards": 10}, "min_forwards"),
        ({"action_steps": 1, "min_forwards": 1}, "action_steps"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, object], key: str) -> None:
    assert key in [problem.key for problem in section_problems(HandoverSettings(**changes))]


def test_constants_take_the_grids_of_the_run_and_are_joined() -> None:
    own = HandoverSettings(action_steps=4, video_steps=20, action_shift=1.0)
    schedule = build_schedule("async", SPEC, own)
    assert isinstance(schedule, GridSchedule)
    assert schedule.action is not None
    assert schedule.action[0].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert torch.equal(schedule.video[0, :, 0], shifted_grid(20, SPEC.video_shift)[:5])
    early = build_schedule("async-2-of-4", SPEC, own)
    assert isinstance(early, GridSchedule)
    assert early.action is not None
    assert early.action[0].tolist() == [1, 0.75, 0]
    joined = build_schedule("async-4-of-10-then-async-1-of-10", SPEC)
    assert isinstance(joined, QuerySchedule)
    assert joined.grids.updates.tolist() == [4, 1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("async-5-of-4", "clean after 4 forwards"),
        ("async-2-of-10-5", "the video needs at least as many steps"),
        ("async-0-of-4", "is no schedule"),
        ("async-2-of", "is no schedule"),
        ("async-2-of-4-unipc", "is no schedule"),
        ("handover-4", "is no schedule"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_schedule(name, SPEC)


def test_what_can_be_trained_on_an_xwam_is_a_matter_of_its_capabilities(wam: FrozenXWAM) -> None:
    for name in ("sants", "stop-only", "jump-only", "gate-and-stop"):
        with pytest.raises(ValueError, match=rf"'{name}' denoises actions from a video that stays.*use a joint"):
            check_backbone(choose(name, "groups"), wam.spec)
    check_backbone(choose("handover", "groups", rewards=("success", "cost")), wam.spec)
    with pytest.warns(RuntimeWarning, match="pretrain"):
        check_backbone(choose("noisegate", "groups"), wam.spec)
    check_backbone(choose("noisegate", "groups"), replace(wam.spec, per_frame_sigma_trained=True))
    with pytest.raises(ValueError, match=r"reward\.path compares with reference walks.*collector\.name=groups"):
        check_backbone(choose("handover", "segments"), wam.spec)


def test_asking_about_a_backbone_draws_no_random_number(wam: FrozenXWAM) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    check_backbone(choose("handover", "groups"), wam.spec)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_stops_are_not_scored_all_at_once() -> None:
    """That needs a memory of the video, which an X-WAM does not have."""
    config = choose("handover", "segments")
    config.collector.stops = "all"
    assert "collector.stops" in [problem.key for problem in method_problems(config)]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("async-4-40", 40),
        ("async", 50),
        ("async-4-of-10", 50),
        ("async-5-of-10-then-async-1-of-10", 50),
        ("handover", 50),
        ("async-4-40+plan", 40),
        ("sync-6", None),
        ("joint-6", None),
        ("joint-6+plan", None),
    ],
)
def test_a_video_goes_on_along_the_grid_of_its_schedule(name: str, steps: int | None) -> None:
    spec = small_xwam().spec
    assert whole_grid(build_schedule(name, spec), spec) == (steps or spec.reference_updates)
