"""Folders by URI: fetched once, whole or not at all, anew when they changed, and confined to the cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs import fetched as module
from configs.fetched import CACHE, fetched
from configs.fields import ConfigError
from configs.schema import DemonstrationsConfig, WAMConfig
from envs.demonstrations import configured_episodes
from envs.experts.collection import is_collected_elsewhere
from launch.job import below_shared, settings_of
from policies.backbones import describe
from tests.dying import deaths

TINY = Path(__file__).resolve().parents[2] / "policies" / "backbones" / "checkpoints" / "tiny"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files, as if it was elsewhere."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    folder = tmp_path / "bucket" / "weights"
    (folder / "part").mkdir(parents=True)
    (folder / "a.json").write_text("1")
    (folder / "part" / "b.bin").write_bytes(b"22")
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_path_stays_as_it_is() -> None:
    assert fetched("runs/a", "run.root") == Path("runs/a")


def test_a_folder_is_fetched_once_and_anew_when_it_changed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = fetched(source.as_uri(), "wam.checkpoint")
    assert content_of(copy) == {"a.json": b"1", "part/b.bin": b"22"}
    with monkeypatch.context() as patch:
        patch.setattr(module, "_fetch", lambda *_: pytest.fail("it was there"))
        assert fetched(source.as_uri(), "wam.checkpoint") == copy
    (source / "a.json").write_text("333")
    again = fetched(source.as_uri(), "wam.checkpoint")
    assert again != copy
    assert content_of(again)["a.json"] == b"333"
    assert content_of(copy)["a.json"] == b"1"  # another run may read it


def test_a_folder_that_is_not_there_is_named_with_its_setting(source: Path) -> None:
    with pytest.raises(ValueError, match=r"wam\.checkpoint='file://.*/nowhere': it cannot be fetched on .*credentials"):
        fetched((source / "nowhere").as_uri(), "wam.checkpoint")
    with pytest.raises(ValueError, match="cannot be fetched on"):
        fetched("nothing-of-ours://bucket/weights", "wam.checkpoint")


def test_nothing_is_stored_outside_the_cache() -> None:
    assert module.path_below("bucket/a", "bucket/a/b/c") == "b/c"
    with pytest.raises(ValueError, match="is not below"):
        module.path_below("bucket/a", "bucket/a/../../etc")


def test_a_kill_at_any_write_leaves_a_whole_copy_or_none(source: Path, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        os.environ[CACHE] = str(folder)  # a fork's own
        fetched(source.as_uri(), "wam.checkpoint")

    for folder in deaths(tmp_path / "deaths", lambda folder: None, write):
        assert all(len(content_of(copy)) == 2 for copy in folder.glob("weights-*"))
        os.environ[CACHE] = str(folder)
        assert len(content_of(fetched(source.as_uri(), "wam.checkpoint"))) == 2


def test_weights_and_demonstrations_may_be_uris(source: Path) -> None:
    here, there = (describe(WAMConfig(checkpoint=where)) for where in (str(TINY), TINY.as_uri()))
    assert here == there
    assert is_collected_elsewhere(source.as_uri())
    with pytest.raises(ValueError, match=r"no train demonstrations of click_bell \(clean\) in .*cache/weights-"):
        configured_episodes(DemonstrationsConfig(root=source.as_uri()), ["click_bell"], "train")


def test_other_paths_are_no_uris_and_these_two_travel_as_they_are() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(["configs/sants.yaml", "run.inherit=s3://bucket/runs/a", "wam.checkpoint=s3://bucket/weights"])
    assert [problem.key for problem in caught.value.problems] == ["run.inherit"]
    config = settings_of(["configs/sants.yaml", "wam.checkpoint=s3://bucket/a", "demonstrations.root=s3://bucket/b"])
    assert below_shared(config, "train", "/mnt/wam")[0] == ["run.root=/mnt/wam/runs"]
