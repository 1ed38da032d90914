"""What the updates of a schedule depend on is known here, and is what the variance is put down to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.stored import DamagedFile
from envs.ledger import Cell, Ledger
from envs.outcomes import Outcome
from rl.evaluation.adaptivity import (
    BEST,
    BEST_BY_TASK,
    Variance,
    adaptivity,
    best_by_task,
    best_constant,
    bounds,
    explained,
    not_played,
)
from rl.evaluation.evaluation import cells_of, evaluate, fingerprint
from rl.evaluation.report import ALL, ScheduleRow, summarise
from rl.evaluation.sources import sources_of
from rl.evaluation.stored import read_episodes
from rl.evaluation.worker import for_each_backbone
from tests.analytic import SPEC
from tests.rl.recipes import closed_loop_settings

TASKS = ("bell", "pot", "post")
SEEDS = 40
QUERIES = 6

Rule = Callable[[int, int, int], int]
"""The updates of the query with this task, seed and index."""


def ledger_of(
    rule: Rule, length: Callable[[int], int] = lambda seed: QUERIES, depth: Callable[[int], float] | None = None
) -> Ledger:
    ledger = Ledger([Cell(task, "clean", seed) for task in TASKS for seed in range(SEEDS)])
    while (cell := ledger.take()) is not None:
        updates = [rule(TASKS.index(cell.task), cell.seed, index) for index in range(length(cell.seed))]
        forwards = [count + 1 for count in updates]
        details = {"steps": 8, "updates": updates, "forwards": forwards, "instruction": "", "message": ""}
        if depth is not None:
            details["depths"] = [depth(TASKS.index(cell.task))] * len(updates)
        ledger.record(cell, Outcome.success, **details)
    return ledger


def shares(found: Variance | None) -> tuple[float, ...]:
    assert found is not None
    return found.by_task, found.by_query, found.by_phase, found.by_all, found.by_state


def test_a_constant_depends_on_nothing() -> None:
    found = adaptivity(ledger_of(lambda task, seed, index: 5))
    assert (found.updates.mean, found.forwards_mean, found.updates.variance) == (5, 6, 0)
    assert shares(found.updates) == (0, 0, 0, 0, 0)


def test_a_policy_that_looks_at_the_task_alone() -> None:
    found = adaptivity(ledger_of(lambda task, seed, index: 1 + task))
    assert shares(found.updates) == pytest.approx((1, 0, 0, 1, 0))
    assert {task: queries[-1].mean for task, queries in found.by_query.items()} == {"bell": 1, "pot": 2, "post": 3}


def test_a_policy_that_counts_its_queries_alone() -> None:
    found = adaptivity(ledger_of(lambda task, seed, index: 3 if index == 0 else 1))
    by_task, by_query, by_phase, by_all, by_state = shares(found.updates)
    assert (by_task, by_query, by_all, by_state) == pytest.approx((0, 1, 1, 0))
    assert 0 < by_phase < 1, "the first query is half of the first third"
    assert [query.mean for query in found.by_query["pot"]] == [3, 1, 1, 1, 1, 1]


def test_a_policy_that_follows_the_phase_alone() -> None:
    """Episodes of three and of six queries: an index belongs to several phases."""

    def length(seed: int) -> int:
        return 3 + 3 * (seed % 2)

    found = adaptivity(ledger_of(lambda task, seed, index: 1 + 3 * index // length(seed), length))
    by_task, by_query, by_phase, by_all, by_state = shares(found.updates)
    assert (by_task, by_phase, by_all, by_state) == pytest.approx((0, 1, 1, 0))
    assert 0 < by_query < 1


def test_a_policy_that_looks_at_the_state_alone() -> None:
    draws = np.random.default_rng(0).integers(1, 6, (len(TASKS), SEEDS, QUERIES))
    found = adaptivity(ledger_of(lambda task, seed, index: int(draws[task, seed, index])))
    assert shares(found.updates) == pytest.approx((0, 0, 0, 0, 1), abs=0.03)
    query = found.by_query["bell"][2]
    assert (query.episodes, query.mean) == (SEEDS, pytest.approx(draws[0, :, 2].mean()))
    assert [query.low, query.high] == pytest.approx(np.quantile(draws[0, :, 2], [0.1, 0.9]))


def test_walks_of_equal_updates_may_still_differ_in_their_terminal_depth() -> None:
    """As those of a gate do, which never stops early."""
    found = adaptivity(ledger_of(lambda task, seed, index: 10, depth=lambda task: 0.9 - 0.1 * task))
    assert shares(found.updates) == (0, 0, 0, 0, 0)
    assert shares(found.depth) == pytest.approx((1, 0, 0, 1, 0))
    assert found.depth is not None
    assert found.depth.mean == pytest.approx(0.8)
    assert adaptivity(ledger_of(lambda task, seed, index: 10)).depth is None, "an older evaluation did not note them"


def test_half_task_and_half_state() -> None:
    found = adaptivity(ledger_of(lambda task, seed, index: 10 + 2 * (task == 0) + (1 if seed % 2 else -1)))
    within, between = 1.0, 4 * (1 / 3) * (2 / 3)
    assert found.updates.by_task == pytest.approx(between / (within + between), abs=0.01)
    assert found.updates.by_state == pytest.approx(1 - found.updates.by_all)


def test_what_many_groups_explain_of_random_numbers_is_not_counted() -> None:
    rng = np.random.default_rng(1)
    found = [explained(rng.integers(0, 9, 300), rng.integers(0, 100, 300)) for _ in range(50)]
    assert np.mean(found) < 0.06, "a hundred groups of three explain a third, uncorrected"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_a_share_is_one_or_it_is_not_known(rows: list[tuple[int, int, int]]) -> None:
    values, *groupings = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    share = explained(values, *groupings)
    assert 0 <= share <= 1 or (math.isnan(share) and len({tuple(row[1:]) for row in rows}) == len(rows))


def test_episodes_with_a_fault_do_not_count() -> None:
    ledger = Ledger([Cell("bell", "clean", seed) for seed in range(3)])
    for outcome, updates in ((Outcome.success, [2, 2]), (Outcome.infeasible_seed, [9]), (Outcome.step_limit, [4, 4])):
        cell = ledger.take()
        assert cell is not None
        ledger.record(cell, outcome, steps=1, updates=updates, forwards=updates, instruction="", message="")
    found = adaptivity(ledger)
    assert (found.queries, found.updates.mean) == (4, 3)
    assert adaptivity(Ledger([])).to_json()["updates"]["by_state"] is None


ROW = ScheduleRow(0.0, (0, 1), 10, 0, {}, forwards_mean=0.0, forwards_p95=0.0, updates_mean=0.0)


@pytest.mark.parametrize(
    ("most", "best"), [(0.5, None), (1.0, "fixed-1"), (1.9, "fixed-3-then-1"), (2.0, "fixed-3-then-1"), (9, "fixed-5")]
)
def test_the_best_constant_is_one_that_costs_no_more(most: float, best: str | None) -> None:
    measured = {"fixed-5": (0.91, 5), "fixed-2": (0.89, 2), "fixed-3-then-1": (0.89, 1.6), "fixed-1": (0.62, 1)}
    rows = {name: replace(ROW, success=success, forwards_mean=cost) for name, (success, cost) in measured.items()}
    rows["lost"] = replace(ROW, success=math.nan, forwards_mean=math.nan)
    assert best_constant(rows, most) == best


def played(won: Callable[[Cell], bool], tasks: Sequence[str] = TASKS) -> Ledger:
    ledger = Ledger([Cell(task, "clean", seed) for task in tasks for seed in range(10)])
    while (cell := ledger.take()) is not None:
        outcome = Outcome.success if won(cell) else Outcome.step_limit
        ledger.record(cell, outcome, steps=1, updates=[1], forwards=[1], instruction="", message="")
    return ledger


def test_the_best_constant_of_each_task_is_compared_with_the_best_of_all() -> None:
    """`one` wins half of each task, `other` all of the post and nothing else."""
    ledgers = {"one": played(lambda cell: cell.seed < 5), "other": played(lambda cell: cell.task == "post")}
    best = best_by_task(summarise(ledgers, {}, {"evaluation": {"reference": "one"}}).rows)
    assert best == {ALL: "one", "bell": "one", "pot": "one", "post": "other"}
    assert not_played(ledgers, best) == []
    found = bounds(ledgers, best)
    assert (found.rows[BEST][ALL].success, found.rows[BEST_BY_TASK][ALL].success) == (0.5, pytest.approx(2 / 3))
    assert found.rows[BEST_BY_TASK][ALL].episodes == 30
    paired = found.paired[BEST_BY_TASK][ALL]
    assert (paired.only_this, paired.only_reference, paired.p_value) == (5, 0, 2 / 2**5)
    assert not_played({"one": ledgers["one"]}, best) == ["other"]
    assert not_played({**ledgers, "other": played(lambda cell: True, ["bell"])}, best) == ["other"]


def test_the_cheaper_of_equals_is_the_best_of_a_task_and_a_task_without_results_is_left_out() -> None:
    lost = replace(ROW, success=math.nan, forwards_mean=math.nan)
    rows = {"dear": {"pot": replace(ROW, forwards_mean=5.0), "post": lost}, "cheap": {"pot": ROW, "post": lost}}
    assert best_by_task(rows) == {"pot": "cheap"}


def test_constants_are_compared_on_the_seeds_of_the_validation(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=9)
    settings.validation.episodes_per_task, settings.validation.first_seed = 4, 50_000
    settings.evaluation.segments, settings.evaluation.schedules = 0, ["fixed-5-then-1", "fixed-1"]
    sources = sources_of(settings.evaluation.schedules, {})
    specs = for_each_backbone(settings, sources, lambda config: SPEC)
    assert "role" not in fingerprint(settings, sources, specs)["evaluation"]
    result = evaluate(settings, sources, tmp_path / "table.json", role="validation")
    assert result is not None
    read = read_episodes(tmp_path / "table.json")
    ledgers = read.ledgers
    assert read.walked_as(result.fingerprint)
    slower = {**result.fingerprint["config"], "schedule": {}}
    for other in ({"backbone_hash": "other"}, {"config": slower}):
        assert not read.walked_as({**result.fingerprint, **other})
    assert [cell.seed for cell in ledgers["fixed-1"].entries()] == list(range(50_000, 50_004))
    assert list(ledgers["fixed-1"].cells) == cells_of(settings, "validation")
    assert read.trained == []
    assert result.fingerprint["evaluation"]["role"] == "validation"
    assert result.fingerprint["evaluation"]["episodes_per_task"] == 4
    assert result.rows["fixed-5-then-1"]["all"].forwards_mean == pytest.approx(7 / 3)
    assert adaptivity(ledgers["fixed-5-then-1"]).updates.by_query == pytest.approx(1)


def stored() -> dict[str, Any]:
    ledgers = {"one": ledger_of(lambda task, seed, index: 1), "other": ledger_of(lambda task, seed, index: 2)}
    sources = {"one": {"trained": False}, "other": {"trained": True}}
    return {
        "fingerprint": {"schedules": sources},
        "episodes": {name: ledger.to_json() for name, ledger in ledgers.items()},
    }


def test_stored_episodes_are_read_whatever_their_settings(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(stored()))
    read = read_episodes(path)
    assert {name: ledger.to_json() for name, ledger in read.ledgers.items()} == stored()["episodes"]
    assert read.trained == ["other"]


@pytest.mark.parametrize("part", ["", "uneven", "depths", "twice", "row", "cells", "cut", "updates"])
def test_a_damaged_result_is_named(tmp_path: Path, part: str) -> None:
    path, content = tmp_path / "table.json", stored()
    first = content["episodes"]["one"]["cells"]
    if part == "uneven":
        first[3]["entry"]["details"]["forwards"].pop()
    elif part == "depths":
        first[3]["entry"]["details"]["depths"] = [0.5]
    elif part == "twice":
        for one in content["episodes"].values():
            one["cells"].append(one["cells"][0])
    elif part == "row":
        del content["episodes"]["one"]
    elif part == "cells":
        first.pop()
    elif part == "updates":
        first[3]["entry"]["details"]["updates"] = "many"
    if part:
        text = json.dumps(content)
        path.write_text(text[:-50] if part == "cut" else text)
    with pytest.raises(DamagedFile, match=r"table\.json: .*Make it with launch\.evaluate\."):
        read_episodes(path)
