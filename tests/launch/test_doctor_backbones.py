"""The doctor says of every published backbone where it comes from, what is here and what the memory allows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.schema import WAMConfig
from launch import doctor
from launch.machine import backbones
from policies.backbones.published.layout import LAYOUTS, wanted_tensors
from policies.memory import GIB
from tests.policies.published.small_mixture import write_mixture

Findings = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WAMConfig:
    return write_mixture(tmp_path_factory.mktemp("backbone"), "fastwam-idm")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with 20 GiB and no weights."""
    monkeypatch.setattr(backbones, "device_memory", lambda device: 20 * GIB)
    monkeypatch.setattr(backbones, "WEIGHTS", tmp_path / "weights")


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Findings]:
    code = doctor.main(["backbone", "--json", *arguments])
    return code, {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def chosen(wam: WAMConfig, folder: str | Path = "") -> list[str]:
    return [
        f"wam.backbone={wam.backbone}", f"wam.checkpoint={folder or wam.checkpoint}", f"wam.embeddings={wam.embeddings}"
    ]  # fmt: skip


def test_every_layout_is_listed_with_source_licence_size_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examined(capsys)
    assert code == 0  # nothing that this run needs is missing
    assert "20.0 GiB are free" in found["memory"]["detail"]
    for key, layout in LAYOUTS.all().items():
        assert found[key]["status"] == "note"
        if not layout.source.hub:
            assert "No weights are published" in found[key]["detail"]
            assert found[key]["fix"].startswith("copy a checkpoint of your own")
            continue
        assert layout.source.hub in found[key]["detail"]
        assert f"{layout.source.gigabytes:g} GB, licence: {layout.source.licence}" in found[key]["detail"]
        assert found[key]["fix"].startswith(f"hf download {layout.source.hub} --include ")
        autoencoder = "Wan2.2_VAE.pth" if key == "wan22" else "vae/*"
        assert f"--include '{autoencoder}'" in found[key]["fix"]
    assert "text_encoder" in found["text encoder"]["fix"]


def test_a_backbone_that_is_here_is_right(written: WAMConfig, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examined(capsys, *chosen(written))
    assert (code, found["fastwam-idm"]["status"], found["fastwam-idm"]["fix"]) == (0, "ok", "")
    assert "model.pt fits, with statistics in dataset_stats.json and 2 embedded" in found["fastwam-idm"]["detail"]
    assert found["fastwam-joint"]["status"] == "note"


def test_a_backbone_below_the_usual_folder_is_found(
    written: WAMConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(written.checkpoint, tmp_path / "weights" / "fastwam-idm")
    _, found = examined(capsys, f"wam.embeddings={tmp_path}")
    assert found["fastwam-idm"]["status"] == "note"
    assert found["fastwam-idm"]["fix"].startswith("python -m launch.embed <recipe> wam.backbone=fastwam-idm")


def test_what_is_not_complete_gets_its_command(
    written: WAMConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(written.checkpoint, folder)
    shutil.rmtree(folder / "vae")
    code, found = examined(capsys, *chosen(written, folder))
    assert (code, found["fastwam-idm"]["status"]) == (0, "note")
    assert f"--include 'vae/*' --local-dir {folder}" in found["fastwam-idm"]["fix"]
    shutil.copytree(Path(written.checkpoint) / "vae", folder / "vae")
    (folder / "vae/config.json").write_text("{")
    _, found = examined(capsys, *chosen(written, folder))
    assert "vae/config.json: " in found["fastwam-idm"]["detail"]
    assert f"--include 'vae/*' --local-dir {folder}" in found["fastwam-idm"]["fix"]
    (folder / "dataset_stats.json").write_text("{}")
    code, found = examined(capsys, *chosen(written, folder))
    assert (code, found["fastwam-idm"]["status"]) == (1, "missing")
    assert "action is missing" in found["fastwam-idm"]["detail"]
    (folder / "dataset_stats.json").unlink()
    code, found = examined(capsys, *chosen(written, folder))
    assert (code, found["fastwam-idm"]["status"]) == (1, "missing")
    assert "wam.statistics" in found["fastwam-idm"]["detail"]
    (folder / "model.pt").unlink()
    assert "no checkpoint is there" in examined(capsys, *chosen(written, folder))[1]["fastwam-idm"]["detail"]


def test_too_little_memory_is_said(
    written: WAMConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "device_memory", lambda device: 8 * GIB)
    _, found = examined(capsys, *chosen(written))
    assert found["fastwam-idm"]["status"] == "note"
    assert "it takes 11.2 GiB, more than is free" in found["fastwam-idm"]["detail"]


def test_a_backbone_that_does_not_act_needs_nothing_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = LAYOUTS.get("wan22")
    tensors = {name: torch.zeros(shape) for name, shape in wanted_tensors(layout, layout.sizes["tiny"]).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    code, found = examined(capsys, "wam.backbone=wan22", f"wam.checkpoint={tmp_path}")
    assert (code, found["wan22"]["status"], found["wan22"]["fix"]) == (0, "ok", "")
    assert "gives no actions" in found["wan22"]["detail"]
