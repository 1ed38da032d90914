"""A dry run says whether a published checkpoint fits, what it lacks, which schedules it allows, and why no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from configs.schema import WAMConfig
from envs.tabletop.suite import TabletopSuite
from launch import train
from launch.shell.backbone import verdict_on
from policies.backbones import describe
from policies.backbones.published import loading
from policies.backbones.published.files import Checkpoint, open_checkpoint
from tests.policies.published.small_mixture import write_mixture


@pytest.fixture(scope="module")
def idm(tmp_path_factory: pytest.TempPathFactory) -> WAMConfig:
    return write_mixture(tmp_path_factory.mktemp("idm"), "fastwam-idm")


def dry_run(wam: WAMConfig, capsys: pytest.CaptureFixture[str], **changes: object) -> tuple[int, str]:
    settings = {"backbone": wam.backbone, "checkpoint": wam.checkpoint, "embeddings": wam.embeddings, **changes}
    with pytest.raises(SystemExit) as ended:
        train.main(["configs/sants.yaml", "--dry-run", *(f"wam.{name}={value}" for name, value in settings.items())])
    printed = capsys.readouterr()
    return int(str(ended.value)), printed.out + printed.err


def test_what_fits_is_said_below_the_resolved_configuration(idm: WAMConfig, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = dry_run(idm, capsys)
    assert code == 0
    assert yaml.safe_load(text)["wam"]["backbone"] == "fastwam-idm"  # what is said of it are comments
    assert f"# wam.backbone=fastwam-idm: {idm.checkpoint} fits" in text
    (allowed,) = [line for line in text.splitlines() if line.startswith("# it allows: ")]
    assert "# its actions are absolute joint targets of both arms\n" in text
    assert {"sants", "fixed-full", "joint-10", "async"} <= set(allowed.removeprefix("# it allows: ").split(", "))
    assert "#   noisegate: yes, but schedule 'noisegate' gives the future frames different noise levels" in text
    assert "#   fixed-full+plan: no, 'fixed-full+plan' rates imagined futures" in text


def test_a_method_that_it_does_not_allow_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wam = write_mixture(tmp_path, "fastwam-uncond")
    code, text = dry_run(wam, capsys)
    assert code == 2
    assert "schedule.name: schedule 'sants' learns when and how far to denoise" in text
    verdicts = {name: verdict_on(name, describe(wam)) for name in ("sants", "fixed-full")}
    assert verdicts["sants"].startswith("no, schedule 'sants' learns")
    assert verdicts["fixed-full"] == ""


def test_a_checkpoint_of_another_layout_is_named(idm: WAMConfig, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = dry_run(idm, capsys, backbone="fastwam-libero-optional-idm")
    assert code == 2
    assert "wam.checkpoint: " in text
    assert "it does not fit fastwam-libero-optional-idm" in text


def test_everything_that_is_missing_beside_it_is_told_at_once(
    idm: WAMConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(Path(idm.checkpoint) / "model.pt", tmp_path)
    code, text = dry_run(idm, capsys, checkpoint=tmp_path, embeddings=tmp_path)
    assert code == 2
    assert "has 3 problems" in text
    for fix in ("set wam.statistics", "set wam.vae", "run `python -m launch.embed`"):
        assert fix in text


def test_actions_that_the_arms_of_the_robot_carry_out_are_said_and_others_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = dry_run(write_mixture(tmp_path / "poses", "openwam-idm"), capsys)
    assert code == 0
    assert "# its actions are poses of two tools with 6-D rotations, which the arms of the robot turn into" in text
    code, text = dry_run(write_mixture(tmp_path / "deltas", "fastwam-libero-optional-idm"), capsys)
    assert code == 2
    assert "wam.checkpoint: the backbone's actions are displacements of one tool with a gripper (LIBERO)" in text
    assert "takes 14: choose a wam.checkpoint that was trained on it" in text


def test_what_a_user_of_lingbot_should_know_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = dry_run(write_mixture(tmp_path, "lingbot-va"), capsys)
    assert code == 0
    assert (
        "# its actions are poses of two tools with quaternions, relative to those of the episode's first observation"
        in text
    )
    assert "# note: its video is guided: a video forward runs the network twice" in text
    assert "# note: a query reads the frames and actions of its episode before it" in text
    assert "noisegate: yes, but" not in text  # a level for each frame was trained


def test_instructions_that_a_run_will_meet_without_features_are_all_named(
    idm: WAMConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    met = ["lift the pot", "fold the towel", "open the drawer"]
    monkeypatch.setattr(TabletopSuite, "instructions", lambda *_: met)
    code, text = dry_run(idm, capsys)
    assert code == 2
    assert "has no embeddings of 'fold the towel', 'open the drawer': run `python -m launch.embed`" in text


def test_a_dry_run_opens_the_checkpoint_once(
    idm: WAMConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def watched(path: Path) -> Checkpoint:
        opened.append(path)
        return open_checkpoint(path)

    monkeypatch.setattr(loading, "open_checkpoint", watched)
    assert dry_run(idm, capsys)[0] == 0
    assert opened == [Path(idm.checkpoint)]
