"""The real main, on the analytic backbone: train, compare, resume, export, stop."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from configs.fetched import CACHE
from configs.schema import EnvConfig
from launch import evaluate, export, train
from launch.machine import findings as machine
from launch.machine.findings import Finding, Status
from policies.catalogue import build_schedule
from policies.exported import export_schedule, load_schedule
from policies.learning import LearnedSchedule
from rl.runs.checkpoints import CheckpointStore
from rl.runs.lock import run_lock
from rl.runs.tracking import read_metrics
from tests.analytic import SPEC
from tests.launch.recipes import GATED, write_tiny_recipe

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]


@pytest.fixture(autouse=True)
def _logging_survives() -> Iterator[None]:
    """The main program takes the root logger for itself."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return write_tiny_recipe(tmp_path)


def test_the_main_job_trains_compares_and_goes_on_where_it_was(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "runs" / "tiny"
    assert train.main([recipe]) == 0
    text = capsys.readouterr().out
    assert "fixed-full" in text
    assert "sants" in text
    assert str(directory) in text
    assert "make tensorboard" in text
    table = json.loads((directory / "evaluation" / "clean.json").read_text())
    assert {name: row["all"]["episodes"] for name, row in table["rows"].items()} == dict.fromkeys(table["rows"], 4)
    assert "| fixed-full" in (directory / "evaluation" / "clean.md").read_text()
    assert "name: tiny" in (directory / "config.yaml").read_text()

    assert train.main([recipe, "run.iterations=3"]) == 0
    assert "resumed after iteration 2" in capsys.readouterr().out
    assert [record["iteration"] for record in read_metrics(directory)] == [1, 2, 3]

    before = {path: path.stat().st_mtime_ns for path in [directory, *directory.rglob("*")]}
    assert train.main([recipe, "run.iterations=3"]) == 0
    text = capsys.readouterr().out
    assert "sants is trained" in text
    assert "nothing changed" in text
    after = {path: path.stat().st_mtime_ns for path in [directory, *directory.rglob("*")]}
    assert after == before, "it may lie on a read-only mount"

    result = directory / "evaluation" / "clean.json"
    content = result.read_bytes()
    result.write_bytes(content[:-100])
    assert evaluate.main([recipe]) == 0
    assert "nothing changed" not in capsys.readouterr().out
    assert json.loads(result.read_bytes())["episodes"] == json.loads(content)["episodes"]
    assert result.with_name("clean.json.damaged").read_bytes() == content[:-100]


def test_a_run_that_a_uri_keeps_goes_on_on_another_machine(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine is a cache of its own."""
    kept = [recipe, f"run.root={(tmp_path / 'bucket').as_uri()}"]
    monkeypatch.setenv(CACHE, str(tmp_path / "here"))
    assert train.main(kept) == 0
    table = (tmp_path / "bucket" / "tiny" / "evaluation" / "clean.json").read_bytes()
    monkeypatch.setenv(CACHE, str(tmp_path / "there"))
    capsys.readouterr()
    assert evaluate.main(kept) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert train.main([*kept, "run.iterations=3", "evaluation.schedules=[]"]) == 0
    assert "resumed after iteration 2" in capsys.readouterr().out
    assert export.main(kept) == 0
    assert (tmp_path / "bucket" / "tiny" / "evaluation" / "clean.json").read_bytes() == table
    assert [one["iteration"] for one in read_metrics(tmp_path / "bucket" / "tiny")] == [1, 2, 3]
    assert load_schedule(tmp_path / "bucket" / "tiny" / "exported").name == "sants"
    hidden = [path.name for path in (tmp_path / "bucket").rglob(".*")]
    assert hidden == []


def test_the_same_main_trains_and_exports_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, directory = write_tiny_recipe(tmp_path, GATED), tmp_path / "runs" / "gated"
    assert train.main([recipe]) == 0
    text = capsys.readouterr().out
    assert "informative groups" in text
    assert "vs joint-5" in text
    table = json.loads((directory / "evaluation" / "clean.json").read_text())
    assert list(table["rows"]) == ["joint-5", "handcrafted", "noisegate"]
    assert table["paired_with_joint_5"]["noisegate"]["all"]["episodes"] == 4
    assert export.main([recipe]) == 0
    assert load_schedule(directory / "exported").name == "noisegate"


def test_an_ablation_takes_the_anchors_and_is_a_row_of_the_table(recipe: str, tmp_path: Path) -> None:
    """What `make ablate-sants` does."""
    runs = tmp_path / "runs"
    assert train.main([recipe, "run.iterations=1"]) == 0
    ablated = ["run.name=stop", "schedule.name=stop-only", f"run.inherit={runs / 'tiny'}", "evaluation.schedules=[]"]
    assert train.main([recipe, "run.iterations=1", *ablated]) == 0
    stored = CheckpointStore(runs / "stop").latest_valid()
    assert stored is not None
    assert stored.config["schedule"]["name"] == "stop-only"
    assert not (runs / "stop" / "evaluation").exists()
    rows = ["evaluation.schedules=[fixed-1,stop-only,sants]", f"evaluation.trained.stop-only={runs / 'stop'}"]
    assert evaluate.main([recipe, *rows]) == 0
    table = json.loads((runs / "tiny" / "evaluation" / "clean.json").read_text())
    assert list(table["rows"]) == ["fixed-1", "stop-only", "sants"]


def test_a_training_may_start_from_another_run(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, further = tmp_path / "runs" / "tiny", tmp_path / "runs" / "further"
    begin = ["run.iterations=1", "run.name=further", f"run.start_from={first}", "evaluation.schedules=[]"]
    first.mkdir(parents=True)
    with pytest.raises(SystemExit):
        train.main([recipe, *begin])
    assert "holds no trained weights" in " ".join(capsys.readouterr().out.split())
    assert train.main([recipe, "run.iterations=1", "evaluation.schedules=[]"]) == 0
    assert train.main([recipe, *begin]) == 0
    assert CheckpointStore(further).latest_valid() is not None


def test_a_row_may_have_a_name_of_its_own(recipe: str, tmp_path: Path) -> None:
    """So two trainings of one schedule can be compared."""
    assert train.main([recipe, "run.iterations=1"]) == 0
    trained = tmp_path / "runs" / "tiny"
    rows = ["evaluation.schedules=[fixed-1,sants,again]", f"evaluation.trained.again={trained}"]
    assert evaluate.main([recipe, *rows, "evaluation.reference=again"]) == 0
    table = json.loads((trained / "evaluation" / "clean.json").read_text())
    assert table["rows"]["again"]["all"]["success"] == table["rows"]["sants"]["all"]["success"]


def test_a_quick_run_says_so(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([recipe, "run.quick=true", "run.iterations=1", "evaluation.episodes_per_task=1"]) == 0
    assert capsys.readouterr().out.count("QUICK") >= 2
    assert (tmp_path / "runs" / "tiny-quick").is_dir()


def test_the_trained_scheduler_is_exported_and_evaluated_again(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([recipe, "run.iterations=1"]) == 0
    assert export.main([recipe]) == 0
    exported = tmp_path / "runs" / "tiny" / "exported"
    assert f"load_schedule('{exported}')" in capsys.readouterr().out
    load_schedule(exported).check(SPEC)
    output = tmp_path / "again.json"
    assert evaluate.main([recipe, f"evaluation.checkpoint={exported}", f"evaluation.output={output}"]) == 0
    trained = json.loads((tmp_path / "runs" / "tiny" / "evaluation" / "clean.json").read_text())
    again = json.loads(output.read_text())
    assert again["rows"]["sants"]["all"]["forwards_mean"] == trained["rows"]["sants"]["all"]["forwards_mean"]


def fails_with(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        train.main(arguments)
    assert exit_.value.code == 1
    return " ".join(capsys.readouterr().out.split())


def test_a_run_directory_in_use_is_refused(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_lock(tmp_path / "runs" / "tiny"):
        text = fails_with([recipe], capsys)
    assert "in use by a live run" in text
    assert "error.log" in text


def test_a_checkpoint_of_another_width_is_refused(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([recipe, "run.iterations=1"]) == 0
    text = fails_with([recipe, "schedule.trunk_widths=[32]"], capsys)
    assert "another shape" in text
    assert "schedule settings" in text


def test_a_finished_run_does_not_answer_for_other_settings(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([recipe, "run.iterations=1"]) == 0
    config = tmp_path / "runs" / "tiny" / "config.yaml"
    before = config.read_text()
    capsys.readouterr()
    text = fails_with([recipe, "run.iterations=1", "reward.path.max_gain=1", "objective.learning_rate=5"], capsys)
    assert "objective.learning_rate, reward.path.max_gain. Choose another run.name" in text
    assert config.read_text() == before
    assert train.main([recipe, "run.iterations=1", "evaluation.segments=2"]) == 0
    assert "sants is trained" in capsys.readouterr().out


def test_evaluating_an_untrained_run_names_what_is_missing(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main([recipe])
    assert "No trained schedule for sants" in " ".join(capsys.readouterr().out.split())


def test_without_a_device_to_render_with_nothing_is_trained(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "probe_vulkan", lambda: Finding("vulkan", Status.missing, "No Vulkan driver."))
    text = fails_with([recipe, f"env.simulator={EnvConfig().simulator}"], capsys)
    assert "SimulatorUnavailable No Vulkan driver." in text
    assert CheckpointStore(tmp_path / "runs" / "tiny").latest_valid() is None


def test_a_scheduler_of_another_backbone_is_refused_before_any_worker_starts(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(SPEC, weights_hash="another")
    untrained = build_schedule("sants", other)
    assert isinstance(untrained, LearnedSchedule)
    exported = export_schedule(tmp_path / "exported", untrained, other)
    monkeypatch.setattr(
        "rl.evaluation.evaluation.evaluate", lambda *_, **__: pytest.fail("a worker would have started")
    )
    with pytest.raises(SystemExit):
        evaluate.main([recipe, f"evaluation.checkpoint={exported}", "evaluation.processes=1"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"ValueError sants of {exported}: schedule 'sants' was trained on backbone another" in text


def start_endless_run(recipe: str, runners: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run in a session of its own, past its first iteration, and its children."""
    command = [sys.executable, "-m", "launch.train", recipe, "run.iterations=100000", f"rollout.runners={runners}"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    assert process.stdout is not None
    heard = []
    for line in process.stdout:
        heard.append(line)
        if line.startswith("iteration 1/"):
            return process, psutil.Process(process.pid).children(recursive=True)
    pytest.fail(f"the run ended with code {process.wait()} before its first iteration:\n{''.join(heard)}")


def ends(process: subprocess.Popen[str], children: list[psutil.Process]) -> str:
    """Its last words, once it and all its children are gone."""
    text, _ = process.communicate(timeout=90)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    return text


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_leaves_no_process(recipe: str, tmp_path: Path) -> None:
    process, children = start_endless_run(recipe, runners=1)
    os.killpg(process.pid, signal.SIGINT)
    text = ends(process, children)
    assert process.returncode == 130, text
    assert "Interrupted and saved" in text
    latest = CheckpointStore(tmp_path / "runs" / "tiny").latest_valid()
    assert latest is not None
    assert latest.iteration == read_metrics(tmp_path / "runs" / "tiny")[-1]["iteration"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("everywhere", "number"), [(False, signal.SIGINT), (True, signal.SIGTERM), (False, signal.SIGHUP)]
)
def test_a_run_that_must_end_at_once_saves_its_last_iteration_and_leaves_no_process(
    recipe: str, tmp_path: Path, everywhere: bool, number: int
) -> None:
    """Ctrl-C twice; a scheduler that signals every process of a job, a runner too; a connection that is lost."""
    process, children = start_endless_run(recipe, runners=int(everywhere))
    if number == signal.SIGINT:
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.4)
    process.send_signal(number)  # first: a busy machine may show it the death of its children before it gets its own
    for child in children if everywhere else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)
    text = ends(process, children)
    assert process.returncode == 130, text
    assert "Interrupted and saved" in text or "What was finished is saved" in text
    latest = CheckpointStore(tmp_path / "runs" / "tiny").latest_valid()
    assert latest is not None
    assert latest.iteration in {record["iteration"] for record in read_metrics(tmp_path / "runs" / "tiny")[-2:]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_saves_once_even_if_it_comes_again_and_without_a_terminal(tmp_path: Path, number: int) -> None:
    """The program saves slowly, so that the second signal meets it there."""
    script = f"""
import os, signal, sys, time
from pathlib import Path
from launch.shell.interrupts import StopRequest

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
with StopRequest() as stop:
    def save():
        with open({str(tmp_path / "saved")!r}, "a") as file:
            file.write("begun ")
            file.flush()
            os.kill(os.getpid(), {signal.SIGTERM})
            time.sleep(0.5)
            file.write("ended ")
    stop.save_by(save)
    if {number == signal.SIGHUP}:
        os.close(2)
    os.kill(os.getpid(), {number})
    if {number == signal.SIGINT}:
        assert stop.requested
        time.sleep(0.4)
        os.kill(os.getpid(), {number})
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert (tmp_path / "saved").read_text() == "begun ended "


def test_a_block_within_another_gives_the_signals_back(tmp_path: Path) -> None:
    """The outer one hears them at once again, though the main thread is in a call that lets no handler run."""
    script = f"""
import os, signal, sys
from pathlib import Path
from launch.shell.interrupts import StopRequest

with StopRequest() as outer:
    with StopRequest():
        pass
    outer.save_by(lambda: Path({str(tmp_path / "saved")!r}).write_text("all"))
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # as if no handler ran yet
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        signal.pause()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == 130
    assert (tmp_path / "saved").read_text() == "all"


def test_nohup_is_respected() -> None:
    script = """
import os, signal
from launch.shell.interrupts import StopRequest
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.requested
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60, check=True)
