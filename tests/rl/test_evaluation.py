"""Every schedule on the same seeds, counted once, whatever dies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from torch import Tensor

from configs.schema import Config, EnvConfig, WAMConfig
from envs.ledger import Cell, Ledger
from envs.outcomes import Outcome
from envs.process.owner import SimulatorUnavailable
from envs.simulator import SimulatorSpec
from policies.backbones.door import WAMSpec
from policies.catalogue import build_schedule
from rl.evaluation.evaluation import evaluate
from rl.evaluation.report import Comparison, comparison_table, pair
from rl.evaluation.sources import ScheduleSource, sources_of
from rl.experience.closed_loop import play, query_noise_seed
from rl.experience.records import EpisodeTask
from rl.experience.simulators import make_simulators
from tests.analytic import SPEC, AnalyticContext, AnalyticWAM, make_segments
from tests.rl.recipes import closed_loop_settings
from tests.toy_simulator import toy_spec

SCHEDULES = ["fixed-full", "fixed-1"]


# This module is a family of backbones too. Each of its checkpoints is one analytic backbone of that name.
REFUSED = "refused"


def describe(config: WAMConfig) -> WAMSpec:
    """The one called "other" makes one update of every reference walk."""
    updates = 1 if config.checkpoint == "other" else SPEC.reference_updates
    return replace(SPEC, weights_hash=config.checkpoint, reference_updates=updates)


def load(config: WAMConfig) -> AnalyticWAM:
    """ValueError for the one called "refused"."""
    if config.checkpoint == REFUSED:
        raise ValueError("no backbone today")
    return AnalyticWAM(describe(config))


def run(settings: Config, output: Path) -> Comparison:
    result = evaluate(settings, sources_of(SCHEDULES, {}), output)
    assert result is not None
    return result


def outcomes(result: Comparison, schedule: str) -> dict[int, str]:
    return {row["seed"]: row["entry"]["outcome"] for row in result.ledgers[schedule]["cells"]}


def test_demonstrations_that_are_missing_are_named_before_an_episode_is_played(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=2)
    settings.demonstrations.segments = "rl.experience.segments:demonstration_segments"
    settings.demonstrations.root = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no test demonstrations of click_bell"):
        run(settings, tmp_path / "table.json")
    assert list(tmp_path.iterdir()) == []
    settings.evaluation.segments = 0
    run(settings, tmp_path / "table.json")


def test_counts_every_seed_once_and_masks_faults(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=10)
    result = run(settings, tmp_path / "table.json")
    counted = outcomes(result, "fixed-full")
    assert list(counted) == list(range(100_000, 100_010))
    assert counted[100_007] == "infeasible_seed"
    row = result.rows["fixed-full"]["all"]
    assert (row.episodes, row.faults) == (9, 1)
    assert row.forwards_mean == 25
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["fingerprint"]["backbone_hash"] == "analytic"
    assert saved["rows"]["fixed-1"]["all"]["forwards_mean"] == 1
    assert not (tmp_path / "table.json.partial").exists()


def test_precision_decides_only_the_fine_seeds(tmp_path: Path) -> None:
    result = run(closed_loop_settings(episodes=6), tmp_path / "table.json")
    full, one = outcomes(result, "fixed-full"), outcomes(result, "fixed-1")
    assert all(full[seed] == "success" for seed in full)
    assert {seed for seed in one if one[seed] == "step_limit"} == {100_001, 100_003, 100_005}
    for task in ("all", "click_bell"):
        assert result.paired["fixed-1"][task].only_reference == 3
        assert result.paired["fixed-1"][task].difference == pytest.approx(-0.5)


BROKEN_SEED = 100_002


class BrokenWAM(AnalyticWAM):
    """One number of its first chunk is NaN in the episode of one seed."""

    def finish_actions(self, context: AnalyticContext, actions: Tensor) -> npt.NDArray[np.float32]:
        finished = super().finish_actions(context, actions)
        first = np.random.default_rng(BROKEN_SEED).normal(0, 0.1, 14).astype(np.float32)
        finished[(context.joints.numpy() == first).all(axis=1), 2, 3] = np.nan
        return finished


def load_broken(config: WAMConfig) -> BrokenWAM:
    return BrokenWAM()


def test_an_action_that_is_not_finite_is_a_failure_of_its_episode_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tests.analytic.load", load_broken)
    settings = closed_loop_settings(episodes=6)
    result = run(settings, tmp_path / "table.json")
    counted = outcomes(result, "fixed-full")
    assert counted.pop(BROKEN_SEED) == "not_finite"
    assert set(counted.values()) == {"success"}
    row = result.rows["fixed-full"]["all"]
    assert (row.episodes, row.faults, row.success) == (6, 0, pytest.approx(5 / 6))
    assert row.outcomes == {"success": 5, "not_finite": 1}
    (entry,) = (one["entry"] for one in result.ledgers["fixed-full"]["cells"] if one["seed"] == BROKEN_SEED)
    assert entry["attempts"] == 1
    assert (entry["details"]["steps"], entry["details"]["updates"], entry["details"]["depths"]) == (0, [25], [1.0])
    assert "1 not finite" in next(iter(comparison_table(result).columns[1].cells))
    named = [message for message in caplog.messages if "not_finite" not in message and str(BROKEN_SEED) in message]
    assert named == [
        f"click_bell/clean seed {BROKEN_SEED} under {name}: query 1 gave nan as number 3 of action 2"
        for name in SCHEDULES
    ]
    settings.rollout.episodes_per_runner = 1
    assert run(settings, tmp_path / "alone.json").ledgers == result.ledgers


def test_a_segment_with_an_action_that_is_not_finite_has_no_error_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tests.analytic.load", load_broken)
    broken = make_segments(64, seed=2)
    joints = np.random.default_rng(BROKEN_SEED).normal(0, 0.1, 14).astype(np.float32)
    broken[0] = replace(broken[0], observation={"joints": joints})
    monkeypatch.setattr("tests.analytic.make_segments", lambda count, seed: broken)
    result = run(closed_loop_settings(episodes=1), tmp_path / "table.json")
    row = result.rows["fixed-full"]["all"]
    assert row.broken_segments == 1
    assert np.isnan(row.action_error)
    assert "coarse segment 0 under fixed-full: an action is not finite" in caplog.messages
    assert list(comparison_table(result).columns[4].cells) == 2 * ["1 not finite"]
    assert "NaN" not in (tmp_path / "table.json").read_text()


def test_action_error_is_relative_to_the_full_walk(tmp_path: Path) -> None:
    result = run(closed_loop_settings(episodes=1), tmp_path / "table.json")
    assert result.rows["fixed-full"]["all"].action_error_ratio == 1.0
    assert result.rows["fixed-1"]["all"].action_error_ratio > 1.0
    table = comparison_table(result)
    assert [column.header for column in table.columns][:3] == ["schedule", "success (n, 95%)", "forwards mean / p95"]
    assert table.row_count == 2


@pytest.mark.ray
@pytest.mark.usefixtures("ray_up")
def test_neither_the_number_of_processes_nor_their_death_changes_a_result(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=12)
    settings.rollout.episodes_per_runner = 1  # a batch is then four episodes
    alone = run(settings, tmp_path / "alone.json")
    settings.evaluation.processes = 2
    killed: list[int] = []

    def kill_one(*progress: object) -> None:
        if not killed:
            workers = [child for child in psutil.Process().children(recursive=True) if "Evaluation" in child.name()]
            workers[0].kill()
            killed.append(workers[0].pid)

    together = evaluate(settings, sources_of(SCHEDULES, {}), tmp_path / "together.json", on_progress=kill_one)
    assert killed
    assert together is not None
    assert alone.ledgers == together.ledgers


@pytest.mark.ray
@pytest.mark.usefixtures("ray_up")
@pytest.mark.parametrize(
    ("setting", "value", "error", "message"),
    [
        ("wam.backbone", __name__, ValueError, "no backbone today"),
        ("env.simulator", f"{__name__}:refusing_env", SimulatorUnavailable, "no device to render with"),
    ],
)
def test_what_stops_a_worker_is_told_in_its_own_words(
    tmp_path: Path, setting: str, value: str, error: type[Exception], message: str
) -> None:
    settings = closed_loop_settings(episodes=2)
    settings.evaluation.processes = 1
    section, _, name = setting.partition(".")
    setattr(getattr(settings, section), name, value)
    settings.wam.checkpoint = REFUSED
    with pytest.raises(error) as raised:
        run(settings, tmp_path / "table.json")
    assert type(raised.value) is error
    assert str(raised.value) == message


def refusing_env(env: EnvConfig) -> SimulatorSpec:
    """It knows its actions, but nothing can be built of it."""
    if "Evaluation" in psutil.Process().name():
        raise SimulatorUnavailable(Outcome.sim_fault, "no device to render with")
    return toy_spec(env)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=4)
    settings.rollout.episodes_per_runner = 1  # a batch is then four episodes
    asked = iter([False, True, True, True])
    output = tmp_path / "table.json"
    assert evaluate(settings, sources_of(SCHEDULES, {}), output, should_stop=lambda: next(asked)) is None
    partial = json.loads((tmp_path / "table.json.partial").read_text())
    assert [cell["entry"] is None for cell in partial["ledgers"]["fixed-full"]["cells"]] == [False] * 4
    counted: list[str] = []
    result = evaluate(settings, sources_of(SCHEDULES, {}), output, on_progress=lambda name, *_: counted.append(name))
    assert counted == ["fixed-1"]
    assert result is not None
    assert result.ledgers == run(closed_loop_settings(episodes=4), tmp_path / "straight.json").ledgers


def test_a_crashed_simulator_costs_an_attempt_not_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_CRASH_MARKER", str(tmp_path / "crashed"))
    settings = closed_loop_settings(episodes=3)
    settings.env.simulator = "tests.toy_simulator:crashing_spec"
    settings.rollout.episodes_per_runner = 1
    result = run(settings, tmp_path / "table.json")
    attempts = [row["attempts"] for row in result.ledgers["fixed-full"]["cells"]]
    assert sorted(attempts) == [1, 1, 2]
    assert result.rows["fixed-full"]["all"].faults == 0


def test_videos_of_the_first_cells(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=2)
    settings.evaluation.record_videos = 1
    run(settings, tmp_path / "table.json")
    names = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert names == [f"{name}_click_bell_clean_100000_success.mp4" for name in sorted(SCHEDULES)]


def test_learned_schedules_need_weights() -> None:
    with pytest.raises(ValueError, match="jump-only, sants"):
        sources_of(["fixed-5", "jump-only", "sants"], {})


def test_all_schedules_start_from_the_same_noise() -> None:
    settings = closed_loop_settings(episodes=1)
    wam = AnalyticWAM()
    seeds: list[list[int]] = []
    initial_noise = wam.initial_noise
    wam.initial_noise = lambda context, noise: (seeds.append(list(noise)), initial_noise(context, noise))[1]  # type: ignore
    simulators = make_simulators(settings.env, 1)
    for name in SCHEDULES:
        play(wam, build_schedule(name, wam.spec), simulators, [EpisodeTask("click_bell", "clean", 12)])
    simulators[0].close()
    assert seeds == 2 * [[query_noise_seed(12, query)] for query in range(3)]


def test_pairing_leaves_out_cells_with_a_fault_on_either_side() -> None:
    cells = [Cell("click_bell", "clean", seed) for seed in range(4)]
    ours = [Outcome.success, Outcome.success, Outcome.infeasible_seed, Outcome.step_limit]
    theirs = [Outcome.success, Outcome.step_limit, Outcome.success, Outcome.infeasible_seed]
    ledgers = []
    for results in (ours, theirs):
        ledger = Ledger(cells)
        for cell, outcome in zip(cells, results, strict=True):
            ledger.take()
            ledger.record(cell, outcome)
        ledgers.append(ledger)
    paired = pair(*ledgers)
    assert (paired.episodes, paired.only_this, paired.only_reference) == (2, 1, 0)
    assert paired.difference == 0.5


def test_a_source_without_a_checkpoint_is_the_named_schedule() -> None:
    settings = closed_loop_settings(episodes=1)
    schedule = ScheduleSource("fixed-5").load(AnalyticWAM().spec, settings.schedule)
    assert schedule.name == "fixed-5"


def test_a_row_may_walk_on_another_backbone(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=2)
    settings.wam.backbone = __name__
    settings.wam.checkpoint = "own"
    settings.evaluation.backbones = {"blunt": "other"}
    names = ["fixed-full", "fixed-full@blunt", "fixed-1"]
    result = evaluate(settings, sources_of(names, {}, settings.evaluation.backbones), tmp_path / "table.json")
    assert result is not None
    assert result.fingerprint["backbone_hash"] == "own"
    assert result.fingerprint["other_backbones"] == {"other": "other"}
    assert outcomes(result, "fixed-full")[100_001] == "success"
    assert outcomes(result, "fixed-full@blunt") == outcomes(result, "fixed-1")
    assert result.rows["fixed-full@blunt"]["all"].action_error_ratio > 1
