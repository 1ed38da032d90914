"""Planners through the same doors as everything else: evaluation with its ledgers and parts, runners, configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.planning import PlanConfig
from configs.schema import Config
from launch.shell.cli import load_config
from policies.schedule import PlannedSchedule
from rl.evaluation.evaluation import evaluate, fingerprint
from rl.evaluation.report import comparison_table
from rl.evaluation.sources import ScheduleSource, sources_of
from rl.evaluation.worker import for_each_backbone
from rl.method import check_backbone, method_problems
from rl.runs.tracking import read_metrics
from rl.runs.training import train
from tests.analytic import SPEC
from tests.known_noise import KNOWN
from tests.rl.recipes import analytic_settings, closed_loop_settings

ROWS = ["fixed-full", "fixed-5+none", "fixed-5+plan", "fixed-5+best-of-8"]


def planned(settings: Config) -> Config:
    settings.wam.backbone = "tests.known_noise"
    settings.plan = PlanConfig(rounds=2, videos=4, values=2)
    return settings


def test_an_evaluation_counts_the_forwards_and_the_time_of_its_planners(tmp_path: Path) -> None:
    settings = planned(closed_loop_settings(episodes=3))
    settings.evaluation.segments = 2
    result = evaluate(settings, sources_of(ROWS, {}), tmp_path / "table.json")
    assert result is not None
    forwards = {name: rows["all"].forwards_mean for name, rows in result.rows.items()}
    assert forwards == {"fixed-full": 25, "fixed-5+none": 5, "fixed-5+plan": 13, "fixed-5+best-of-8": 13}
    row = result.rows["fixed-5+plan"]["all"]
    assert row.plan_forwards_mean == 8
    assert result.rows["fixed-full"]["all"].plan_forwards_mean == 0
    assert row.plan_p50_ms > 0
    assert row.observe_p50_ms > 0
    parts = row.plan_p50_ms + row.video_p50_ms + row.action_p50_ms
    assert parts <= 1.5 * row.latency_p95_ms
    details = json.loads((tmp_path / "table.json").read_text())["episodes"]["fixed-5+plan"]["cells"][0]["entry"][
        "details"
    ]
    assert set(details["plan_forwards"]) == {8}
    assert set(details["forwards"]) == {13}
    assert "13.0 / 13 (8 plan)" in list(comparison_table(result).columns[2].cells)
    assert result.fingerprint["config"]["plan"]["rounds"] == 2


def test_only_a_comparison_with_planners_depends_on_their_settings() -> None:
    settings = planned(closed_loop_settings(episodes=1))
    assert "plan" not in fingerprint(settings, sources_of(ROWS[:2], {}), {"": KNOWN})["config"]
    assert "plan" in fingerprint(settings, sources_of(ROWS, {}), {"": KNOWN})["config"]


def test_a_row_names_schedule_planner_and_backbone(tmp_path: Path) -> None:
    (row,) = sources_of(["sants+plan-3-8@other"], {"sants": tmp_path}, {"other": "somewhere"})
    assert (row.schedule, row.planner, row.backbone, row.checkpoint) == ("sants", "plan-3-8", "somewhere", tmp_path)
    with pytest.raises(ValueError, match="No trained schedule for sants"):
        sources_of(["sants+plan"], {})


def test_a_row_on_a_backbone_without_a_value_expert_is_refused_before_anything_is_played() -> None:
    settings = closed_loop_settings(episodes=1)
    with pytest.raises(ValueError, match=r"'fixed-5\+plan' rates imagined futures, but backbone analytic has no value"):
        ScheduleSource("fixed-5+plan").load(SPEC, settings.schedule, settings.plan)
    settings.plan.training = "plan"
    with pytest.raises(ValueError, match=r"'sants\+plan' rates imagined futures"):
        check_backbone(settings, SPEC)
    check_backbone(settings, KNOWN)


def test_the_configuration_refuses_planners_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    settings = planned(closed_loop_settings(episodes=1))
    settings.evaluation.schedules = ["fixed-full", "fixed-5+guess", "fixed-5+plan"]
    (problem,) = method_problems(settings)
    assert "'guess' is no planner" in problem.message
    assert problem.fix == "Correct the name."  # weights in evaluation.trained would not help
    with pytest.raises(SystemExit):
        load_config(["plan.training=guess"], "Test.")
    assert "plan.training: 'guess' is no planner" in capsys.readouterr().err
    assert load_config(["plan.rounds=5", "plan.training=best-of-8"], "Test.").plan.rounds == 5


@pytest.mark.ray
@pytest.mark.usefixtures("ray_up")
def test_a_schedule_trains_under_a_planner_and_then_walks_without_one(tmp_path: Path) -> None:
    """The runner walks from planned noise. Weights and checkpoint are those of the schedule alone."""
    settings = planned(analytic_settings(iterations=2))
    settings.plan.training = "plan"
    settings.reward["path"].calibration_segments = 8
    latest = train(settings, tmp_path, spec=KNOWN).latest
    forwards = [line["path/forwards"] for line in read_metrics(tmp_path)]
    assert len(forwards) == 2
    assert min(forwards) > 8
    (source,) = sources_of(["sants"], {"sants": latest})
    assert not isinstance(source.load(KNOWN, settings.schedule, settings.plan), PlannedSchedule)
    (source,) = sources_of(["sants+plan"], {"sants": latest})
    assert isinstance(source.load(KNOWN, settings.schedule, settings.plan), PlannedSchedule)
    assert for_each_backbone(settings, [source], lambda config: config.backbone) == {"": "tests.known_noise"}
