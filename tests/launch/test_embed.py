"""Instructions are encoded once, before the run that meets them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.schema import WAMConfig
from launch import embed
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.texts import TextEmbeddings, TextForm
from tests.envs.demonstration_trees import episode_of, write_format
from tests.policies.published.small_encoder import write_encoder
from tests.policies.published.small_mixture import write_mixture

LAYOUT = LAYOUTS.get("fastwam-idm")
FORM = TextForm.of(LAYOUT, LAYOUT.sizes["tiny"])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> WAMConfig:
    return write_mixture(tmp_path_factory.mktemp("backbone"), "fastwam-idm")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), width=FORM.width)


def arguments(backbone: WAMConfig, folder: Path, *more: str) -> list[str]:
    """A run that reads two demonstrations and plays the toy's first evaluation episodes."""
    if not (folder / "demonstrations").exists():
        write_format("legacy", folder / "demonstrations", [episode_of(seed) for seed in range(2)])
    return [
        f"wam.backbone={backbone.backbone}", f"wam.checkpoint={backbone.checkpoint}",
        f"wam.embeddings={folder / 'embeddings'}", f"demonstrations.root={folder / 'demonstrations'}",
        "env.simulator=tests.toy_simulator:toy_spec", "env.tasks=[click_bell]", "validation.every=0",
        "evaluation.episodes_per_task=2", *more,
    ]  # fmt: skip


def test_everything_that_a_run_meets_is_encoded_once(backbone: WAMConfig, encoder: Path, tmp_path: Path) -> None:
    first = arguments(backbone, tmp_path, "evaluation.episodes_per_task=1", f"embed.encoder={encoder}")
    path = FORM.path_in(tmp_path / "embeddings")
    assert embed.main(first) == 0
    assert TextEmbeddings(path, FORM).instructions == {"press bell 0", "press bell 1", "a coarse move"}
    kept = TextEmbeddings(path, FORM).features(["press bell 1"])
    assert embed.main(arguments(backbone, tmp_path, f"embed.encoder={encoder}")) == 0
    found = TextEmbeddings(path, FORM)
    assert "a fine move" in found.instructions
    assert torch.equal(found.features(["press bell 1"]), kept)
    written = path.stat().st_mtime_ns
    assert embed.main(arguments(backbone, tmp_path)) == 0  # nothing is missing, so that no encoder is needed
    assert path.stat().st_mtime_ns == written


def test_guidance_has_the_empty_text_encoded_too(encoder: Path, tmp_path: Path) -> None:
    guided = write_mixture(tmp_path / "backbone", "lingbot-va")
    layout = LAYOUTS.get("lingbot-va")
    form = TextForm.of(layout, layout.sizes["tiny"])
    more = "evaluation.episodes_per_task=1", f"embed.encoder={encoder}"
    assert embed.main(arguments(guided, tmp_path, *more)) == 0
    found = TextEmbeddings(form.path_in(tmp_path / "embeddings"), form)
    assert found.instructions == {"", "press bell 0", "press bell 1", "a coarse move"}
    assert found.features([""])[0, 0].any()


def test_another_encoder_does_not_add_to_the_same_file(
    backbone: WAMConfig, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = arguments(backbone, tmp_path, "evaluation.episodes_per_task=1", f"embed.encoder={encoder}")
    assert embed.main(few) == 0
    other = write_encoder(tmp_path / "other", seed=1, width=FORM.width)
    narrow = write_encoder(tmp_path / "narrow", width=16)
    for folder, message in ((other, "made with another text encoder"), (narrow, "have 16 numbers"), ("", "no folder")):
        with pytest.raises(SystemExit):
            embed.main(arguments(backbone, tmp_path, f"embed.encoder={folder}"))
        assert message in capsys.readouterr().out


def test_a_backbone_without_embeddings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        embed.main(["env.simulator=tests.toy_simulator:toy_spec"])
    assert "wam.backbone='tiny' needs no text embeddings. Those that do: fastwam-idm" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        embed.main([f"wam.embeddings={tmp_path}", "env.simulator=tests.toy_simulator:toy_spec"])
    assert "wam.embeddings: has no effect where wam.backbone=tiny" in capsys.readouterr().err
