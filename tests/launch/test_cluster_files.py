"""The files of launch/cluster, as far as they can be checked without the services that they are for."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from launch import job

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "launch" / "cluster"
LAUNCHER = ("on-premise.yaml", "aws.yaml")
KUBERNETES = ("raycluster.yaml", "rayjob.yaml")
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PAGE = (REPOSITORY / "docs" / "cluster.md").read_text()


def read(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text())


def clusters() -> dict[str, Any]:
    found = {name: read(name)["spec"] for name in KUBERNETES}
    return {name: spec.get("rayClusterSpec", spec) for name, spec in found.items()}


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_launcher_takes_the_file(name: str) -> None:
    """Ray's own schema is part of its package."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(read(name), schema)


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launchers_nodes_use_tokens_and_the_dashboard_is_on_loopback(name: str) -> None:
    config = read(name)
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [command for command in starts if "ray start" in command]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in started)
    assert "--dashboard-host=127.0.0.1" in started[0]
    assert "0.0.0.0" not in (FILES / name).read_text()
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    for command in starts:
        shlex.split(command)


@pytest.mark.parametrize("name", KUBERNETES)
def test_kuberay_takes_the_file_which_uses_tokens_and_no_root(name: str) -> None:
    schema = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
    jsonschema.validate(read(name), schema)
    wrong = read(name)
    (wrong["spec"].get("rayClusterSpec") or wrong["spec"])["authOptions"]["mode"] = "disabled"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_the_job_of_kuberay_is_a_command_that_the_project_takes() -> None:
    command = shlex.split(read("rayjob.yaml")["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "launch.train"]
    config = job.settings_of(command[3:])
    assert job.below_shared(config, "train", "")[1] == "/mnt/wam/runs/sants"
    (worker,) = clusters()["rayjob.yaml"]["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    gpus = float(container["resources"]["limits"]["nvidia.com/gpu"]) * worker["replicas"]
    assert config.rollout.runners * config.rollout.gpus_per_runner == gpus


def test_every_file_has_the_pinned_version_of_ray() -> None:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    pinned = re.search(r"ray\[.*\]==(\S+)", parser["options"]["install_requires"])
    assert pinned is not None
    assert {spec["rayVersion"] for spec in clusters().values()} == {pinned[1]}


def test_the_script_for_slurm_is_sound() -> None:
    script = FILES / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert "RAY_AUTH_MODE=token" in text
    assert "--dashboard-host=127.0.0.1" in text


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck: `make setup` installs it")
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [FILES / "slurm.sh", REPOSITORY / ".ci" / "run"]
    done = subprocess.run([str(SHELLCHECK), *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


SLURM = {
    "scontrol": 'test "$1" = show && echo node1 || echo "$@" >> "$SHARED/requeued"',
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "hostname": "echo 127.0.0.1",
    "ray": 'if [[ $1 == start ]]; then stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$SHARED/mode"; exec sleep 60; fi',
    "python": 'if [[ $2 == launch.job ]]; then touch "$4"; chmod 600 "$4"; exit; fi; '
    'echo "$RAY_ADDRESS $RAY_AUTH_MODE $*" > "$SHARED/called"; exit "${CODE:-0}"',
}


@pytest.mark.parametrize("code", [0, 3, 130])
def test_the_script_for_slurm_ends_as_the_job_does_and_asks_for_a_resume(code: int, tmp_path: Path) -> None:
    """With stand-ins for the programs of Slurm and Ray."""
    tools, shared, project = tmp_path / "tools", tmp_path / "shared", tmp_path / "project"
    for folder in (tools, shared / ".ray", project):
        folder.mkdir(parents=True)
    for name, body in SLURM.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin", "SHARED": str(shared), "SLURM_JOB_ID": "123", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node1", "SLURM_SUBMIT_DIR": str(project), "CODE": str(code),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(FILES / "slurm.sh"), "train", "configs/sants.yaml"],
        env=environment, cwd=project, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    address, mode, *called = (shared / "called").read_text().split()
    assert (address, mode, called[:2]) == ("127.0.0.1:20123", "token", ["-m", "launch.train"])
    assert {"configs/sants.yaml", f"run.root={shared}/runs"} < set(called)
    assert (shared / "requeued").exists() == (code == 130)
    assert not (shared / ".ray" / "token-123").exists()


def test_the_image_holds_the_code_and_the_pins_and_no_secret() -> None:
    text = (FILES / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
    assert stages == ["project", "robotwin"]
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()}
    ignored = (FILES / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert copied <= {path.name for path in REPOSITORY.iterdir()}
    assert "-c constraints.txt" in text
    assert "graphics" in text
    assert "USER ray" in text.splitlines()[-1]


def test_submissions_that_the_page_shows_are_valid() -> None:
    shown = re.findall(r"^python -m launch\.job submit (.*)$", PAGE, re.MULTILINE)
    assert shown
    for arguments in shown:
        call = job.split(["submit", *shlex.split(arguments)])
        verb, *rest = call.rest
        assert verb in job.VERBS
        job.below_shared(job.settings_of(rest), verb, call.named["SHARED"])


def test_the_page_names_every_file() -> None:
    for path in FILES.iterdir():
        assert path.name == "Dockerfile.dockerignore" or f"launch/cluster/{path.name}" in PAGE
