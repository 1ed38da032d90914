"""Runs that a URI keeps: whole whatever happens between two copies, owned by one, and resumed as if undisturbed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from configs.fetched import CACHE, holds_credentials, working_folder
from configs.fields import ConfigError
from launch.job import below_shared, settings_of
from rl.runs import keeping
from rl.runs.checkpoints import CheckpointStore, read_checkpoint
from rl.runs.keeping import LEASE, RemoteKeeper, RunTaken, kept
from rl.runs.tracking import read_metrics
from rl.runs.training import train
from tests.analytic import SPEC
from tests.rl.recipes import analytic_settings
from tests.rl.test_checkpoints import make, same
from tests.rl.test_killed_writes import BETTER, SCORE, tree_of

FIRST, SECOND = make(2), make(4)
FILES = ("scheduler.safetensors", "optimizer.safetensors", "anchors.safetensors")


class Killed(BaseException):
    """Stands for a kill -9: nothing in the program catches it."""


class Store:
    """An object store in the memory of the test, which fails before its n-th change from now on."""

    def __init__(self) -> None:
        self.system, self.place = fs.FileSystem.from_uri("fsspec+memory://bucket/runs")
        self.left = -1
        self.error: BaseException = Killed()

    def keeper(self, folder: Path) -> RemoteKeeper:
        return RemoteKeeper(self, f"{self.place}/tiny", folder, "tiny in the store")

    def _change(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def get_file_info(self, selector: Any) -> Any:
        return self.system.get_file_info(selector)

    def open_input_stream(self, place: str) -> Any:
        return self.system.open_input_stream(place)

    def open_output_stream(self, place: str) -> Any:
        if not place.endswith(LEASE):
            self._change()
        return self.system.open_output_stream(place)

    def delete_file(self, place: str) -> None:
        if not place.endswith(LEASE):
            self._change()
        self.system.delete_file(place)

    def clear(self) -> None:
        self.system.delete_dir_contents(self.place, missing_dir_ok=True)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Leases that a test lets go of belong to nobody at once."""
    for name in ("LEASE_S", "SETTLE_S"):
        monkeypatch.setattr(keeping, name, 0.0)
    made = Store()
    made.clear()
    yield made
    made.clear()


