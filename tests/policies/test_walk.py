"""The walk: ragged batches, counting, records, anchors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.backbones.flow import shifted_grid
from policies.catalogue import build_schedule
from policies.reference import reference_walk
from policies.schedule import Schedule
from policies.schedules.sants import SantsPolicy, SantsSchedule, SantsSettings, SantsTrace, log_prob
from policies.walk import replay, walk
from policies.walk_record import WalkRecord
from tests.analytic import SPEC, AnalyticContext, AnalyticWAM, make_segments

SEGMENTS = make_segments(8)


def context_of(wam: AnalyticWAM, rows: list[int]) -> AnalyticContext:
    chosen = [SEGMENTS[row] for row in rows]
    return wam.observe([s.observation for s in chosen], [s.instruction for s in chosen])


def busy_schedule(name: str = "sants") -> SantsSchedule:
    """Stops often and depends on its input, so that a batch is ragged."""
    torch.manual_seed(3)
    settings = SantsSettings(name=name, initial_stop_bias=-1.0)
    network = SantsPolicy(**SantsPolicy.dimensions_of(SPEC), settings=settings)
    for head in (network.stop_head, network.jump_head):
        torch.nn.init.normal_(head.weight, std=0.5)
    return SantsSchedule(network, settings)


def trace_of(record: WalkRecord) -> SantsTrace:
    assert isinstance(record.trace, SantsTrace)
    return record.trace


def shared_levels(record: WalkRecord) -> np.ndarray:
    """The levels [updates + 1] of a walk whose future frames share them, and whose action waits for the video."""
    np.testing.assert_array_equal(record.sigma_video, record.sigma_video[:, :1].repeat(SPEC.future_frames, axis=1))
    np.testing.assert_array_equal(record.sigma_action, np.ones(record.updates + 1))
    return record.sigma_video[:, 0]


def assert_same_walk(one: WalkRecord, other: WalkRecord) -> None:
    assert (one.updates, one.forwards, one.forced) == (other.updates, other.forwards, other.forced)
    np.testing.assert_allclose(one.sigma_video, other.sigma_video, atol=1e-5)
    np.testing.assert_allclose(one.sigma_action, other.sigma_action, atol=1e-5)
    np.testing.assert_allclose(one.actions, other.actions, atol=1e-5)
    for name, values in trace_of(one).columns().items():
        torch.testing.assert_close(values, getattr(other.trace, name), rtol=1e-7, atol=1e-4)


@settings(max_examples=8)
@given(st.permutations(range(8)), st.booleans(), st.sampled_from(["sants", "stop-only", "jump-only"]))
def test_a_row_does_not_depend_on_its_batch(order: list[int], deterministic: bool, name: str) -> None:
    wam, schedule = AnalyticWAM(), busy_schedule(name)
    seeds = [100 + row for row in order]
    batch = walk(wam, context_of(wam, order), schedule, seeds, deterministic=deterministic)
    for row, seed, record in zip(order, seeds, batch.records, strict=True):
        alone = walk(wam, context_of(wam, [row]), schedule, [seed], deterministic=deterministic)
        assert_same_walk(record, alone.records[0])


def test_stochastic_walks_are_ragged_and_follow_their_seeds() -> None:
    wam, schedule = AnalyticWAM(), busy_schedule()
    context = context_of(wam, list(range(8)))
    first, again, other = (
        walk(wam, context, schedule, range(8), seeds, deterministic=False)
        for seeds in (range(8), range(8), range(50, 58))
    )
    assert len(set(first.updates.tolist())) > 1
    for one, two in zip(first.records, again.records, strict=True):
        assert_same_walk(one, two)
    assert not np.array_equal(first.updates, other.updates) or not np.allclose(first.actions, other.actions)


def test_deployment_needs_no_random_numbers() -> None:
    wam, schedule = AnalyticWAM(), busy_schedule()
    context = context_of(wam, list(range(8)))
    one, two = (walk(wam, context, schedule, range(8), seeds) for seeds in (range(8), range(90, 98)))
    np.testing.assert_array_equal(one.actions, two.actions)


@pytest.mark.parametrize("reads", ["future_latents", "all_keys"])
@pytest.mark.parametrize("name", ["fixed-full", "fixed-1", "fixed-3", "sants", "stop-only", "jump-only"])
def test_forwards_are_counted_as_they_are_made(name: str, reads: str) -> None:
    wam = AnalyticWAM(replace(SPEC, action_reads=reads))
    schedule = build_schedule(name, wam.spec, SantsSettings(initial_stop_bias=-1.0))
    batch = walk(wam, context_of(wam, list(range(8))), schedule, range(8), deterministic=False)
    assert batch.forwards.sum() == wam.forward_rows
    memory_costs = int(wam.spec.memory_needs_forward)
    for record in batch.records:
        assert record.forwards == record.updates + (memory_costs if record.forced else 1)


@pytest.mark.parametrize(("name", "updates"), [("fixed-full", 25), ("fixed-5", 5), ("fixed-1", 1)])
def test_fixed_schedules_visit_their_grid(name: str, updates: int) -> None:
    wam = AnalyticWAM()
    record = walk(wam, context_of(wam, [1]), build_schedule(name, SPEC), [0]).records[0]
    np.testing.assert_array_equal(shared_levels(record), shifted_grid(updates, SPEC.video_shift).numpy())
    assert record.forced
    assert record.trace is None


CASCADES = ("fixed-3", "fixed-full", "fixed-1")
JOINT = ("all-fast-4", "joint", "last-frame-first-2")


@pytest.mark.parametrize("reads", ["future_latents", "all_keys"])
@pytest.mark.parametrize(
    ("name", "parts"),
    [("fixed-3-full-then-1", CASCADES), ("-then-".join(CASCADES), CASCADES), ("-then-".join(JOINT), JOINT)],
)
def test_a_schedule_by_query_walks_each_row_as_the_schedule_of_its_query(
    reads: str, name: str, parts: tuple[str, ...]
) -> None:
    spec = replace(SPEC, action_reads=reads, per_frame_sigma_trained=True)
    wam = AnalyticWAM(spec)
    context, queries = context_of(wam, list(range(8))), [0, 1, 2, 3, 0, 9, 1, 2]
    walked = walk(wam, context, build_schedule(name, spec), range(8), queries=queries)
    alone = [walk(wam, context, build_schedule(part, spec), range(8)).records for part in parts]
    for row, (record, query) in enumerate(zip(walked.records, queries, strict=True)):
        wanted = alone[min(query, 2)][row]
        assert record.schedule == name
        assert (record.updates, record.forwards, record.forced) == (wanted.updates, wanted.forwards, wanted.forced)
        for column in ("sigma_video", "sigma_action", "actions", "latents"):
            np.testing.assert_array_equal(getattr(record, column), getattr(wanted, column))
    assert walked.forwards.sum() + sum(record.forwards for rows in alone for record in rows) == wam.forward_rows


@pytest.mark.parametrize(("queries", "same"), [((), "fixed-3"), ([0] * 8, "fixed-3"), ([4] * 8, "fixed-1")])
def test_a_walk_outside_of_an_episode_is_a_first_query(queries: list[int], same: str) -> None:
    wam = AnalyticWAM()
    context = context_of(wam, list(range(8)))
    walked = walk(wam, context, build_schedule("fixed-3-then-1", SPEC), range(8), queries=queries)
    wanted = walk(wam, context, build_schedule(same, SPEC), range(8))
    np.testing.assert_array_equal(walked.actions, wanted.actions)
    assert walked.forwards.tolist() == wanted.forwards.tolist()


def test_untrained_stop_only_is_the_reference_walk_up_to_its_stop() -> None:
    wam = AnalyticWAM()
    settings = SantsSettings(initial_stop_bias=-20.0)
    record = walk(wam, context_of(wam, [1]), build_schedule("stop-only", SPEC, settings), [0]).records[0]
    np.testing.assert_allclose(shared_levels(record), shifted_grid(25, SPEC.video_shift).numpy(), atol=1e-4)


def test_the_cap_forces_a_stop() -> None:
    wam = AnalyticWAM()
    settings = SantsSettings(max_decisions=3, initial_stop_bias=-20.0)
    record = walk(wam, context_of(wam, [1]), build_schedule("sants", SPEC, settings), [0]).records[0]
    assert (record.updates, record.forwards, record.forced) == (3, 3, True)
    assert record.sigma_video[-1].mean() > 0
    assert len(trace_of(record)) == 3


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from(["sants", "stop-only", "jump-only"]))
def test_walks_fall_and_traces_tell_what_happened(seed: int, name: str) -> None:
    wam, schedule = AnalyticWAM(), busy_schedule(name)
    batch = walk(wam, context_of(wam, list(range(8))), schedule, range(seed, seed + 8), deterministic=False)
    for record in batch.records:
        trace, levels = trace_of(record), shared_levels(record)
        assert levels[0] == 1
        assert (np.diff(levels) < 0).all()
        assert 1 <= record.updates <= schedule.settings.max_decisions
        assert len(trace) == record.updates + (not record.forced)
        assert trace.stop[:-1].sum() == 0
        assert trace.stop[-1] == (not record.forced)
        np.testing.assert_array_equal(trace.sigma, levels[: len(trace)])
        moved = (trace.sigma * trace.ratio)[: record.updates].numpy()
        np.testing.assert_allclose(levels[1:], np.where(moved < schedule.settings.terminal_sigma, 0, moved), atol=1e-6)
        assert torch.equal(trace.drawn, trace.stop_free | trace.jump_free)


def test_stored_log_probabilities_are_those_recomputed_on_padded_tensors() -> None:
    wam, schedule = AnalyticWAM(), busy_schedule()
    records = walk(wam, context_of(wam, list(range(8))), schedule, range(8), deterministic=False).records
    traces = [trace_of(record) for record in records]
    trace = SantsTrace.join(traces).padded([len(one) for one in traces])
    output = schedule.policy(trace.pooled, trace.sigma)
    found = log_prob(output, trace.stop, trace.ratio, trace.stop_free, trace.jump_free)
    for recomputed, stored in zip(found, (trace.stop_log_prob, trace.jump_log_prob), strict=True):
        torch.testing.assert_close(recomputed, stored, rtol=1e-4, atol=1e-5)
        assert recomputed.requires_grad
    evaluation = schedule.policy.evaluate(trace)
    torch.testing.assert_close(evaluation.log_prob, torch.stack(found, dim=-1))
    assert torch.equal(evaluation.log_prob_then, torch.stack([trace.stop_log_prob, trace.jump_log_prob], dim=-1))
    assert torch.equal(evaluation.free, torch.stack([trace.stop_free, trace.jump_free], dim=-1))
    assert evaluation.weight.tolist() == pytest.approx([1.0, schedule.settings.jump_log_prob_scale])


@pytest.mark.parametrize("schedule", [busy_schedule(), build_schedule("fixed-3", SPEC)], ids=["sants", "fixed"])
def test_a_saved_walk_replays_to_the_same_actions(schedule: Schedule, tmp_path) -> None:
    wam = AnalyticWAM()
    context = context_of(wam, list(range(8)))
    batch = walk(wam, context, schedule, range(8), deterministic=False)
    restored = []
    for index, record in enumerate(batch.records):
        levels = {"sigma_video": record.sigma_video, "sigma_action": record.sigma_action}
        np.savez(tmp_path / f"{index}.npz", actions=record.actions, **levels)
        with np.load(tmp_path / f"{index}.npz") as saved:
            restored.append(replace(record, trace=None, **saved))
    np.testing.assert_allclose(replay(wam, context, restored).actions, batch.actions, atol=1e-6)


def test_anchors_are_prefixes_of_one_reference_walk() -> None:
    wam = AnalyticWAM()
    context = context_of(wam, list(range(8)))
    actions = reference_walk(wam, context, range(8), [25, 4])
    assert actions.shape == (2, 8, 8, 14)
    assert wam.forward_rows == 25 * 8
    np.testing.assert_allclose(actions[0], walk(wam, context, build_schedule("fixed-full", SPEC), range(8)).actions)
    record = WalkRecord(
        schedule="",
        noise_seed=0,
        sigma_video=shifted_grid(25, 5.0)[:5, None].expand(-1, SPEC.future_frames).numpy(),
        sigma_action=np.ones(5, dtype=np.float32),
        action_grid=shifted_grid(SPEC.action_updates, SPEC.action_shift).numpy(),
        forwards=4,
        forced=True,
        actions=actions[1, 0],
        latents=np.zeros(0, dtype=np.float16),
    )
    np.testing.assert_allclose(replay(wam, context_of(wam, [0]), [record]).actions[0], actions[1, 0], atol=1e-6)


def test_wrong_requests_are_refused_with_the_reason() -> None:
    wam = AnalyticWAM()
    context = context_of(wam, [0, 1])
    with pytest.raises(ValueError, match="3 noise seeds for 2 observations"):
        walk(wam, context, build_schedule("fixed-1", SPEC), [0, 1, 2])
    with pytest.raises(ValueError, match="from 0 to 25"):
        reference_walk(wam, context, [0, 1], [26])
    narrow = build_schedule("sants", replace(SPEC, feature_dim=5))
    with pytest.raises(ValueError, match=r"feature_dim 5.*has 16"):
        walk(wam, context, narrow, [0, 1])


def test_actions_that_are_not_finite_name_their_rows() -> None:
    class Broken(AnalyticWAM):
        def finish_actions(self, context, actions):
            actions = super().finish_actions(context, actions)
            actions[1, 2, 3] = np.nan
            return actions

    wam = Broken()
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        walk(wam, context_of(wam, [0, 1]), build_schedule("fixed-1", SPEC), [0, 1])


def test_a_record_keeps_where_its_video_was_left() -> None:
    wam = AnalyticWAM()
    batch = walk(wam, context_of(wam, list(range(6))), build_schedule("sants", SPEC), range(6), deterministic=False)
    assert len({record.updates for record in batch.records}) > 1
    again = replay(wam, context_of(wam, list(range(6))), batch.records)
    for record, other in zip(batch.records, again.records, strict=True):
        assert (record.latents.shape, record.latents.dtype) == ((2, 3, 1, 1), np.float16)
        np.testing.assert_array_equal(record.latents, other.latents)
        alone = walk(wam, context_of(wam, [record.noise_seed]), build_schedule("fixed-1", SPEC), [record.noise_seed])
        assert (alone.records[0].latents != record.latents).any()


@pytest.mark.parametrize("prefixes", [False, True])
def test_rows_of_one_start_share_its_first_forward_and_nothing_else(
    prefixes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wam, schedule = AnalyticWAM(), busy_schedule()
    rows, noise, decisions = [0, 1, 0, 0, 1, 2], [7, 7, 7, 8, 7, 7], list(range(6))
    context = context_of(wam, rows)
    alone = walk(wam, context, schedule, noise, decisions, deterministic=False, prefixes=prefixes).records
    batches, forward = [], wam.forward

    def counted(context: AnalyticContext, *args: Any) -> Any:
        batches.append(len(context))
        return forward(context, *args)

    monkeypatch.setattr(wam, "forward", counted)
    starts = [0, 1, 0, 2, 1, 3]
    together = walk(
        wam, context, schedule, noise, decisions, deterministic=False, prefixes=prefixes, starts=starts
    ).records
    assert batches[0] == len(set(starts))
    for one, other in zip(alone, together, strict=True):
        assert_same_walk(one, other)
        if prefixes:
            np.testing.assert_allclose(one.prefixes, other.prefixes, atol=1e-5)
