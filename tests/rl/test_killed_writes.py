"""Kill -9 at every write of a run: what is there is whole, and a resume ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from envs.files import remove_leftovers, write_bytes
from envs.ledger import Cell, Ledger
from envs.outcomes import Outcome
from rl.evaluation.stored import partial_of, read_partial
from rl.runs import tracking
from rl.runs.checkpoints import CheckpointStore, read_checkpoint
from rl.runs.scores import Score
from rl.runs.tracking import METRICS_FILE, Tracker, read_metrics
from tests.dying import cut_off, deaths
from tests.rl.test_checkpoints import make, same

FIRST, SECOND, AGAIN, THIRD = make(2), make(4), make(4, value=2.0), make(6)
SCORE, BETTER = Score(0.5, 8, 0.1, 3.0), Score(1.0, 8, 0.2, 3.0)
CELLS = [Cell("click_bell", "clean", seed) for seed in range(3)]
FINGERPRINT = {"schedules": {"sants": {}}}


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepare_checkpoints(folder: Path) -> None:
    CheckpointStore(folder, keep=1).save(FIRST, SCORE)


def save_checkpoint(folder: Path) -> None:
    """It makes the first one superfluous."""
    CheckpointStore(folder, keep=1).save(SECOND, BETTER)


def test_a_checkpoint_is_there_whole_or_the_one_before_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare_checkpoints(undisturbed := tmp_path / "undisturbed")
    save_checkpoint(undisturbed)
    killed = [
        *deaths(tmp_path, prepare_checkpoints, save_checkpoint),
        *cut_off(tmp_path, prepare_checkpoints, save_checkpoint, (0, 1, 100, 200)),
    ]
    found = set()
    for folder in killed:
        latest = CheckpointStore(folder).latest_valid()
        assert latest is not None
        assert same(latest, FIRST if latest.iteration == FIRST.iteration else SECOND)
        assert set(CheckpointStore(folder).scores) <= {"step_000002", "step_000004"}
        found.add(latest.iteration)
        save_checkpoint(folder)
        assert tree_of(folder) == tree_of(undisturbed)
    assert found == {FIRST.iteration, SECOND.iteration}
    assert not caplog.messages  # nothing was damaged


def test_a_checkpoint_that_is_written_again_costs_no_other(tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        store = CheckpointStore(folder)
        store.save(FIRST)
        store.save(SECOND)

    def write(folder: Path) -> None:
        CheckpointStore(folder).save(AGAIN)

    for folder in deaths(tmp_path, prepare, write):
        latest = CheckpointStore(folder).latest_valid()
        assert latest is not None
        assert any(same(latest, one) for one in (FIRST, SECOND, AGAIN) if latest.iteration == one.iteration)
        write(folder)
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_000002", "step_000004"]
        assert same(read_checkpoint(folder / "checkpoints" / "step_000004"), AGAIN)


def test_going_back_loses_no_checkpoint(tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        store = CheckpointStore(folder)
        for one in (FIRST, SECOND, THIRD):
            store.save(one, SCORE)

    def write(folder: Path) -> None:
        CheckpointStore(folder).go_back_to(FIRST.iteration)

    for folder in deaths(tmp_path, prepare, write):
        assert CheckpointStore(folder).latest_valid() is not None
        write(folder)
        latest = CheckpointStore(folder).latest_valid()
        assert latest is not None
        assert same(latest, FIRST)
        assert list(CheckpointStore(folder).scores) == ["step_000002"]
        kept = {path.name: read_checkpoint(path) for path in (folder / "checkpoints").glob("set_aside_*/step_*")}
        assert same(kept["step_000004"], SECOND)
        assert same(kept["step_000006"], THIRD)


def test_metrics_are_those_of_an_undisturbed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SummaryWriter", MagicMock())

    def prepare(folder: Path) -> None:
        tracker = Tracker(folder)
        for iteration in (1, 2, 3):
            tracker.log(iteration, {"path/return": iteration / 10})
        tracker.close()

    def write(folder: Path) -> None:
        """As a run that resumes after its second iteration does."""
        tracker = Tracker(folder, iteration=2)
        tracker.log(3, {"path/return": 0.5})
        tracker.amend(3, {"validation/success": 1.0})
        tracker.log(4, {"path/return": 0.6})
        tracker.close()

    prepare(undisturbed := tmp_path / "undisturbed")
    write(undisturbed)
    for folder in deaths(tmp_path, prepare, write):
        assert [record["iteration"] for record in read_metrics(folder)][:2] == [1, 2]
        write(folder)
        assert read_metrics(folder) == read_metrics(undisturbed)
        assert [path.name for path in folder.iterdir()] == [METRICS_FILE]


def test_a_ledger_counts_every_episode_once(tmp_path: Path) -> None:
    """Each write of the ledger of an evaluation adds an episode. After the last one its result is written."""

    def output_in(folder: Path) -> Path:
        return folder / "comparison.json"

    def play(folder: Path) -> None:
        partial = partial_of(output_in(folder))
        ledger = (read_partial(partial, FINGERPRINT, CELLS) or {"sants": Ledger(CELLS)})["sants"]
        while (cell := ledger.take()) is not None:
            numbers = {"steps": 3, "updates": [1], "forwards": [1], "instruction": "ring it", "message": ""}
            assert ledger.record(cell, Outcome.success, **numbers)
            content = {"fingerprint": FINGERPRINT, "ledgers": {"sants": ledger.to_json()}}
            write_bytes(partial, json.dumps(content).encode())
        write_bytes(output_in(folder), json.dumps(ledger.to_json()).encode())
        partial.unlink(missing_ok=True)
        remove_leftovers(output_in(folder))

    nothing = [*deaths(tmp_path, lambda folder: None, play), *cut_off(tmp_path, lambda folder: None, play, (0, 50))]
    play(tmp_path)
    for folder in nothing:
        play(folder)
        assert [path.name for path in folder.iterdir()] == ["comparison.json"]
        assert output_in(folder).read_bytes() == output_in(tmp_path).read_bytes()