def visible(folder: Path) -> dict[str, bytes]:
    """The files of a run without those that belong to a machine."""
    return {name: content for name, content in tree_of(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("scheme", ["file", "fsspec+memory"])
def test_a_run_is_kept_and_fetched_byte_for_byte(scheme: str, tmp_path: Path, store: Store) -> None:
    root = (tmp_path / "bucket").as_uri() if scheme == "file" else "fsspec+memory://bucket/runs"
    here, there = tmp_path / "here", tmp_path / "there"
    with kept(root, "tiny", here) as keeper:
        CheckpointStore(here, keep=1, on_saved=keeper.keep).save(FIRST, SCORE)
        (here / ".ray_token").write_text("secret")
        (here / "metrics.jsonl").write_text("{}\n")
    (there / "checkpoints").mkdir(parents=True)
    (there / "checkpoints" / "stale").write_text("of another run")
    with kept(root, "tiny", there):
        assert visible(there) == visible(here)
        assert not (there / ".ray_token").exists()
        CheckpointStore(there, keep=1).save(SECOND, BETTER)
    with kept(root, "tiny", here):
        assert visible(here) == visible(there)
        assert not (here / "checkpoints" / "step_000002").exists()


def test_a_kill_between_any_two_copies_leaves_a_whole_run(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(folder: Path) -> RemoteKeeper:
        keeper = store.keeper(folder)
        keeper.take()
        CheckpointStore(folder, keep=1).save(FIRST, SCORE)
        (folder / "metrics.jsonl").write_text("1\n2\n")
        keeper.keep()
        return keeper

    def go_on(folder: Path, keeper: RemoteKeeper) -> None:
        """It makes the first checkpoint superfluous."""
        (folder / "metrics.jsonl").write_text("1\n2\n3\n4\n")
        CheckpointStore(folder, keep=1, on_saved=keeper.keep).save(SECOND, BETTER)

    go_on(tmp_path / "whole", begin(tmp_path / "whole"))
    found = set()
    for changes in count(1):
        store.clear()
        keeper = begin(tmp_path / f"killed_{changes}")
        store.left = changes
        try:
            go_on(tmp_path / f"killed_{changes}", keeper)
        except Killed:
            store.left = -1
        else:
            break
        again = tmp_path / f"again_{changes}"
        keeper = store.keeper(again)
        keeper.take()
        latest = CheckpointStore(again).latest_valid()
        assert latest is not None
        assert same(latest, FIRST if latest.iteration == FIRST.iteration else SECOND)
        assert (again / "metrics.jsonl").read_text().startswith("1\n2\n")
        found.add(latest.iteration)
        go_on(again, keeper)
        assert visible(again) == visible(tmp_path / "whole")
        third = store.keeper(tmp_path / f"third_{changes}")
        third.take()
        assert visible(tmp_path / f"third_{changes}") == visible(tmp_path / "whole")
    assert changes > 12
    assert found == {FIRST.iteration, SECOND.iteration}
    assert "damaged" not in caplog.text


@pytest.mark.ray
@pytest.mark.usefixtures("ray_up")
def test_a_training_whose_copies_end_goes_on_exactly_in_a_fresh_folder(tmp_path: Path, store: Store) -> None:
    """It is killed in its second copy of a checkpoint, as if another head took it over."""
    settings = analytic_settings(iterations=6)
    whole = train(settings, tmp_path / "whole", spec=SPEC)
    keeper, here = store.keeper(tmp_path / "here"), tmp_path / "here"
    keeper.take()
    store.left = 12
    with pytest.raises(Killed):
        train(settings, here, spec=SPEC, on_saved=keeper.keep)
    store.left, there, seen = -1, tmp_path / "there", []
    shutil.rmtree(here)
    (keeper := store.keeper(there)).take()
    result = train(settings, there, spec=SPEC, on_start=seen.append, on_saved=keeper.keep)
    assert seen == [2]
    assert whole.latest is not None
    assert result.latest is not None
    for name in FILES:
        assert (result.latest / name).read_bytes() == (whole.latest / name).read_bytes()
    assert read_checkpoint(result.latest).state == read_checkpoint(whole.latest).state
    assert [one["iteration"] for one in read_metrics(there)] == [1, 2, 3, 4, 5, 6]


def test_a_store_that_does_not_answer_costs_nothing_until_the_end(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = store.keeper(tmp_path / "here")
    keeper.take()
    store.left, store.error = 3, OSError("no route")
    CheckpointStore(tmp_path / "here", on_saved=keeper.keep).save(FIRST)
    assert "tiny in the store could not be kept, and is tried again later: no route" in caplog.text
    store.left = 1
    with pytest.raises(OSError, match=r"could not be kept \(no route\). What is new is in .*here alone"):
        keeper.leave()
    keeper.leave()
    store.keeper(tmp_path / "there").take()
    assert visible(tmp_path / "there") == visible(tmp_path / "here")


def test_a_run_has_one_owner(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LEASE_S", 30.0)
    monkeypatch.setattr(keeping, "BEAT_S", 0.05)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "tiny-1"}}')
    first, second = store.keeper(tmp_path / "first"), store.keeper(tmp_path / "second")
    first.take()
    with pytest.raises(ValueError, match=r"tiny in the store is in use by job tiny-1 on .* choose another run\.name"):
        second.take()
    first.leave()
    second.take()


def test_an_owner_that_has_ended_on_this_machine_is_followed_at_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LEASE_S", 1e6)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    first, second = store.keeper(tmp_path / "first"), store.keeper(tmp_path / "second")
    first._lease = replace(first._lease, process=ended.pid)
    first.take()
    second.take()
    elsewhere = replace(first._lease, machine="another one")
    assert first._lease.has_ended()
    assert not elsewhere.has_ended()
    assert replace(second._lease, started=1).has_ended(), "its number belongs to another process by now"
    assert not second._lease.has_ended()


def test_a_silent_owner_is_followed_and_copies_nothing_more(tmp_path: Path, store: Store) -> None:
    first, second = store.keeper(tmp_path / "first"), store.keeper(tmp_path / "second")
    first.take()
    second.take()
    with pytest.raises(RunTaken, match=r"is owned by a run on .*: nothing more is copied"):
        CheckpointStore(tmp_path / "first", on_saved=first.keep).save(FIRST)
    store.keeper(tmp_path / "third").take()
    assert visible(tmp_path / "third") == {}


def test_of_two_that_come_at_once_the_last_one_owns_the_run(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store.keeper(tmp_path / "first"), store.keeper(tmp_path / "second")
    monkeypatch.setattr(keeping.time, "sleep", lambda seconds: second._write_lease())
    with pytest.raises(RunTaken):
        first.take()
    first._ended.set()


@pytest.mark.parametrize(
    "error", [None, KeyboardInterrupt(), RuntimeError("no runner is left")], ids=["end", "interrupt", "failure"]
)
def test_whatever_ends_a_verb_its_run_is_kept_and_free(
    error: BaseException | None, tmp_path: Path, store: Store
) -> None:
    def verb(folder: Path) -> None:
        with kept("fsspec+memory://bucket/runs", "tiny", folder):
            (folder / "metrics.jsonl").write_text("1\n")
            if error is not None:
                raise error

    with nullcontext() if error is None else pytest.raises(type(error)):
        verb(tmp_path / "here")
    assert not store.system.get_file_info(f"{store.place}/tiny/{LEASE}").is_file
    assert store.system.get_file_info(f"{store.place}/tiny/metrics.jsonl").is_file


def test_a_place_that_cannot_be_is_named_with_its_setting(tmp_path: Path) -> None:
    unknown = kept("nothing-of-ours://bucket/runs", "tiny", tmp_path / "here")
    with (
        pytest.raises(ValueError, match=r"run\.root=nothing-of-ours://bucket/runs cannot be used .*credentials"),
        unknown,
    ):
        pass
    with kept(str(tmp_path), "tiny", tmp_path / "tiny") as keeper:
        keeper.keep()
        keeper.leave()
    assert not (tmp_path / "tiny").exists(), "a folder needs nothing"


@pytest.mark.parametrize(
    "uri",
    ["s3://me:secret@bucket/runs", "abfs://runs@x.dfs.core.windows.net/a?client_secret=b", "s3://b/r?access_key=c"],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    assert holds_credentials(uri)
    with pytest.raises(ConfigError) as caught:
        settings_of(["configs/sants.yaml", f"run.root={uri}", f"wam.checkpoint={uri}"])
    assert [problem.key for problem in caught.value.problems] == ["run.root", "wam.checkpoint"]
    assert uri not in str(caught.value)
    assert "holds credentials" in str(caught.value)
    assert not holds_credentials("gs://anonymous@bucket/runs?endpoint_override=http://127.0.0.1:9")


def test_a_job_is_known_by_the_uri_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    config = settings_of(["configs/sants.yaml", "run.root=s3://bucket/runs", "run.name=a"])
    moved, run = below_shared(config, "train", "/mnt/wam")
    assert run == "s3://bucket/runs/a"
    assert not any(text.startswith("run.root") for text in moved)
    assert working_folder("s3://bucket/runs").parent == tmp_path
    assert working_folder("s3://bucket/runs") != working_folder("s3://bucket/other")
