from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = {
    "setup",
    "doctor",
    "demos",
    "pretrain",
    "pretrain-shared",
    "train-sants",
    "train-noisegate",
    "train-wav",
    "evaluate-wav",
    "train-xwam",
    "evaluate-xwam",
    "ablate-noisegate",
    "evaluate",
    "submit-sants",
    "submit-noisegate",
    "status",
    "stop",
    "logs",
    "tensorboard",
    "bench",
    "lint",
    "test",
    "test-fast",
    "clean",
}
VERBS = {
    "doctor": "doctor",
    "demos": "collect",
    "pretrain": "pretrain",
    "train-sants": "train",
    "train-noisegate": "train",
    "evaluate": "evaluate",
    "bench": "bench",
}


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_help_is_the_default_and_lists_every_target(arguments: tuple[str, ...]) -> None:
    listed = re.findall(r"^  ([a-z0-9-]+) +\S", make(*arguments), re.MULTILINE)
    assert set(listed) >= TARGETS


@pytest.mark.parametrize("target", VERBS)
def test_a_target_is_one_thin_call(target: str) -> None:
    plan = make("-n", target, "QUICK=1", "ARGS=objective.clip=0.1")
    (call,) = [line for line in plan.splitlines() if f"-m launch.{VERBS[target]} " in line]
    assert "objective.clip=0.1" in call
    assert ("run.quick=true" in call) == (target != "doctor")


@pytest.mark.parametrize(
    ("target", "given", "key"),
    [("train-wav", "VALUE=", "wam.value="), ("train-xwam", "CHECKPOINT=", "wam.checkpoint=")],
)
def test_a_training_is_compared_with_its_own_weights(target: str, given: str, key: str) -> None:
    """Without them the comparison takes those that ship."""
    plan = make("-n", target, "ARGS='evaluation.schedules=[fixed-1,fixed-5]'")
    comparison = next(line for line in plan.splitlines() if "-m launch.evaluate " in line)
    assert f"{key}runs/" in comparison
    assert "'evaluation.schedules=[fixed-1,fixed-5]'" in comparison
    shipped = make("-n", target.replace("train", "evaluate"))
    assert key not in shipped
    assert f"{key}mine" in make("-n", target.replace("train", "evaluate"), f"{given}mine")


def test_every_comparison_of_planners_is_a_run_of_its_own() -> None:
    """In front of one step and of five, without the third stage and with it."""
    comparisons = [line for line in make("-n", "train-wav", "QUICK=1").splitlines() if "-m launch.evaluate " in line]
    assert ["wam.value_reader=" in line for line in comparisons] == [False, False, True, True]
    assert ["plan.depth=6 plan.steps=5" in line for line in comparisons] == [False, True, False, True]
    assert all("wam.value=runs/value-quick/value.safetensors" in line for line in comparisons)
    names = [next(word for word in line.split() if word.startswith("run.name=")) for line in comparisons]
    assert len(set(names)) == 4


def test_a_submission_is_one_thin_call() -> None:
    given = ("ADDRESS=http://head:8265", "SHARED=/mnt/wam", "QUICK=1")
    (call,) = [line for line in make("-n", "submit-noisegate", *given).splitlines() if "launch.job" in line]
    assert shlex.split(call.split("launch.job ")[1]) == [
        "submit", "ADDRESS=http://head:8265", "SHARED=/mnt/wam", "train", "configs/noisegate.yaml", "run.quick=true"
    ]  # fmt: skip
    assert make("-n", "stop", "JOB=sants-1").split()[-3:] == ["launch.job", "stop", "JOB=sants-1"]


def test_the_doctor_looks_at_the_suite_that_is_named() -> None:
    assert "-m launch.doctor env.suite=robotwin env.mode=clean" in make(
        "-n", "doctor", "SUITE=robotwin", "ARGS=env.mode=clean"
    )


def test_tensorboard_listens_on_this_machine_only() -> None:
    assert "--host 127.0.0.1" in make("-n", "tensorboard")


def test_tensorboard_reads_a_uri_as_it_was_written() -> None:
    plan = make("-n", "tensorboard", "LOGDIR=s3://bucket/my runs?region=eu&anonymous=1")
    (call,) = [line for line in plan.splitlines() if "tensorboard.main" in line]
    assert "s3://bucket/my runs?region=eu&anonymous=1" in shlex.split(call)


def test_setup_starts_over_when_a_pin_changes() -> None:
    assert "pip install" in make("-n", "setup", "-W", "setup.cfg")


def test_no_tracked_file_names_an_address_to_install_from() -> None:
    text = "".join(
        (REPOSITORY / name).read_text() for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt")
    )
    assert "://" not in text
