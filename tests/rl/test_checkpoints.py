"""Checkpoints: complete or absent, verified file by file, never unpickled."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rl.runs.checkpoints as checkpoints
from envs.files import write_bytes
from rl.runs.checkpoints import (
    SCHEMA_VERSION,
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    read_checkpoint,
    write_checkpoint,
)
from rl.runs.lock import run_lock
from rl.runs.scores import Score


def make(iteration: int, value: float = 1.0) -> Checkpoint:
    return Checkpoint(
        scheduler={"trunk.0.weight": torch.full((2, 3), value)},
        optimizer={"adam/0/step": torch.tensor(float(iteration)), "adam/0/exp_avg": torch.randn(2, 3)},
        anchors={"keys": torch.tensor([[3, 2**62]]), "errors": torch.rand(1, 4, dtype=torch.float64)},
        state={"iteration": iteration, "backbone_hash": "abc", "baseline": 0.1 + 0.2},
        config={"run": {"seed": 42}},
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    tensors = all(
        torch.equal(getattr(one, part)[name], getattr(other, part)[name])
        for part in ("scheduler", "optimizer", "anchors")
        for name in getattr(one, part)
    )
    return tensors and one.state == other.state and one.config == other.config


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = make(7)
    read = read_checkpoint(write_checkpoint(written, tmp_path / "step_000007"))
    assert same(written, read)
    assert read.path == tmp_path / "step_000007"
    assert sorted(path.suffix for path in read.path.iterdir()) == 3 * [".json"] + 3 * [".safetensors"]


@pytest.mark.parametrize(
    "name", ["scheduler.safetensors", "optimizer.safetensors", "anchors.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = write_checkpoint(make(1), tmp_path / "step_000001") / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(path.parent)


@pytest.mark.parametrize("version", [1, 99])
def test_a_manifest_of_another_schema_is_refused(tmp_path: Path, version: int) -> None:
    directory = write_checkpoint(make(1), tmp_path / "step_000001")
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(manifest | {"schema_version": version}))
    with pytest.raises(CheckpointError, match=f"schema version {version}; this code reads {SCHEMA_VERSION}"):
        read_checkpoint(directory)


@pytest.mark.parametrize("content", [{}, {"files": []}, {"files": None}, {"files": {"scheduler.safetensors": 7}}])
def test_a_manifest_that_lists_no_files_is_a_damaged_checkpoint(tmp_path: Path, content: dict[str, object]) -> None:
    store = CheckpointStore(tmp_path)
    for iteration in (1, 2):
        store.save(make(iteration))
    (store.path_of(2) / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, **content}))
    with pytest.raises(CheckpointError, match=str(store.path_of(2))):
        read_checkpoint(store.path_of(2))
    found = store.latest_valid()
    assert found is not None
    assert found.iteration == 1


@pytest.mark.parametrize(
    "content",
    [
        '{"step": "step_0000',
        "[]",
        '{"step": "step_000001"}',
        '{"step": "../elsewhere", "validated": {}}',
        '{"step": ["step_000001"], "validated": {}}',
        '{"step": null, "validated": {"step_000001": [0.5]}}',
        '{"step": null, "validated": {"step_000001": {"success": "high"}}}',
        '{"step": null, "validated": {"step_000001": {"episodes": null}}}',
        '{"step": null, "validated": {"step_000001": {"luck": 1}}}',
    ],
)
def test_damaged_scores_count_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(make(1), Score(0.9, 100, 0.5))
    (store.directory / "best.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert store.best_path is None
    store.save(make(2), Score(0.3, 100, 0.9))
    assert store.best_path == store.path_of(2)
    assert (store.directory / "best.json.damaged").read_text() == content
    (message,) = caplog.messages
    assert message.startswith(f"{store.directory / 'best.json'}: ")


def test_scores_that_are_nan_were_not_measured(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for iteration, score in {1: Score(0.5, 10, 0.2), 2: Score(math.nan, 0, math.nan, math.nan), 3: Score()}.items():
        store.save(make(iteration), score)
    assert store.best_path == store.path_of(1)
    assert list(store.scores) == [f"step_{iteration:06d}" for iteration in (1, 2, 3)]


@given(cut=st.floats(0, 1), junk=st.binary(max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_cut_or_changed_file_of_scores_is_read_or_set_aside(
    tmp_path_factory: pytest.TempPathFactory, cut: float, junk: bytes
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("scores"))
    store.directory.mkdir()
    path, scores = store.directory / "best.json", {"step_000001": Score(0.5, 10, 0.2)}
    content = json.dumps({"step": None, "validated": {name: asdict(score) for name, score in scores.items()}}).encode()
    path.write_bytes(content[: int(cut * len(content))] + junk)
    found = store.scores
    assert found == scores if path.exists() else found == {}


def test_a_manifest_cannot_point_elsewhere(tmp_path: Path) -> None:
    directory = write_checkpoint(make(1), tmp_path / "step_000001")
    (tmp_path / "outside").write_bytes(b"x")
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"] = {"../outside": next(iter(manifest["files"].values()))}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"scheduler\.safetensors is missing"):
        read_checkpoint(directory)


def test_the_latest_valid_one_is_found_behind_damaged_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=5)
    for iteration in (1, 2, 3):
        store.save(make(iteration))
    (store.path_of(3) / "scheduler.safetensors").write_bytes(b"")
    (store.path_of(2) / "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        found = store.latest_valid()
    assert found is not None
    assert found.iteration == 1
    assert all(str(store.path_of(iteration)) in caplog.text for iteration in (2, 3))
    assert CheckpointStore(tmp_path / "nothing").latest_valid() is None


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    scores = {1: Score(0.3, 100, 0.9), 2: Score(0.7, 100, 0.2), 3: Score(0.69, 100, 0.1), 4: None, 5: None}
    for iteration, score in scores.items():
        store.save(make(iteration), score)
    assert store.best_path == store.path_of(2)
    assert store.scores[store.path_of(2).name] == scores[2]
    assert store.paths() == [store.path_of(iteration) for iteration in (2, 3, 4, 5)]  # the third may still win
    store.save(make(6), Score(0.9, 100, 0.0))
    assert store.best_path == store.path_of(6)
    assert store.paths() == [store.path_of(iteration) for iteration in (5, 6)]


def test_going_back_sets_aside_what_came_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=4)
    scores = {20: Score(0.5, 100, 0.9), 40: Score(0.9, 100, 0.9), 50: None, 60: None}
    for iteration, score in scores.items():
        store.save(make(iteration), score)
    with caplog.at_level(logging.WARNING):
        store.go_back_to(20)
    aside = store.directory / "set_aside_001"
    assert [path.name for path in sorted(aside.iterdir())] == ["step_000040", "step_000050", "step_000060"]
    assert str(aside) in caplog.text
    assert read_checkpoint(aside / "step_000060").iteration == 60
    assert store.paths() == [store.path_of(20)]
    assert store.best_path == store.path_of(20)
    assert store.scores == {store.path_of(20).name: scores[20]}
    for iteration in (30, 40):
        assert read_checkpoint(store.save(make(iteration))).iteration == iteration
    store.go_back_to(30)
    assert [path.name for path in (store.directory / "set_aside_002").iterdir()] == ["step_000040"]
    latest = store.latest_valid()
    assert latest is not None
    assert latest.iteration == 30


def test_what_was_just_saved_is_never_dropped(tmp_path: Path) -> None:
    """Whatever lies beside it: checkpoints of another course, or of another version of this code."""
    store = CheckpointStore(tmp_path, keep=2)
    for iteration in (40, 50, 60):
        store.save(make(iteration))
    for path in store.paths():
        (path / "manifest.json").write_text('{"schema_version": 99, "files": {}}')
    path = store.save(make(30))
    assert store.paths() == [path]
    latest = store.latest_valid()
    assert latest is not None
    assert latest.path == path
    assert len(list((store.directory / "set_aside_001").iterdir())) == 2


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for iteration in (1, 2):
        store.save(make(iteration))
    (store.path_of(2) / "state.json").unlink()
    store.save(make(3))
    assert store.paths() == [store.path_of(iteration) for iteration in (1, 2, 3)]
    store.save(make(4))
    assert store.paths() == [store.path_of(iteration) for iteration in (3, 4)]


def test_checkpoints_are_in_the_order_of_their_iterations(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (store.directory / "step_by_step").mkdir(parents=True)
    for iteration in (999_998, 999_999, 1_000_000):
        store.save(make(iteration))
    assert store.paths() == [store.path_of(999_999), store.path_of(1_000_000)]


def test_a_crash_while_writing_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write and at the rename."""
    store = CheckpointStore(tmp_path)
    store.save(make(1))
    for step in range(7):
        with monkeypatch.context() as patch:
            fail_at(patch, step)
            with pytest.raises(OSError, match="disk is gone"):
                store.save(make(2))
        found = store.latest_valid()
        assert found is not None
        assert found.iteration == 1
        assert [path.name for path in store.directory.iterdir()] == ["step_000001"], "something is left behind"
    (store.directory / ".writing_step_000003").mkdir()  # of a process that was killed
    store.save(make(2))
    assert [path.name for path in sorted(store.directory.iterdir())] == ["step_000001", "step_000002"]


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "best.json"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("best.json", b"old")]


