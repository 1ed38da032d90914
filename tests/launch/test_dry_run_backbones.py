"""A dry run says whether a published checkpoint fits, what it lacks, which schedules it allows, and why no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from configs.schema import WAMConfig
from launch import train
from launch.shell.backbone import verdict_on
from policies.backbones import describe
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
