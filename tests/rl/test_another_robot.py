"""Another robot: a backbone for one is refused before anything starts, and its actions are compared as its own."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config, EnvConfig
from envs.kinematics import Kinematics
from envs.suites import kinematics_of
from rl.algorithm import ScheduleAlgorithmConfig, running
from rl.evaluation.depth_scan import is_fine
from rl.experience.action_errors import action_errors
from rl.experience.paths import PathSampler
from rl.experience.segments import Segment
from rl.experience.simulators import check_actions
from tests.analytic import SPEC, AnalyticWAM
from tests.envs.robotwin.fake_root import LINK, REACH, write_fake_root
from tests.envs.robotwin.scripted import scripted_settings
from tests.rl.recipes import analytic_settings

PANDAS = ["franka-panda", "franka-panda", "0.6"]
STEPS = 4
METRES = 6 * LINK + REACH  # from the first of seven joints to the tool


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_root(tmp_path_factory.mktemp("robots") / "RoboTwin")


@pytest.fixture
def pandas(root: Path) -> Config:
    settings = scripted_settings(root, analytic_settings())
    settings.env.options.embodiment = PANDAS
    return settings


@pytest.fixture
def robot(pandas: Config) -> Kinematics:
    return kinematics_of(pandas.env)


def segment_of(chunk: np.ndarray) -> Segment:
    weight = np.ones(len(chunk), dtype=np.float32)
    return Segment({"joints": chunk[0]}, "press", chunk, weight, task="press_button", episode="0", start=0)


def turned(angle: float, joint: int = 8) -> np.ndarray:
    """Targets of two arms of seven joints: one joint turned, by default the right arm's first."""
    chunk = np.zeros((STEPS, 16), dtype=np.float32)
    chunk[:, joint] = angle
    return chunk


def test_a_backbone_of_another_robot_is_refused() -> None:
    check_actions(EnvConfig(), SPEC)
    with pytest.raises(ValueError, match=r"have 16 numbers, and the robot of .* takes 14"):
        check_actions(EnvConfig(), replace(SPEC, action_dim=16))


def test_the_path_reward_is_in_this_robots_metres_and_radians(pandas: Config, robot: Kinematics) -> None:
    config = pandas.action_error
    errors = PathSampler(AnalyticWAM(), config, robot).errors(turned(0.1)[None], [segment_of(turned(0.0))])
    shut = -np.log1p(-1e-3)  # grippers that agree cost this much
    distance = 2 * METRES * np.sin(0.05) / config.position_unit_m
    one_arm = config.position_weight * distance + config.rotation_weight * 0.1 / config.rotation_unit_rad
    assert errors[0, 0] == pytest.approx(one_arm / 2 + config.gripper_weight * shut, rel=1e-6)
    assert errors[0, 1] == pytest.approx(0.0, abs=1e-9), "the same turn at every step is no error of motion"


def test_a_wrist_moves_the_tool_by_its_reach(robot: Kinematics) -> None:
    at_rest, wrist = robot.poses(turned(0.0)), robot.poses(turned(0.1, joint=6))
    moved = np.linalg.norm(wrist.position - at_rest.position, axis=-1)
    np.testing.assert_allclose(moved, [[2 * REACH * np.sin(0.05), 0.0]] * STEPS, atol=1e-9)


def test_grippers_follow_each_arm(robot: Kinematics) -> None:
    poses = robot.poses(np.arange(32.0).reshape(2, 16))
    assert poses.gripper.tolist() == [[7, 15], [23, 31]]
    assert (poses.position.shape, poses.quaternion.shape) == ((2, 2, 3), (2, 2, 4))


def test_actions_of_another_robot_are_refused(robot: Kinematics) -> None:
    with pytest.raises(ValueError, match="these actions have 14 numbers, but this robot's have 16"):
        action_errors(np.zeros((STEPS, 14)), np.zeros((STEPS, 14)), np.ones(STEPS), robot, Config().action_error)


def test_slow_is_a_matter_of_the_tool(robot: Kinematics) -> None:
    slow, fast = (np.linspace(turned(0.0)[0], turned(angle)[0], STEPS) for angle in (0.07, 0.2))
    assert METRES * 0.07 < 0.08 < METRES * 0.2
    assert is_fine(segment_of(slow), robot)
    assert not is_fine(segment_of(fast), robot)


def test_kinematics_travel_to_other_processes(robot: Kinematics) -> None:
    for one in (robot, kinematics_of(EnvConfig())):
        targets = np.random.default_rng(0).normal(size=(STEPS, one.action_size))
        copy = pickle.loads(pickle.dumps(one))  # noqa: S301 (our own bytes)
        np.testing.assert_array_equal(copy.poses(targets).position, one.poses(targets).position)


def test_training_on_a_robot_without_files_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    root = write_fake_root(tmp_path / "RoboTwin")
    (root / "assets" / "embodiments" / "aloha-agilex" / "toy.urdf").unlink()
    settings = scripted_settings(root, analytic_settings())
    settings.wam.backbone = "tests.nowhere"
    message = r"no .*aloha-agilex/toy.urdf. Download it: cd .* && bash script/_download_assets.sh"
    with pytest.raises(ValueError, match=message), running(ScheduleAlgorithmConfig.of(settings, SPEC)):
        pass
