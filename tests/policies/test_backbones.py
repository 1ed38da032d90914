"""Families of backbones: found by name, described without their weights, refused with one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.schema import WAMConfig
from policies.backbones import describe, load_wam
from policies.backbones.checkpoint_files import CONFIG_FILE, MODEL_FILE
from policies.backbones.tiny.checkpoint import save_wam
from tests import analytic, gated_task
from tests.policies.small_wam import small_config, small_wam


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint of its own, to be damaged."""
    wam = small_wam()
    save_wam(tmp_path, wam.model, wam.codec, wam.statistics, small_config(), {})
    return tmp_path


def test_a_description_is_the_one_of_the_loaded_backbone() -> None:
    described = describe(WAMConfig())
    assert described == load_wam(WAMConfig()).spec
    assert described.weights_hash == "3fc1c064101c81d0"
    assert described.per_frame_sigma_trained


@pytest.mark.parametrize("reads", ["future_latents", "all_latents", "future_keys", "all_keys"])
def test_every_kind_of_action_branch_is_described(reads: str, tmp_path: Path) -> None:
    wam = small_wam(reads)
    save_wam(tmp_path, wam.model, wam.codec, wam.statistics, small_config(reads), {})
    config = WAMConfig(checkpoint=str(tmp_path))
    described = describe(config)
    assert described == load_wam(config).spec
    assert described.action_reads == reads
    assert described.memory_needs_forward == reads.endswith("keys")


def test_a_description_reads_no_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the weights were read")

    for name in ("safetensors.torch.load_file", "policies.backbones.weights.load_file"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr("policies.backbones.checkpoint_files.weights_hash", refuse)
    monkeypatch.setattr("policies.backbones.tiny.model.WorldActionModel.__init__", refuse)
    assert describe(WAMConfig()).future_frames == 2
    file = checkpoint / MODEL_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the header is whole
    assert describe(WAMConfig(checkpoint=str(checkpoint))).action_dim == 14
    monkeypatch.undo()
    with pytest.raises(ValueError, match=MODEL_FILE):
        load_wam(WAMConfig(checkpoint=str(checkpoint)))


@pytest.mark.parametrize("family", [analytic, gated_task])
def test_a_family_may_be_any_module(family: object) -> None:
    config = WAMConfig(backbone=family.__name__)
    assert describe(config) == load_wam(config).spec == family.SPEC


@pytest.mark.parametrize("ask", [describe, load_wam])
@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("nowhere", r"no module policies\.backbones\.nowhere"),
        ("no.such.module", "no module no"),
        ("tests.nowhere", r"no module tests\.nowhere"),
        ("", "no module"),
        ("./tiny", "no module"),
        ("..tiny", "no module"),
        ("flow", "no functions describe and load"),
        ("tests.gated_simulator", "no functions describe and load"),
    ],
)
def test_a_missing_family_is_named(ask: Callable[[WAMConfig], object], family: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^wam.backbone='{family}': .*{message}"):
        ask(WAMConfig(backbone=family))


def test_a_family_that_lacks_a_package_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "wanting.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"families\.wanting.*a_package_that_nobody_has"):
        describe(WAMConfig(backbone="families.wanting"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("ask", [describe, load_wam])
@pytest.mark.parametrize("name", [MODEL_FILE, CONFIG_FILE])
@pytest.mark.parametrize("damage", [Path.unlink, truncate])
def test_a_checkpoint_that_is_not_whole_is_named(
    checkpoint: Path, ask: Callable[[WAMConfig], object], name: str, damage: Callable[[Path], None]
) -> None:
    damage(checkpoint / name)
    with pytest.raises(ValueError, match=rf"{checkpoint}.*{name}"):
        ask(WAMConfig(checkpoint=str(checkpoint)))


@pytest.mark.parametrize("ask", [describe, load_wam])
def test_a_missing_checkpoint_is_named(ask: Callable[[WAMConfig], object], tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=rf"wam.checkpoint='{missing}': no {CONFIG_FILE} there.*make pretrain"):
        ask(WAMConfig(checkpoint=str(missing)))
