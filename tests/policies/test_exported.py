"""Exported schedulers: out, in, and every way in which they may not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import NoiseGateConfig, SchedulerConfig
from policies.exported import DESCRIPTION_FILE, WEIGHTS_FILE, export_scheduler, load_scheduler
from policies.learned import LearnedSchedule, new_network, schedule_with
from policies.walk import walk
from tests.analytic import SPEC, AnalyticWAM, make_segments


def exported(directory: Path, kind: str = "sants") -> LearnedSchedule:
    torch.manual_seed(0)
    config = SchedulerConfig(kind=kind, trunk_widths=[16, 8], gate=NoiseGateConfig(steps=3, channels=[8, 8]))
    network = new_network(SPEC, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    export_scheduler(directory, network, config, SPEC)
    return schedule_with(network, config)


@pytest.mark.parametrize("kind", ["sants", "stop_only", "jump_only", "noisegate"])
@pytest.mark.filterwarnings("ignore:.*different noise levels:RuntimeWarning")
def test_a_loaded_scheduler_walks_as_the_exported_one(tmp_path: Path, kind: str) -> None:
    original, loaded = exported(tmp_path, kind), load_scheduler(tmp_path)
    assert loaded.name == original.name
    wam, segments = AnalyticWAM(), make_segments(6)
    context = wam.observe([s.observation for s in segments], [s.instruction for s in segments])
    one, two = (walk(wam, context, schedule, range(6)) for schedule in (original, loaded))
    np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(one.updates, two.updates)


def test_a_gate_is_bound_to_its_backbone_too(tmp_path: Path) -> None:
    exported(tmp_path, "noisegate")
    with pytest.raises(ValueError, match=r"backbone analytic.*is other"):
        load_scheduler(tmp_path).check(replace(SPEC, weights_hash="other"))


def test_another_backbone_is_refused_naming_both(tmp_path: Path) -> None:
    exported(tmp_path)
    schedule = load_scheduler(tmp_path)
    schedule.check(SPEC)
    with pytest.raises(ValueError, match=r"width 16.*gives 17"):
        schedule.check(replace(SPEC, feature_dim=17))
    with pytest.raises(ValueError, match=r"backbone analytic.*is other"):
        schedule.check(replace(SPEC, weights_hash="other"))


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_damaged_weights_are_refused_naming_the_file(tmp_path: Path, damage) -> None:
    exported(tmp_path)
    file = tmp_path / WEIGHTS_FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        load_scheduler(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, DESCRIPTION_FILE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    exported(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=name):
        load_scheduler(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99),
        ("scheduler", {"kind": "sants", "unheard_of": 1}),
        ("scheduler", {"kind": "x"}),
        ("dimensions", {"width": 3}),
    ],
)
def test_a_description_of_something_else_is_refused(tmp_path: Path, key: str, value: object) -> None:
    exported(tmp_path)
    file = tmp_path / DESCRIPTION_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ValueError, match="scheduler"):
        load_scheduler(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    exported(tmp_path)
    file = tmp_path / DESCRIPTION_FILE
    description = json.loads(file.read_text())
    description["dimensions"]["feature_dim"] = 17
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        load_scheduler(tmp_path)
