"""Jobs on a cluster of several Ray nodes on this machine, with tokens on: what docs/cluster.md promises."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rl.runs.checkpoints import CheckpointStore
from rl.runs.training import train
from tests.analytic import SPEC
from tests.ray_cluster import RayCluster
from tests.rl.node_loss import settings_of
from tests.rl.submitted import submission

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("cluster"), head_cpus=2) as running:
        yield running


def test_jobs_stream_stop_and_resume_and_two_run_at_once(cluster: RayCluster, tmp_path: Path) -> None:
    """A stopped job ends with 130, the same command goes on from its checkpoint, and the other one is not disturbed."""
    long = cluster.start(*submission(cluster, tmp_path, "run.iterations=100000"))
    other = cluster.start(*submission(cluster, tmp_path, "run.iterations=4", "run.name=other"))
    said, _ = other.communicate(timeout=300)
    assert other.returncode == 0, said
    assert "iteration 4/4" in said
    store = CheckpointStore(tmp_path / "runs" / "sants")
    until = time.monotonic() + 120
    while not store.paths() and time.monotonic() < until:
        time.sleep(0.5)
    listed = cluster.run("-m", "launch.job", "status", f"ADDRESS={cluster.dashboard}").stdout
    (identity,) = [line.split()[0] for line in listed.splitlines() if " RUNNING " in line]
    done = cluster.run("-m", "launch.job", "stop", f"ADDRESS={cluster.dashboard}", f"JOB={identity}")
    said, _ = long.communicate(timeout=120)
    assert (done.returncode, long.returncode) == (0, 130), done.stdout + said
    assert "The same command goes on" in said
    saved = store.latest_valid()
    assert saved is not None
    again = cluster.run(*submission(cluster, tmp_path, f"run.iterations={saved.iteration + 1}"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resumed after iteration {saved.iteration}" in again.stdout


def test_a_usage_error_and_no_room_are_the_jobs_exit_code(cluster: RayCluster, tmp_path: Path) -> None:
    asked = submission(cluster, tmp_path, "rollout.gpus_per_runner=1", "rollout.room_deadline_s=1")
    done = cluster.run(*asked)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "There is no room for rollout.runners=1" in done.stdout
    assert re.search(r"GPU +1 +0 +0", done.stdout)


def test_with_another_token_nothing_is_answered(cluster: RayCluster, tmp_path: Path) -> None:
    """Without one nothing is asked: tests/launch/test_job.py."""
    path = tmp_path / "token"
    path.write_text("b" * 64)
    path.chmod(0o600)
    asked = ["-m", "launch.job", "status", f"ADDRESS={cluster.dashboard}"]
    done = cluster.run(*asked, RAY_AUTH_TOKEN_PATH=str(path), HOME=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"does not take the token of {path}" in done.stderr
    assert "a" * 64 not in done.stdout + done.stderr
    assert "b" * 64 not in done.stdout + done.stderr


def test_the_doctor_looks_at_every_node_and_names_the_one_that_lacks_a_gpu(cluster: RayCluster) -> None:
    node = cluster.add(cpus=1, gpus=1)
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:  # a long path would be folded in the table
        done = cluster.run("-m", "launch.doctor", "cluster", f"ADDRESS={cluster.dashboard}", f"SHARED={shared}")
    cluster.kill(node)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"127.0.0.1 ({node[:6]})" in done.stdout
    assert "Ray was told of 1 GPUs, and the driver lists 0" in done.stdout
    assert f"{shared}/" in done.stdout


@pytest.mark.usefixtures("ray_up")
def test_a_node_that_dies_changes_no_result_and_a_new_one_is_used(cluster: RayCluster, tmp_path: Path) -> None:
    """The head has room for one of two runners, so that each further node gets the other one."""
    blocked = cluster.start("-m", "tests.rl.hold_cpu", RAY_ADDRESS=cluster.address)
    node = cluster.add()
    run = cluster.start("-m", "tests.rl.node_loss", str(tmp_path / "lost"), RAY_ADDRESS=cluster.address)
    assert run.stdout is not None
    said = []
    for line in run.stdout:
        said.append(line)
        if line.startswith("iteration 5 "):
            cluster.kill(node)
        if "reissued 0" not in line and "healthy 1" in line and node:
            cluster.add()
            node = ""
    blocked.kill()
    blocked.wait()
    assert run.wait(60) == 0, "".join(said[-40:])
    assert not node, "".join(said[-40:])
    last = int(said[-1].split()[1])
    seen: list[int] = []
    train(
        settings_of(runners=0),
        tmp_path / "whole",
        spec=SPEC,
        should_stop=lambda: len(seen) >= last - 1,  # it is asked before `on_iteration`
        on_iteration=lambda iteration, metrics: seen.append(iteration),
    )
    lost, whole = (CheckpointStore(tmp_path / name).latest_valid() for name in ("lost", "whole"))
    assert lost is not None
    assert whole is not None
    assert lost.path is not None
    assert whole.path is not None
    assert lost.iteration == whole.iteration == last
    for name in ("scheduler.safetensors", "optimizer.safetensors"):
        assert (lost.path / name).read_bytes() == (whole.path / name).read_bytes()
