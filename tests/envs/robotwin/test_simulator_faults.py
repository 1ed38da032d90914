"""The adapter on a made-up RoboTwin that breaks, or that lacks something: every fault has a name."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from envs.ledger import Cell, Ledger
from envs.outcomes import MissingDependency, Outcome
from envs.process.owner import SimulatorFault, SimulatorProcess, SimulatorUnavailable
from envs.simulator import simulator_spec
from tests.envs.robotwin.fake_root import SEEDS, write_fake_root
from tests.envs.robotwin.fake_simulator import (
    PATIENT,
    REPOSITORY,
    STILL,
    TASK,
    environment,
    fact,
    start,
    workers,
)


@pytest.mark.parametrize(
    ("how", "outcome", "reason"),
    [
        ("unstable", Outcome.infeasible_seed, "unstable: it wobbles"),
        ("exit", Outcome.sim_fault, "SystemExit"),
        ("segfault", Outcome.sim_fault, "SIGSEGV"),
        ("hang", Outcome.timeout, "no answer within"),
        ("nan", Outcome.sim_fault, "'joints' is not finite"),
        ("no_picture", Outcome.sim_fault, "no picture of left_camera"),
        ("grey_picture", Outcome.sim_fault, r"head_camera is uint8 [6, 8], not uint8 [6, 8, 3]"),
        ("short_joints", Outcome.sim_fault, "has shape [13], not [14]"),
        ("exit_in_action", Outcome.sim_fault, "SystemExit"),
        ("ignored_action", Outcome.sim_fault, "counts 0 actions after 0 and one more"),
    ],
)
def test_a_fault_is_an_outcome_and_the_next_episode_plays(
    shared: SimulatorProcess, how: str, outcome: Outcome, reason: str
) -> None:
    shared.reset(TASK, "clean", 3)
    shared.deadlines = replace(PATIENT, reset=1.0) if how == "hang" else PATIENT
    with pytest.raises(SimulatorFault) as fault:
        shared.reset(TASK, "clean", SEEDS[how])
        shared.step_chunk(STILL)
    shared.deadlines = PATIENT
    assert fault.value.outcome is outcome
    assert reason in str(fault.value)
    assert f"{TASK}/clean seed {SEEDS[how]}" in str(fault.value)
    shared.reset(TASK, "clean", 3)
    assert shared.step_chunk(STILL).executed == len(STILL)
    assert len(workers()) == 1


def test_an_unstable_seed_is_counted_and_is_no_failure(shared: SimulatorProcess) -> None:
    ledger = Ledger([Cell(TASK, "clean", SEEDS["unstable"]), Cell(TASK, "clean", 3)])
    while (cell := ledger.take()) is not None:
        try:
            shared.reset(*cell)
            ledger.record(cell, Outcome.success)
        except SimulatorFault as fault:
            ledger.record(cell, fault.outcome)
    assert [entry.outcome for entry in ledger.entries().values()] == [Outcome.infeasible_seed, Outcome.success]


def test_a_killed_owner_leaves_no_worker(root: Path) -> None:
    code = (
        "import json, os, sys\n"
        "from envs.process.owner import SimulatorProcess\n"
        "from envs.simulator import SimulatorSpec\n"
        "simulator = SimulatorProcess(SimulatorSpec(**json.loads(sys.argv[1])))\n"
        f"simulator.reset({TASK!r}, 'clean', 3)\n"
        "print(simulator.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, json.dumps(asdict(simulator_spec(environment(root))))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid)


def test_a_task_whose_success_needs_the_expert_is_refused_without_a_planner(shared: SimulatorProcess) -> None:
    with pytest.raises(MissingDependency, match=r"open_laptop seed 3 .*cuRobo"):
        shared.reset("open_laptop", "clean", 3)


def test_demonstrations_are_refused_without_a_planner(shared: SimulatorProcess) -> None:
    with pytest.raises(MissingDependency, match="cuRobo"):
        shared.demonstrate(TASK, "clean", 3)


def test_a_seed_of_no_manifest_is_refused_without_a_planner(shared: SimulatorProcess) -> None:
    with pytest.raises(MissingDependency, match="no manifest has it"):
        shared.reset(TASK, "clean", 77)


@pytest.mark.parametrize(
    ("lacking", "settings", "reason"),
    [
        ({"sapien": False}, {}, "lacks sapien"),
        ({"device": False}, {}, "no Vulkan device"),
        ({}, {"planner": "curobo"}, "cannot import cuRobo"),
        ({}, {"action_type": "ee"}, "cuRobo"),
    ],
)
def test_what_the_interpreter_lacks_ends_the_run(
    tmp_path: Path, lacking: dict[str, bool], settings: dict[str, str], reason: str
) -> None:
    simulator = start(write_fake_root(tmp_path / "RoboTwin", **lacking), **settings)
    with simulator, pytest.raises(SimulatorUnavailable, match=reason) as fault:
        simulator.reset(TASK, "clean", 3)
    assert isinstance(fault.value, MissingDependency)


def test_an_action_type_that_is_gone_is_refused(root: Path) -> None:
    """RoboTwin itself would stumble over it in the middle of an action."""
    spec = simulator_spec(environment(root))
    removed = replace(spec, kwargs={**spec.kwargs, "action_type": "delta_ee"})
    with SimulatorProcess(removed, PATIENT) as simulator, pytest.raises(SimulatorUnavailable, match="delta_ee"):
        simulator.reset(TASK, "clean", 3)


def test_a_missing_description_does_not_end_the_process(tmp_path: Path) -> None:
    root = write_fake_root(tmp_path / "RoboTwin", curobo=True)
    (root / "description" / "objects_description" / "001_bell" / "base0.json").unlink()
    with start(root, planner="curobo") as simulator, pytest.raises(MissingDependency, match=r"001_bell/base0\.json"):
        simulator.reset(TASK, "clean", 3)


def test_an_action_of_the_wrong_length_is_refused_before_anything_moves(shared: SimulatorProcess) -> None:
    shared.reset(TASK, "clean", 3)
    with pytest.raises(ValueError, match=r"must have shape \[T, 14\]"):
        shared.step_chunk(np.zeros((4, 16), np.float32))
    assert fact(shared.step_chunk(STILL).observation, "actions") == 4


def test_the_robot_says_how_long_an_action_is(root: Path, tmp_path: Path) -> None:
    two = ["franka-panda", "franka-panda", "0.6"]
    spec = simulator_spec(environment(root, embodiment=two))
    assert spec.action_size == 16
    with pytest.raises(ValueError, match="franka-panda has one arm"):
        simulator_spec(environment(root, embodiment=two[:1]))


def test_a_spec_is_refused_for_what_is_not_there(root: Path, tmp_path: Path) -> None:
    env = environment(root)
    with pytest.raises(ValueError, match=r"no task 'press_buton'.*press_button"):
        simulator_spec(replace(env, tasks=["press_buton"]))
    with pytest.raises(ValueError, match="no interpreter"):
        simulator_spec(environment(root, python="/nowhere/python"))
    bare = write_fake_root(tmp_path / "RoboTwin")
    (bare / "assets" / "objects" / "same.json").unlink()
    with pytest.raises(ValueError, match=r"same\.json.*_download_assets"):
        simulator_spec(environment(bare))
