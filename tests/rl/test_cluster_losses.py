"""A driver that is killed, a head that is lost, a job that is stopped: `submit` says 130, and again goes on exactly."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from launch.job import settings_of
from rl.runs.checkpoints import Checkpoint, CheckpointStore, read_checkpoint
from rl.runs.training import train
from tests.analytic import SPEC
from tests.ray_cluster import RayCluster
from tests.rl.submitted import SMALL, submission

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_up")]
ENDLESS = "run.iterations=100000"
WAIT_S = 240.0
FILES = ("scheduler.safetensors", "optimizer.safetensors", "anchors.safetensors")
STATE = ("iteration", "weights_version", "rewards", "objective")  # the rest names folders
IMPATIENT = "import sys; from rl.engine import jobs; jobs.PAUSE_S = 0.1; from launch.job import main; sys.exit(main())"


def latest(shared: Path) -> Checkpoint | None:
    return CheckpointStore(shared / "runs" / "sants").latest_valid()


def wait_for_a_checkpoint(shared: Path, job: subprocess.Popen[str], after: int = 0) -> int:
    """Return its iteration, which is one after `after`."""
    until = time.monotonic() + WAIT_S
    while (found := latest(shared)) is None or found.iteration <= after:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    return found.iteration


def drivers_of(shared: Path) -> list[psutil.Process]:
    """The drivers of the jobs whose runs are below this folder."""
    root = f"run.root={shared / 'runs'}"
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"launch.train", root} <= set(process.info["cmdline"] or ())
    ]


def resumed(said: str) -> bool:
    return "resumed after iteration" in said


def equals_an_undisturbed_run(shared: Path) -> None:
    """Compare the last checkpoint with that of a run in this process which nothing disturbed."""
    found = latest(shared)
    assert found is not None
    seen: list[int] = []
    root = f"run.root={shared / 'undisturbed'}"
    undisturbed = train(
        settings_of(["configs/sants.yaml", *SMALL, ENDLESS, "rollout.runners=0", root]),
        shared / "undisturbed",
        spec=SPEC,
        should_stop=lambda: len(seen) >= found.iteration - 1,  # it is asked before `on_iteration`
        on_iteration=lambda iteration, metrics: seen.append(iteration),
    )
    assert undisturbed.iterations == found.iteration
    assert undisturbed.latest is not None
    assert found.path is not None
    assert [found.state[name] for name in STATE] == [read_checkpoint(undisturbed.latest).state[name] for name in STATE]
    for name in FILES:
        assert (found.path / name).read_bytes() == (undisturbed.latest / name).read_bytes()


def test_a_job_that_loses_its_driver_then_its_head_and_is_stopped_goes_on_exactly(tmp_path: Path) -> None:
    with RayCluster(tmp_path, head_cpus=2) as lost:
        job = lost.start(*submission(lost, tmp_path, ENDLESS))
        saved = wait_for_a_checkpoint(tmp_path, job)
        (driver,) = drivers_of(tmp_path)
        driver.send_signal(signal.SIGKILL)
        said, _ = job.communicate(timeout=WAIT_S)
        assert job.returncode == 130, said

        job = lost.start("-c", IMPATIENT, *submission(lost, tmp_path, ENDLESS)[2:])
        saved = wait_for_a_checkpoint(tmp_path, job, after=saved)
        drivers = drivers_of(tmp_path)
        lost.kill()
        said, _ = job.communicate(timeout=WAIT_S)
        assert job.returncode == 130, said  # the last lines of the driver may be lost with the head
        assert "submit again, and it goes on from its checkpoint" in said
        assert psutil.wait_procs(drivers, timeout=WAIT_S)[1] == []

    with RayCluster(tmp_path, head_cpus=2) as new:
        job = new.start(*submission(new, tmp_path, ENDLESS))
        wait_for_a_checkpoint(tmp_path, job, after=saved)
        stopped = new.run("-m", "launch.job", "stop", f"ADDRESS={new.dashboard}")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        said, _ = job.communicate(timeout=WAIT_S)
        assert job.returncode == 130, said
        assert resumed(said)
    equals_an_undisturbed_run(tmp_path)
