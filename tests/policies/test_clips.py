"""Encoded clips on disk: every clip keeps its own text, and a damaged file is told from a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from configs.stored import DamagedFile
from policies.backbones.clips import Clips
from policies.backbones.optimisation import Curve
from policies.backbones.resuming import ResumePoint

COLUMNS = ("latents", "joints", "actions", "instruction", "episode", "start")


def clips_of(texts: list[str]) -> Clips:
    """One clip for each of the distinct texts."""
    count = len(texts)
    latents, joints, actions = torch.rand(count, 2, 3, 1, 1), torch.rand(count, 4), torch.rand(count, 8, 4)
    return Clips(
        latents, torch.empty(count, 0), joints, actions, *(torch.arange(count) for _ in range(3)), instructions=texts
    )


def save_as_before(clips: Clips, path: Path) -> None:
    """As an older version stored them."""
    tensors = {name: getattr(clips, name) for name in COLUMNS}
    save_file(tensors, path, metadata={"instructions": "\n".join(clips.instructions)})


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True))
@settings(max_examples=50, deadline=None)
def test_every_text_comes_back_whatever_is_in_it(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "clips.safetensors"
    clips_of(texts).save(path)
    assert Clips.load(path).instructions == texts


@given(texts=st.lists(st.text("a\n", max_size=3), min_size=1, max_size=4, unique=True))
@settings(max_examples=50, deadline=None)
def test_texts_of_an_older_file_are_read_rightly_or_refused(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "old.safetensors"
    save_as_before(clips_of(texts), path)
    if any("\n" in text for text in texts):
        with pytest.raises(DamagedFile, match="its clips refer to"):
            Clips.load(path)
    else:
        assert Clips.load(path).instructions == texts


@pytest.mark.parametrize(
    ("changed", "metadata", "message"),
    [
        ({"joints": torch.rand(1, 4)}, {"instructions.json": '["a", "b"]'}, "the same rows"),
        ({"joints": torch.tensor(1.0)}, {"instructions.json": '["a", "b"]'}, "the same rows"),
        ({"instruction": torch.rand(2)}, {"instructions.json": '["a", "b"]'}, "the same rows"),
        ({"instruction": torch.tensor([0, -1])}, {"instructions.json": '["a", "b"]'}, "refer to"),
        ({"instruction": torch.tensor([0, 5])}, {"instructions.json": '["a", "b"]'}, "refer to"),
        ({}, {"instructions.json": '["a", null]'}, "1 should be a valid string"),
        ({}, {"instructions.json": '"ab"'}, "should be a valid array"),
        ({}, None, "refer to"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, changed: dict[str, torch.Tensor], metadata: dict[str, str] | None, message: str
) -> None:
    tensors = {name: getattr(clips_of(["a", "b"]), name) for name in COLUMNS} | changed
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "clips", metadata=metadata)
    with pytest.raises(DamagedFile, match=message):
        Clips.load(tmp_path / "clips")


@given(cut=st.floats(0, 0.999), junk=st.binary(max_size=9))
@settings(max_examples=50, deadline=None)
def test_a_cut_file_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: float, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    clips_of(["a", "b"]).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * (len(content) - 9))] + junk)
    with pytest.raises(DamagedFile, match="it does not hold clips"):
        Clips.load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"settings": "{}"},
        {"settings": "{}", "record": "{"},
        {"settings": "{}", "record": json.dumps({"steps": 3})},
    ],
)
def test_a_damaged_state_of_a_stage_is_set_aside(
    tmp_path: Path, metadata: dict[str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    point = ResumePoint(tmp_path / "video.partial.safetensors", {})
    save_file({"ema.0": torch.ones(2)}, point.path, metadata=metadata)
    assert point.load(Curve) is None
    point.path.write_bytes(b"{")
    assert point.load(Curve) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{point.path.name}.damaged{end}" for end in ("", "1")]
    assert len(caplog.messages) == 2
    assert all(str(point.path) in message for message in caplog.messages)
