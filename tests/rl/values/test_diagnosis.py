"""`launch.diagnose --value`: what it measures and draws, and how noises of a scene are ranked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.planning import PlanConfig
from configs.stored import DamagedFile
from launch import diagnose, value
from rl.values.futures import context_of, load_futures
from rl.values.measures import agreement, auc, auc_within, rank_correlation
from rl.values.ranking import ranking, read_outcomes, score_noises, stream_seeds
from tests.rl.values.made_up import SEEDS, arguments_in, config_of

PLAN = ("plan.rounds=2", "plan.videos=3", "plan.values=2", "evaluation.reference=fixed-1")


def test_the_area_counts_pairs_and_halves_ties() -> None:
    scores, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    assert auc(scores, positive) == (1 + 1 + 0.5 + 1) / 4
    assert math.isnan(auc(scores, np.ones(4, bool)))
    assert rank_correlation(scores, scores**3) == pytest.approx(1)
    assert math.isnan(rank_correlation(scores, np.zeros(4)))


def test_pairs_are_compared_within_their_scene_alone() -> None:
    """A score that only tells easy scenes from hard ones ranks no noise."""
    scenes = [(np.full(4, 5.0), np.array([True] * 3 + [False])), (np.full(4, 1.0), np.array([False] * 3 + [True]))]
    assert auc_within(scenes) == 0.5
    assert auc(np.concatenate([s for s, _ in scenes]), np.concatenate([p for _, p in scenes])) == 0.75
    assert math.isnan(auc_within([(np.zeros(2), np.ones(2, bool))]))


def test_agreement_is_calibrated_by_groups_of_equal_size() -> None:
    true = np.arange(16.0)
    found = agreement(true + 1, true, true > 7)
    assert (found.rank_correlation, found.auc, found.rank_correlation_failures) == (1, 1, 1)
    assert [(one.count, one.predicted - one.true) for one in found.bins] == [(2, 1.0)] * 8


def test_the_best_rated_noise_lies_between_any_and_the_oracle() -> None:
    outcomes = np.array([[True, False, False], [False, False, True]])
    found = ranking(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), outcomes)
    assert (found.chosen, found.average, found.oracle) == (0.5, pytest.approx(1 / 3), 1.0)
    assert found.auc == 0.5


def test_outcomes_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = Path("docs/results/noise_bound.json")
    stored = read_outcomes(path, json.loads(path.read_text())["backbone_hash"])
    assert stored.of("fixed-1/pass_post").shape == (30, 8)
    with pytest.raises(DamagedFile, match=r"noise_bound.json: it is of backbone \w+, not other"):
        read_outcomes(path, "other")


def test_the_command_measures_and_draws_the_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = arguments_in(tmp_path)
    splits = {"train": SEEDS[:1], "validation": SEEDS[1:2], "test": SEEDS[2:]}
    (tmp_path / "demonstrations" / "splits.json").write_text(json.dumps(splits))
    value.main(arguments)
    named = [*arguments, *PLAN, f"run.root={tmp_path / 'runs'}", f"evaluation.output={tmp_path / 'seen'}"]
    with pytest.raises(SystemExit):
        diagnose.main([*named, "--value"])
    assert "wam.value is empty" in capsys.readouterr().out
    named += [f"wam.value={tmp_path / 'value' / 'value.safetensors'}"]
    assert diagnose.main([*named, "--value"]) == 0
    pictures = {"value_returns.png", "value_rounds.png", "value_choices.png"}
    assert pictures <= {path.name for path in (tmp_path / "seen").iterdir()}
    content = json.loads((tmp_path / "seen" / "value.json").read_text())
    assert len(content["planning"]["best"]) == 2
    assert content["planning"]["best"][0] >= content["planning"]["mean"][0]
    assert content["recorded"]["the future"]["count"] == content["futures"]
    wam = value.backbone(config_of(named))
    few = context_of(wam, load_futures(config_of(named), wam, "test").clips.select(torch.tensor([0, 1])))
    seeds = stream_seeds([0, 1], 3)
    scores = score_noises(wam, few, seeds, PlanConfig(values=2))
    assert scores.shape == (2, 3)
    alone = score_noises(wam, few, [row[:1] for row in seeds], PlanConfig(values=2, score="mean"))
    assert alone.shape == (2, 1)
