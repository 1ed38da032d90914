"""Depth pictures and camera poses of the built-in suite, against the real simulator."""

from __future__ import annotations

import numpy as np
import pytest
import sapien
from gymnasium.utils.env_checker import data_equivalence

from configs.schema import EnvConfig
from envs.cameras import unproject
from envs.process.owner import SimulatorProcess
from envs.simulator import CAMERAS, MEASURED, Observation, simulator_spec
from envs.suites import Suite, suite_of
from envs.tabletop.env import TabletopEnv
from envs.tabletop.recording import record_expert
from envs.tabletop.robot import TABLE_HEIGHT
from envs.tabletop.scene import Scene

pytestmark = pytest.mark.render
SIZES = {"head": 32, "left_wrist": 24, "right_wrist": 24}
RIG = suite_of(EnvConfig()).cameras(EnvConfig(head_size=32, wrist_size=24))
SMALL_MOVE = 0.1  # rad, upwards in joint 2, and away from the table


def with_depth(task: str = "click_bell", mode: str = "clean") -> TabletopEnv:
    return TabletopEnv(task, mode, head_size=32, wrist_size=24, depth=True)


def measured_joints(env: TabletopEnv) -> np.ndarray:
    return np.concatenate([np.append(arm.joints, arm.opening) for arm in env.scene.arms.values()])


def largest_error(observation: Observation, joints: np.ndarray) -> float:
    """Between the poses that the description computes and those of the simulator, metres and entries of rotations."""
    poses = RIG.camera_poses(joints)
    return max(float(np.abs(poses[name] - observation[f"{name}_pose"]).max()) for name in CAMERAS)


def test_an_observation_has_depth_and_cameras_in_its_space() -> None:
    env = with_depth()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert set(observation) == {*CAMERAS, "joints", *(f"{name}_{kind}" for name in CAMERAS for kind in MEASURED)}
    for name, size in SIZES.items():
        assert observation[f"{name}_depth"].shape == (size, size)
        np.testing.assert_allclose(observation[f"{name}_intrinsics"], RIG.cameras[name].intrinsics, atol=1e-4)


def test_without_it_nothing_is_downloaded_and_pictures_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = with_depth().reset(seed=4)[0]
    asked: list[str] = []

    class Camera:
        def __init__(self, camera: sapien.render.RenderCameraComponent) -> None:
            self.take_picture = camera.take_picture
            self._camera = camera

        def get_picture(self, name: str) -> np.ndarray:
            asked.append(name)
            picture: np.ndarray = self._camera.get_picture(name)
            return picture

    real = Scene._add_cameras

    def spied(scene: Scene, *sizes: int) -> dict[str, Camera]:
        return {name: Camera(camera) for name, camera in real(scene, *sizes).items()}

    monkeypatch.setattr(Scene, "_add_cameras", spied)
    env = TabletopEnv("click_bell", head_size=32, wrist_size=24)
    plain, _ = env.reset(seed=4)
    env.step(plain["joints"])
    assert set(asked) == {"Color"}
    assert list(plain) == [*CAMERAS, "joints"]
    assert env.observation_space.contains(plain)
    assert data_equivalence(plain, {name: seen[name] for name in plain})


def test_the_pixels_of_the_table_are_at_its_height() -> None:
    observation, _ = with_depth().reset(seed=1)
    for name in CAMERAS:
        depth = observation[f"{name}_depth"]
        heights = unproject(depth, observation[f"{name}_intrinsics"], observation[f"{name}_pose"])[..., 2]
        assert (np.abs(heights - TABLE_HEIGHT) < 1e-5).mean() > 0.3
    head = unproject(*(observation[f"head_{kind}"] for kind in MEASURED))
    assert np.nanmin(head[..., 2]) > TABLE_HEIGHT - 1e-5  # the head camera sees nothing but the table and what is above


def test_where_nothing_is_hit_the_depth_is_zero() -> None:
    """The hands, turned up, look over the wall."""
    env = with_depth()
    env.reset(seed=0)
    for arm in env.scene.arms.values():
        arm.place(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    observation = env.observe()
    assert (observation["left_wrist_depth"] == 0).mean() > 0.5
    assert all((observation[f"{name}_depth"] >= 0).all() for name in CAMERAS)
    nothing = unproject(*(observation[f"left_wrist_{kind}"] for kind in MEASURED))[observation["left_wrist_depth"] == 0]
    assert np.isnan(nothing).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_camera_poses_are_those_of_the_simulator(seed: int) -> None:
    """With measured joints always; with drive targets once the arms have settled, and not while they move."""
    env = with_depth("lift_pot", "randomized")
    observation, _ = env.reset(seed=seed)
    assert largest_error(observation, observation["joints"]) < 1e-5
    lag = 0.0
    for step in range(3):
        target = observation["joints"].copy()
        target[[1, 8]] -= SMALL_MOVE * (step + 1)
        observation = env.step(target)[0]
        assert largest_error(observation, measured_joints(env)) < 1e-5
        lag = max(lag, largest_error(observation, observation["joints"]))
    assert lag > 1e-3
    observation = env.step_chunk(np.repeat(observation["joints"][None], 10, axis=0))[0]
    assert largest_error(observation, observation["joints"]) < 1e-4


def test_camera_poses_take_any_leading_axes() -> None:
    joints = np.random.default_rng(0).uniform(-1, 1, (2, 3, 14))
    poses = RIG.camera_poses(joints)
    assert {name: pose.shape for name, pose in poses.items()} == dict.fromkeys(CAMERAS, (2, 3, 4, 4))
    np.testing.assert_allclose(poses["left_wrist"][1, 2], RIG.camera_poses(joints[1, 2])["left_wrist"], atol=1e-12)


def test_a_suite_that_knows_no_cameras_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"give its `Suite` the method `cameras`, or set env\.depth=true"):
        Suite().cameras(EnvConfig(suite="toy"))


def test_depth_needs_rendering() -> None:
    with pytest.raises(ValueError, match="render=True"):
        TabletopEnv("click_bell", render=False, depth=True)


def test_the_expert_and_a_process_give_the_same_depth() -> None:
    """The expert's episode over the protocol, and the same actions played again."""
    with SimulatorProcess(simulator_spec(EnvConfig(depth=True, head_size=16, wrist_size=16))) as simulator:
        reply = simulator.demonstrate("click_bell", "clean", 3)
        first = simulator.reset("click_bell", "clean", 3).observation
        chunk = simulator.step_chunk(reply.joints[1:4], record=False).observation
    assert set(reply.images) == set(reply.depths) == set(reply.cameras) == set(CAMERAS)
    for name in CAMERAS:
        assert reply.depths[name].shape == (len(reply.joints), 16, 16)
        for index, observation in ((0, first), (3, chunk)):
            np.testing.assert_array_equal(observation[f"{name}_depth"], reply.depths[name][index])
            np.testing.assert_array_equal(observation[f"{name}_pose"], reply.cameras[name].poses[index])
            np.testing.assert_array_equal(observation[f"{name}_intrinsics"], reply.cameras[name].intrinsics)


def test_an_expert_without_depth_has_none() -> None:
    reply = record_expert(TabletopEnv("click_bell", render=False), 0)
    assert (reply.depths, reply.cameras) == ({}, {})
    assert set(reply.columns) == {*CAMERAS, "joints"}