def fail_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the first `step` of 6 writes and the rename succeed."""
    done: list[int] = []
    write, rename = checkpoints._write_synced, os.rename

    def count() -> None:
        if len(done) == step:
            raise OSError("disk is gone")
        done.append(step)

    patch.setattr(checkpoints, "_write_synced", lambda path, content: (count(), write(path, content)))
    patch.setattr(os, "rename", lambda source, target: (count(), rename(source, target)))


def take(directory: Path) -> None:
    with run_lock(directory):
        pass


def test_a_run_directory_has_one_owner(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(ValueError, match=rf"in use by a live run \(process {os.getpid()}\)"):
        take(tmp_path)
    take(tmp_path)


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rl.runs.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=str(process.pid)):
            take(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    take(tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_refused_with_the_new_name_of_every_key(tmp_path: Path) -> None:
    directory = tmp_path / "step_000004"
    directory.mkdir()
    (directory / "manifest.json").write_text('{"schema_version": 1, "files": {}}')
    old = {"scheduler": {"kind": "sants", "gate": {"steps": 10}}, "ppo": {"clip": 0.2}, "run": {"name": "sants"}}
    (directory / "config.json").write_text(json.dumps(old))
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(directory)
    text = str(refused.value)
    assert "schema version 1; this code reads 2" in text
    for old_key, new_key in {
        "scheduler.kind": "schedule.name",
        "scheduler.gate.steps": "schedule.steps",
        "ppo.clip": "objective.clip",
    }.items():
        assert f"{old_key}: It is called {new_key} now." in text
    assert "run.name" not in text
