"""RoboTwin's expert through the adapter: seeds that it verifies, and demonstrations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.outcomes import Outcome
from envs.process.owner import SimulatorFault, SimulatorProcess
from envs.simulator import simulator_spec
from tests.envs.robotwin.fake_root import SEEDS, write_fake_root, write_manifest
from tests.envs.robotwin.fake_simulator import (
    PATIENT,
    STILL,
    TASK,
    environment,
    fact,
    start,
)


def test_a_seed_without_manifest_is_played_by_the_expert_first(solving: SimulatorProcess) -> None:
    reply = solving.reset(TASK, "clean", 3)
    assert reply.instruction.startswith("seen ")
    assert (fact(reply.observation, "actions"), fact(reply.observation, "renders")) == (0, 1)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("plan_failed", "plan_failed"),
        ("expert_failed", "expert_failed"),
        ("unstable_the_second_time", "unstable: it wobbles"),
    ],
)
def test_a_seed_that_the_expert_cannot_solve_is_infeasible(solving: SimulatorProcess, how: str, reason: str) -> None:
    solving.kill()
    with pytest.raises(SimulatorFault, match=reason) as fault:
        solving.reset(TASK, "clean", SEEDS[how])
    assert fault.value.outcome is Outcome.infeasible_seed


def test_a_demonstration_holds_what_the_expert_did_and_said(solving: SimulatorProcess) -> None:
    reply = solving.demonstrate(TASK, "clean", 3)
    assert reply.outcome == Outcome.success
    assert [(name, frames.shape) for name, frames in sorted(reply.images.items())] == [
        (name, (3, 6, 8, 3)) for name in ("head", "left_wrist", "right_wrist")
    ]
    np.testing.assert_allclose(np.diff(reply.joints, axis=0), 0.01, atol=1e-6)
    assert reply.style["verdict"] == "ok"
    assert reply.style["episode_info"] == {"{A}": "001_bell/base0", "{a}": "left"}
    assert reply.style["instructions"]["seen"] == reply.instruction
    assert reply.instruction == solving.reset(TASK, "clean", 3).instruction


@pytest.mark.parametrize(
    ("how", "outcome"), [("plan_failed", Outcome.planner_fail), ("expert_failed", Outcome.step_limit)]
)
def test_a_failed_demonstration_says_how(solving: SimulatorProcess, how: str, outcome: Outcome) -> None:
    reply = solving.demonstrate(TASK, "clean", SEEDS[how])
    assert (reply.outcome, reply.style["verdict"]) == (outcome, how)
    assert len(reply.joints) == 0


def test_an_expert_that_breaks_is_a_fault(solving: SimulatorProcess) -> None:
    with pytest.raises(SimulatorFault, match="cannot unpack None") as fault:
        solving.demonstrate(TASK, "clean", SEEDS["expert_raises"])
    assert fault.value.outcome is Outcome.sim_fault


def test_a_task_whose_success_needs_the_expert_plays_it_on_the_same_instance(solving: SimulatorProcess) -> None:
    solving.reset("open_laptop", "clean", 3)
    assert solving.step_chunk(STILL).executed == len(STILL)


def test_what_the_expert_left_in_an_earlier_episode_judges_no_other(tmp_path: Path) -> None:
    """Although a manifest has the seeds, and the expert need not be asked whether they can be solved."""
    root = write_fake_root(tmp_path / "RoboTwin", curobo=True)
    write_manifest(root, tmp_path / "manifests", "open_laptop", "clean", {3: {}, 4: {}})
    with start(root, planner="curobo") as simulator:
        for seed in (3, 4, 3):
            simulator.reset("open_laptop", "clean", seed)
            assert simulator.step_chunk(STILL).executed == len(STILL)


def test_an_experts_episode_has_depth_if_it_is_asked_for(tmp_path: Path) -> None:
    root = write_fake_root(tmp_path / "RoboTwin", curobo=True)
    env = replace(environment(root, planner="curobo"), depth=True)
    with SimulatorProcess(simulator_spec(env), PATIENT) as simulator:
        reply = simulator.demonstrate(TASK, "clean", 3)
    assert {name: depth.shape for name, depth in reply.depths.items()} == dict.fromkeys(reply.images, (3, 6, 8))
    assert {camera.poses.shape for camera in reply.cameras.values()} == {(3, 4, 4)}
