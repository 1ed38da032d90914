"""The real `launch.convert`: from any format to a LeRobot dataset, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config
from envs.demonstrations import SPLITS, Episode, list_episodes, read_episode
from launch import convert
from launch.pretrain import Pretraining
from launch.shell.stages import demonstration_settings
from tests.envs.demonstration_trees import episode_of, write_legacy, write_xpolicylab


def arguments(root: Path, output: Path, *others: str) -> list[str]:
    named = [f"demonstrations.root={root}", f"convert.output={output}", "env.tasks=[click_bell]"]
    return [*named, *others]


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """As the collection leaves it: seeds that are no indices, and splits by seed."""
    root = tmp_path / "collected"
    for index in range(3):
        write_legacy(root / "click_bell" / "clean", index, episode_of(index))
    (root / "click_bell" / "clean" / "seed.txt").write_text("5 7 8")
    (root / "splits.json").write_text(json.dumps({"train": [8, 7], "validation": [], "test": [5]}))
    return root


def test_demonstrations_of_ours_survive_the_conversion(collected: Path, tmp_path: Path) -> None:
    output = tmp_path / "shared" / "bells"
    assert convert.main(arguments(collected, output)) == 0
    info = json.loads((output / "meta" / "info.json").read_text())
    assert (info["fps"], info["robot_type"], info["splits"]) == (10, "tabletop", {"train": "0:2", "test": "2:3"})
    for split in SPLITS[::2]:
        before, after = (list_episodes(root, ["click_bell"], ["clean"], split) for root in (collected, output))
        assert [reference.seed for reference in after] == [reference.seed for reference in before]
        for old, new in zip(before, after, strict=True):
            same(read_episode(old), read_episode(new))
    assert [path.name for path in output.parent.iterdir()] == ["bells"]


def same(before: Episode, after: Episode) -> None:
    np.testing.assert_array_equal(after.joints, before.joints)
    assert after.instructions == before.instructions
    for view, frames in after.images.items():
        assert np.abs(frames.astype(int) - before.images[view]).mean() < 3


def test_the_rate_comes_from_the_source_unless_it_is_given(tmp_path: Path) -> None:
    write_xpolicylab(tmp_path / "data" / "demo_clean" / "click_bell" / "piper", 0, episode_of(0), frequency=25)
    convert.main(arguments(tmp_path / "data", tmp_path / "a", "demonstrations.embodiment=piper"))
    convert.main(arguments(tmp_path / "data", tmp_path / "b", "convert.fps=12.5"))
    infos = [json.loads((tmp_path / name / "meta" / "info.json").read_text()) for name in "ab"]
    assert [(info["fps"], info["robot_type"]) for info in infos] == [(25, "piper"), (12.5, "tabletop")]


def test_a_dry_run_writes_nothing(collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        convert.main([*arguments(collected, tmp_path / "out"), "--dry-run"])
    assert "convert:" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("problem", ["exists", "nothing", "damaged", "sizes"])
def test_a_failure_is_one_message_and_leaves_nothing(
    collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    root, output = collected, tmp_path / "shared" / "out"
    data = collected / "click_bell" / "clean" / "data"
    words = {"exists": "exists already", "nothing": "make demos", "damaged": "download it again", "sizes": "one size"}
    if problem == "exists":
        output.mkdir(parents=True)
    elif problem == "nothing":
        root = tmp_path / "nothing"
    elif problem == "damaged":
        (data / "episode1.hdf5").write_bytes((data / "episode1.hdf5").read_bytes()[:500])
    else:
        write_legacy(collected / "click_bell" / "clean", 1, episode_of(1, joints=16))
    with pytest.raises(SystemExit, match="1"):
        convert.main(arguments(root, output))
    assert words[problem] in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in output.parent.iterdir()} == (
        {"out", "error.log"} if problem == "exists" else {"error.log"}
    )


def test_an_interruption_leaves_nothing(collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.shell.progress.StageProgress.advance", interrupted)
    assert convert.main(arguments(collected, tmp_path / "shared" / "out")) == 130
    assert list((tmp_path / "shared").iterdir()) == []
    (tmp_path / "shared" / ".out.partial" / "filled" / "data").mkdir(parents=True)  # as a killed call leaves it
    monkeypatch.undo()
    assert convert.main(arguments(collected, tmp_path / "shared" / "out")) == 0
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["out"]


def test_pretraining_reads_what_was_converted(collected: Path, tmp_path: Path) -> None:
    convert.main(arguments(collected, tmp_path / "out"))
    settings = Config()
    settings.env.tasks, settings.pretrain.output = ["click_bell"], str(tmp_path / "pretrain")
    settings.demonstrations.root = str(tmp_path / "out")
    episodes = Pretraining(settings)._episodes("train")
    assert [episode.instruction for episode in episodes] == ["press bell 1", "press bell 2"]
    assert episodes[0].canvas.shape == (7, 96, 64, 3)
    assert len(demonstration_settings(settings, "train")["demonstrations"]) == 64


def test_pretraining_refuses_another_robot(tmp_path: Path) -> None:
    write_legacy(tmp_path / "data" / "click_bell" / "clean", 0, episode_of(0, joints=16))
    settings = Config()
    settings.env.tasks, settings.pretrain.output = ["click_bell"], str(tmp_path / "pretrain")
    settings.demonstrations.root, settings.demonstrations.test_fraction = str(tmp_path / "data"), 0.0
    with pytest.raises(ValueError, match=r"episode0\.hdf5 has 16 joints and grippers, the small backbones have 14"):
        Pretraining(settings)._episodes("train")
