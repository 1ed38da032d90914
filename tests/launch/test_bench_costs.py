"""`launch.bench` of what backbones cost: published ones with random weights at the tiny size, and the built-in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.schema import WAMConfig
from launch import bench
from launch.measuring import costs
from launch.shell.cli import parse, resolve
from tests.policies.published.small_mixture import write_mixture


@pytest.mark.parametrize("key", ["fastwam-idm", "lingbot-va"])
def test_random_weights_are_written_loaded_and_measured(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "configs/sants.yaml",
        f"wam.backbone={key}",
        "wam.dtype=bfloat16",
        "bench.weights=random",
        "bench.size=tiny",
        f"bench.folder={tmp_path}/random",
        "bench.schedules=[fixed-1,sants]",
        "schedule.untrained_updates=2",
        f"run.root={tmp_path}/runs",
    ]
    assert bench.main(arguments) == 0
    assert (tmp_path / f"random/{key}-tiny/random.pt").is_file()
    assert not (tmp_path / f"random/{key}-tiny/random.raw").exists()
    measured = {ratio["name"]: ratio for ratio in json.loads((tmp_path / "runs/bench/bench.json").read_text())}
    assert {"loading", "observe, batch 1", "video forward, batch 1", "action step, batch 1"} < measured.keys()
    assert "1 with 2.0 video forwards each" in measured["fixed-1, batch 1"]["explanation"]
    assert "1 with 3.0 video forwards each" in measured["sants, batch 1"]["explanation"]
    assert measured["peak memory"]["value"] > 0
    assert "random weights" in capsys.readouterr().out


def test_a_backbone_whose_video_reads_the_action_is_measured_by_joint_forwards(tmp_path: Path) -> None:
    chosen = ["wam.backbone=x-wam", "wam.dtype=bfloat16", "bench.weights=random", "bench.size=tiny"]
    folders = [f"bench.folder={tmp_path}/random", f"run.root={tmp_path}/runs"]
    assert bench.main(["configs/xwam.yaml", *chosen, "bench.schedules=[async-2-6]", *folders]) == 0
    found = next((tmp_path / "runs").rglob("bench.json"))
    measured = {ratio["name"]: ratio for ratio in json.loads(found.read_text())}
    assert measured["joint forward, batch 1"]["value"] > 0
    assert "1 with 2.0 video forwards each" in measured["async-2-6, batch 1"]["explanation"]


def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    config: WAMConfig = write_mixture(tmp_path, "fastwam-idm")
    with pytest.raises(SystemExit):
        bench.main(["configs/sants.yaml", "wam.backbone=openwam-idm", f"wam.checkpoint={config.checkpoint}"])


def test_the_built_in_backbone_is_measured_in_the_same_way() -> None:
    config = resolve(parse(["configs/sants.yaml"], {}))
    _, ratios = costs.measure(config, config.wam, [])
    measured = {ratio.name: ratio for ratio in ratios}
    parts = ("loading", "observe, batch 1", "video forward, batch 1", "action step, batch 1", "peak memory")
    assert tuple(measured) == parts
    assert all(ratio.value > 0 for ratio in ratios)


def test_random_weights_are_for_published_backbones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["configs/sants.yaml", "bench.weights=random", f"run.root={tmp_path}"])
    assert "bench.weights: has no effect where wam.backbone=tiny" in capsys.readouterr().err
