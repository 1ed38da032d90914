"""A planner in front of schedules: names, refusals, costs, replay, and the control whose best noise is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.fields import section_problems
from configs.planning import PlanConfig, planner_settings, split_planner, with_planner
from policies.catalogue import build_schedule, find_schedule
from policies.planning.planned import Imagining
from policies.planning.search import Draws, search
from policies.schedule import PlannedSchedule
from policies.walk import replay, walk
from policies.walk_record import WalkBatch
from tests.analytic import SPEC, AnalyticContext, AnalyticWAM, make_segments
from tests.known_noise import BEST, BEST_VALUE, KNOWN, KnownNoiseWAM, true_return

NAMES = ("fixed-5", "fixed-full", "sants", "stop-only", "joint-10", "all-fast", "noisegate", "async-4-8")
SMALL = PlanConfig(rounds=2, videos=4, values=2, chunk=3)
SEEDS = [11, 12, 13, 14, 15]


def contexts(wam: AnalyticWAM, count: int = len(SEEDS)) -> AnalyticContext:
    segments = make_segments(count)
    return wam.observe([one.observation for one in segments], [one.instruction for one in segments])


def walked(name: str, plan: PlanConfig, seeds: list[int] | None = None, wam: KnownNoiseWAM | None = None) -> WalkBatch:
    seeds, wam = seeds or SEEDS, wam or KnownNoiseWAM()
    schedule = build_schedule(name, wam.spec, plan=plan)
    return walk(wam, contexts(wam, len(seeds)), schedule, seeds, deterministic=False)


def starts(batch: WalkBatch) -> torch.Tensor:
    return torch.stack([torch.from_numpy(record.plan.start[:, 1:]) for record in batch.records if record.plan])


def test_names_are_parsed_in_one_place() -> None:
    assert split_planner("fixed-5") == ("fixed-5", "none")
    assert split_planner("sants+plan-3-8") == ("sants", "plan-3-8")
    assert with_planner("sants", "none") == "sants"
    assert with_planner(*split_planner("joint-10+best-of-8")) == "joint-10+best-of-8"
    assert planner_settings("none", SMALL) is None
    assert planner_settings("plan", SMALL) == SMALL
    assert planner_settings("plan-5-30", SMALL) == replace(SMALL, rounds=5, videos=30)
    assert planner_settings("plan-5-30-1", SMALL) == replace(SMALL, rounds=5, videos=30, values=1)
    assert planner_settings("best-of-9", SMALL) == replace(SMALL, rounds=1, videos=9, final="best")
    assert planner_settings("best-of", SMALL) == replace(SMALL, rounds=1, videos=8, final="best")


@pytest.mark.parametrize("planner", ["", "plans", "plan-3", "plan-0-8", "best-of-0", "plan+plan", "plan@x"])
def test_other_names_are_refused_with_those_that_there_are(planner: str) -> None:
    with pytest.raises(ValueError, match=r"no planner: use one of plan.*best-of.*none"):
        find_schedule(f"fixed-5+{planner}")


@pytest.mark.parametrize(
    ("planner", "wrong"),
    [
        ("plan-1001-8", "plan.rounds: 1001"),
        ("plan-3-8-10001", "plan.values: 10001"),
        ("best-of", "plan.videos: 200000"),
    ],
)
def test_a_name_has_the_limits_of_the_settings_that_it_replaces(planner: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{planner!r} asks for too much: {wrong} is out of range"):
        planner_settings(planner, PlanConfig(rounds=1000, videos=200))


def test_settings_that_do_not_agree_are_named() -> None:
    assert not list(section_problems(PlanConfig(), "plan."))
    problems = {one.key for one in section_problems(PlanConfig(depth=12, training="guess", videos=0), "plan.")}
    assert problems == {"plan.depth", "plan.training", "plan.videos"}


@pytest.mark.parametrize("name", ["fixed-5", "sants", "joint-10"])
def test_a_backbone_without_a_value_expert_is_refused(name: str) -> None:
    wam = AnalyticWAM()
    schedule = build_schedule(f"{name}+plan", SPEC)
    with pytest.raises(ValueError, match=rf"'{name}\+plan' rates .* 'analytic|analytic has no value expert"):
        walk(wam, contexts(wam), schedule, SEEDS)
    assert not isinstance(build_schedule(f"{name}+none", SPEC), PlannedSchedule)


@pytest.mark.parametrize("name", NAMES)
def test_it_composes_with_every_schedule(name: str) -> None:
    """The search costs K M forwards a row, whatever the schedule, and its choice does not depend on the schedule."""
    plain, planned = walked(name, SMALL), walked(f"{name}+plan", SMALL)
    torch.testing.assert_close(starts(planned), starts(walked("fixed-5+plan", SMALL)))
    for before, after in zip(plain.records, planned.records, strict=True):
        assert before.plan is None
        assert after.plan is not None
        assert after.plan.forwards == 2 * 4
        assert after.all_forwards == after.forwards + 8
        assert before.all_forwards == before.forwards
        assert after.schedule == f"{name}+plan"
        assert after.plan.scores.shape == (2, 4)
    assert planned.times.plan_s > 0


@pytest.mark.parametrize("name", ["fixed-5", "joint-10"])
def test_a_planned_walk_depends_on_its_row_alone_and_replays(name: str) -> None:
    wam = KnownNoiseWAM()
    schedule = build_schedule(f"{name}+plan", KNOWN, plan=SMALL)
    context = contexts(wam)
    batch = walk(wam, context, schedule, SEEDS)
    for row, seed in enumerate(SEEDS):
        alone = walk(wam, context.select(torch.tensor([row])), schedule, [seed])
        np.testing.assert_allclose(alone.actions[0], batch.actions[row], atol=1e-6)
    np.testing.assert_allclose(replay(wam, context, batch.records).actions, batch.actions, atol=1e-5)


def test_the_best_of_one_is_the_walk_without_a_planner() -> None:
    np.testing.assert_array_equal(walked("fixed-5+best-of-1", SMALL).actions, walked("fixed-5", SMALL).actions)


def test_rows_of_one_start_are_planned_once() -> None:
    wam = KnownNoiseWAM()
    context = contexts(wam, 2).select(torch.tensor([0, 1, 0, 1, 1]))
    schedule, seeds = build_schedule("fixed-5+plan", KNOWN, plan=SMALL), [7, 8, 7, 8, 8]
    apart = walk(wam, context, schedule, seeds)
    wam.forward_rows = 0
    together = walk(wam, context, schedule, seeds, starts=seeds)
    assert wam.forward_rows == 2 * 8 + 2 + 4 * 5
    np.testing.assert_array_equal(together.actions, apart.actions)
    assert [record.all_forwards for record in together.records] == [record.all_forwards for record in apart.records]


def test_noise_that_is_given_is_not_searched() -> None:
    wam = KnownNoiseWAM()
    context = contexts(wam)
    noise = wam.initial_noise(context, SEEDS)
    batch = walk(wam, context, build_schedule("fixed-5+plan", KNOWN, plan=SMALL), SEEDS, noise=noise)
    assert all(record.plan is None for record in batch.records)


@pytest.mark.parametrize("depth", [1, 3, 11])
@pytest.mark.parametrize("joint", [False, True])
def test_the_depth_of_a_candidate_is_a_setting(depth: int, joint: bool) -> None:
    """Each is rated after depth - 1 steps. Where the video reads the action, the action moves along."""
    wam = KnownNoiseWAM(replace(KNOWN, video_reads_action=joint))
    plan = replace(SMALL, depth=depth, rounds=1, videos=2, chunk=100)
    batch = walked("joint-10+plan", plan, wam=wam)
    levels = {1: 1.0, 3: 0.952, 11: 0.0}  # 8 of 10 steps are left at a shift of 5: 5 u / (1 + 4 u) at u = 0.8
    assert wam.scored_at == pytest.approx([levels[depth]], abs=1e-3)
    plans = [record.plan for record in batch.records]
    assert [plan.forwards for plan in plans if plan] == [2 * depth] * len(SEEDS)
    assert wam.forward_rows == sum(record.all_forwards for record in batch.records)


def test_no_more_candidates_than_a_chunk_are_in_memory() -> None:
    wam = KnownNoiseWAM()
    walked("fixed-5+plan-3-30", replace(SMALL, chunk=16), wam=wam)
    assert wam.largest_batch == 16


BUDGET = PlanConfig(rounds=14, videos=32, values=2, final="best", chunk=1000)


@pytest.mark.parametrize("final", ["best", "draw"])
def test_the_best_noise_is_found_where_it_is_known(final: str) -> None:
    """Within 5% of the best return on each of five seeds, and better than the best of as many draws."""
    plan = replace(BUDGET, final=final, least_std=0.02)
    wam = KnownNoiseWAM()
    schedule, one_shot = (build_schedule(f"fixed-5+{name}", KNOWN, plan=plan) for name in ("plan", "best-of"))
    planned = walk(wam, contexts(wam), schedule, SEEDS)
    single = walk(wam, contexts(wam), one_shot, SEEDS)
    assert {record.all_forwards for record in planned.records} == {record.all_forwards for record in single.records}
    ours, theirs = true_return(starts(planned)), true_return(starts(single))
    best = float(true_return(BEST))
    assert (ours >= 0.95 * best).all(), ours
    assert (ours > theirs).all()
    plain = true_return(wam.initial_noise(contexts(wam), SEEDS)[0][:, :, 1:])
    assert (theirs > plain).all()


def test_the_value_noise_is_found_where_it_is_known() -> None:
    """It is the one of the least spread. The distribution of the value noises moves there."""
    wam = KnownNoiseWAM()
    context = contexts(wam)
    x, actions = wam.initial_noise(context, SEEDS)
    judge = Imagining(wam, context, x[:, :, :1], actions, BUDGET)
    found = search(judge, x[:, :, 1:], 2, Draws(SEEDS, x.device), BUDGET, lowest=-1.0)
    assert (found.value[:, 0] - BEST_VALUE).abs().max() < 0.25
