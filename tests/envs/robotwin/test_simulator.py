"""The adapter on a made-up RoboTwin that sets every trap, through the real process protocol: an episode."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from envs.process.owner import SimulatorFault, SimulatorProcess
from envs.simulator import SimulatorSpec, simulator_spec
from envs.suites import suite_of
from tests.envs.robotwin.fake_root import DEFAULT, PIXELS, RT, SEEDS, write_fake_root, write_manifest
from tests.envs.robotwin.fake_simulator import (
    PATIENT,
    REPOSITORY,
    STILL,
    TASK,
    environment,
    fact,
    start,
)


def test_their_package_and_ours_keep_their_names(shared: SimulatorProcess, root: Path) -> None:
    """Ours here, theirs there, although theirs reads files by relative paths as it is imported."""
    shared.reset(TASK, "clean", 3)
    assert shared.description["package"] == str(root / "envs" / "__init__.py")
    assert Path(envs.__file__).is_relative_to(REPOSITORY)
    assert shared.description["commit"].startswith("files-")
    assert shared.description["versions"]["python"].count(".") == 2


def test_both_layouts_play(root: Path, tmp_path: Path) -> None:
    other = write_fake_root(tmp_path / "RoboTwin", "main")
    write_manifest(other, tmp_path / "manifests", TASK, "clean", {3: {}})
    with start(other, eval_mode=False) as simulator:
        reply = simulator.reset(TASK, "clean", 3)
        assert simulator.description["layout"] == "main"
        assert simulator.step_chunk(STILL).executed == len(STILL)
    assert reply.observation["joints"].shape == (14,)


def test_a_worker_needs_nothing_of_ours_but_numpy_and_yaml() -> None:
    """So that RoboTwin's interpreter may be another one."""
    code = (
        "import sys, importlib\n"
        f"sys.path.insert(0, {str(REPOSITORY / 'envs' / 'robotwin')!r})\n"
        "import worker\n"
        "worker.load_ours()\n"
        "for name in ('process.worker', 'robotwin.simulator'): importlib.import_module(f'wam_envs.{name}')\n"
        "roots = {name.partition('.')[0] for name in sys.modules if 'cython' not in name}\n"
        "print(*roots - set(sys.stdlib_module_names) - {'__main__', 'worker', 'wam_envs'})"
    )
    command = [sys.executable, "-S", "-c", code]
    paths = [path for path in sys.path if path.endswith("site-packages")]
    clean = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd="/", env=clean, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"numpy", "yaml", "_yaml"}


def test_an_observation_is_ours_and_of_commanded_joints(shared: SimulatorProcess) -> None:
    first = shared.reset(TASK, "clean", 3).observation
    assert {name: (values.dtype, values.shape) for name, values in first.items()} == {
        **{name: (np.dtype(np.uint8), (6, 8, 3)) for name in ("head", "left_wrist", "right_wrist")},
        "joints": (np.dtype(np.float32), (14,)),
    }
    target = np.linspace(0.0, 0.5, 14, dtype=np.float32)
    np.testing.assert_array_equal(shared.step_chunk(target[None]).observation["joints"], target)


def test_depth_is_in_metres_and_poses_are_opencvs(root: Path) -> None:
    """RoboTwin's are in millimetres, and its extrinsics lead from the world to the camera."""
    with SimulatorProcess(simulator_spec(replace(environment(root), depth=True)), PATIENT) as simulator:
        observation = simulator.reset(TASK, "clean", 3).observation
        with pytest.raises(SimulatorFault, match=r"depth of head_camera is float64 \[8\], not floating point \[6, 8\]"):
            simulator.reset(TASK, "clean", SEEDS["flat_depth"])
    for number, name in enumerate(("left_wrist", "right_wrist"), start=1):
        depth = observation[f"{name}_depth"]
        assert (depth.dtype, depth.shape, depth[0, 0]) == (np.float32, (6, 8), 0)
        np.testing.assert_allclose(depth[1:], 0.75 + number / 1000)
        np.testing.assert_array_equal(observation[f"{name}_intrinsics"], np.diag([9, 9, 1]))
        pose = [[0, 0, 1, 0.5], [-1, 0, 0, number], [0, -1, 0, 1.25], [0, 0, 0, 1]]
        np.testing.assert_array_equal(observation[f"{name}_pose"], pose)


def test_poses_of_cameras_come_from_observations_alone(root: Path) -> None:
    env = environment(root)
    with pytest.raises(ValueError, match=r"set env\.depth=true"):
        suite_of(env).cameras(env)


def test_a_seed_is_one_scene_one_start_and_one_instruction(shared: SimulatorProcess, root: Path) -> None:
    """In any process, and however many episodes were before: group members share a baseline."""
    with start(root) as other:
        alone = other.reset(TASK, "clean", 3)
    shared.reset(TASK, "clean", 4)
    for reply in (shared.reset(TASK, "clean", 3), shared.reset(TASK, "clean", 3)):
        np.testing.assert_array_equal(reply.observation["joints"], alone.observation["joints"])
        assert fact(reply.observation, "scene") == fact(alone.observation, "scene")
        assert reply.instruction == alone.instruction
    assert shared.reset(TASK, "clean", 4).instruction != alone.instruction


def test_seen_and_unseen_instructions_are_told_apart(shared: SimulatorProcess, root: Path) -> None:
    with start(root, instruction_type="seen") as seen:
        assert seen.reset(TASK, "clean", 3).instruction.startswith("seen ")
    assert shared.reset(TASK, "clean", 3).instruction.startswith("unseen ")


def test_an_instruction_of_the_manifest_is_taken_as_it_is(root: Path, tmp_path: Path) -> None:
    write_manifest(root, tmp_path, TASK, "clean", {3: {"seen": "as seen", "unseen": "as written"}})
    with start(root, manifests=str(tmp_path)) as simulator:
        assert simulator.reset(TASK, "clean", 3).instruction == "as written"


def test_our_random_state_is_not_touched(shared: SimulatorProcess) -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    random.seed(5)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
    shared.reset(TASK, "clean", 3)
    shared.step_chunk(STILL)
    after = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
    assert after == before


def test_a_chunk_stops_at_success_and_looks_once(shared: SimulatorProcess) -> None:
    shared.reset(TASK, "clean", 3)
    actions = np.zeros((6, 14), np.float32)
    actions[2, 0] = 1.0
    reply = shared.step_chunk(actions)
    assert (reply.executed, reply.success, reply.done) == (3, True, True)
    assert (fact(reply.observation, "actions"), fact(reply.observation, "renders")) == (3, 2)
    again = shared.step_chunk(actions)
    assert (again.executed, again.success, again.done) == (0, True, True)


@pytest.mark.parametrize(
    ("eval_mode", "limit", "expected"), [(False, 0, 10), (True, 0, 10), (False, 7, 7), (True, 7, 10)]
)
def test_the_step_limit_holds_in_training_too(root: Path, eval_mode: bool, limit: int, expected: int) -> None:
    """Where RoboTwin itself never stops. A limit of training is no limit of an evaluation."""
    spec = simulator_spec(environment(root, eval_mode=eval_mode, train_step_limit=limit))
    with SimulatorProcess(_without_manifest_of(spec, root, eval_mode), PATIENT) as simulator:
        simulator.reset(TASK, "clean", 3)
        executed = [simulator.step_chunk(STILL) for _ in range(3)]
    assert sum(reply.executed for reply in executed) == expected
    assert [(reply.success, reply.done) for reply in executed][-1] == (False, True)


def _without_manifest_of(spec: SimulatorSpec, root: Path, eval_mode: bool) -> SimulatorSpec:
    """The manifest of the fixture is for training: an evaluation is given one of its own."""
    if not eval_mode:
        return spec
    folder = root.parent / "of_evaluation"
    write_manifest(root, folder, TASK, "clean", {3: {}}, eval_mode=True)
    return replace(spec, kwargs={**spec.kwargs, "manifests": str(folder)})


def test_recorded_frames_are_one_an_action(shared: SimulatorProcess) -> None:
    shared.reset(TASK, "clean", 3)
    reply = shared.step_chunk(STILL, record=True)
    assert reply.frames is not None
    assert [int(frame[PIXELS["actions"]].max()) for frame in reply.frames] == [1, 2, 3, 4]


def test_the_modes_and_the_shader_are_the_ones_asked_for(shared: SimulatorProcess, root: Path) -> None:
    clean = shared.reset(TASK, "clean", 3).observation
    textured = shared.reset(TASK, "randomized", 3).observation
    assert [fact(one, "textures") for one in (clean, textured)] == [0, 1]
    assert fact(clean, "shader") == RT
    with start(root, shader="default") as other:
        assert fact(other.reset(TASK, "clean", 3).observation, "shader") == DEFAULT
        assert other.description["shader"] == "default"


def test_the_cache_is_cleared_at_upstreams_rate(root: Path) -> None:
    with start(root) as simulator:
        cleared = [fact(simulator.reset(TASK, "clean", 3).observation, "cleared") for _ in range(6)]
    assert cleared == [0, 0, 1, 1, 2, 2]
