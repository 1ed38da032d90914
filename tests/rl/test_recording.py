"""Episodes of a policy are recorded as they are played, and kept beside the demonstrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.failures import FailuresConfig
from configs.schema import Config, DemonstrationsConfig, EnvConfig
from envs.demonstrations import list_episodes, read_episode
from envs.demonstrations.failures import list_failures
from envs.process.owner import SimulatorFault
from envs.simulator import SimulatorSpec
from rl.experience.recording import RecordingSimulator, check_policy, record_policy
from tests.envs.test_demonstrations import FACTORY, collect_toy, tree_of
from tests.rl.recipes import analytic_settings

STEPS = 6  # of an episode of the toy
CHUNK = np.zeros((4, 14), np.float32)


def toy(env: EnvConfig) -> SimulatorSpec:
    """What `env.simulator` may name."""
    return SimulatorSpec(FACTORY, {"image_size": 16})


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[RecordingSimulator]:
    with RecordingSimulator(SimulatorSpec(FACTORY, {"scratch": str(tmp_path)})) as process:
        yield process


def test_every_observation_is_kept_and_a_chunk_has_one_answer(simulator: RecordingSimulator) -> None:
    first = simulator.reset("fine", "clean", 3)
    one = simulator.step_chunk(CHUNK, every=2)
    assert (one.executed, one.done, len(simulator.recordings["fine", "clean", 3])) == (4, False, 5)
    two = simulator.step_chunk(CHUNK)
    assert (two.executed, two.done, two.success) == (2, True, True), "it ended inside the chunk"
    kept = simulator.recordings["fine", "clean", 3]
    assert len(kept) == STEPS + 1
    for number, place in enumerate((2, 4)):
        np.testing.assert_array_equal(one.passed["joints"][number], kept[place]["joints"])
    assert (len(one.passed["joints"]), two.passed) == (2, {})
    for place, reply in ((0, first), (4, one), (6, two)):
        assert kept[place] is reply.observation
    assert len({observation["joints"].tobytes() for observation in kept}) == STEPS + 1


def test_episodes_are_kept_apart_and_another_try_starts_anew(simulator: RecordingSimulator) -> None:
    simulator.reset("fine", "clean", 3)
    simulator.step_chunk(CHUNK)
    simulator.reset("fine", "randomized", 4)
    simulator.reset("fine", "clean", 3)
    simulator.step_chunk(CHUNK[:1])
    assert {scene: len(kept) for scene, kept in simulator.recordings.items()} == {
        ("fine", "clean", 3): 2,
        ("fine", "randomized", 4): 1,
    }


@pytest.mark.parametrize("task", ["raise", "os_exit", "reset-raise", "nan"])
def test_a_fault_leaves_no_recording(simulator: RecordingSimulator, task: str) -> None:
    """Another simulator may have played the scene again: half an episode must not take the place of a whole one."""
    with pytest.raises(SimulatorFault):
        simulator.reset(task, "clean", 3)
        simulator.step_chunk(CHUNK)
    assert simulator.recordings == {}
    simulator.reset("fine", "clean", 4)
    assert simulator.step_chunk(CHUNK[:2]).executed == 2, "the rest of the lost chunk is forgotten"


def test_what_cannot_be_done_is_refused_before_anything_moves(simulator: RecordingSimulator) -> None:
    simulator.reset("fine", "clean", 3)
    with pytest.raises(ValueError, match="cannot film"):
        simulator.step_chunk(CHUNK, record=True)
    with pytest.raises(ValueError, match="finite"):
        simulator.step_chunk(np.concatenate([CHUNK, CHUNK + np.nan]))
    assert len(simulator.recordings["fine", "clean", 3]) == 1


def settings_for(root: Path, scenes: int = 3, task: str = "fine") -> Config:
    config = analytic_settings()
    config.env.simulator, config.env.tasks = "tests.rl.test_recording:toy", [task]
    config.demonstrations = DemonstrationsConfig(
        root=str(root), episodes_per_task=3, workers=2, failures=FailuresConfig(policy=scenes, schedule="fixed-2")
    )
    return config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Three demonstrations of the toy are there."""
    config = settings_for(tmp_path / "a")
    collect_toy(config.demonstrations)
    return config


def test_a_policy_plays_in_the_scenes_of_the_demonstrations(config: Config) -> None:
    steps: list[int] = []
    report = record_policy(config, lambda progress: steps.append(progress.collected))
    assert (report.outcomes, report.written) == ({"fine/clean/failures/policy": {"success": 3}}, 3)
    assert report.complete
    assert steps == [1, 2, 3]
    root = config.demonstrations.root
    played = list_failures(root, ["fine"], ["clean"], kinds=["policy"])
    assert [one.seed for one in played] == [one.seed for one in list_episodes(root, ["fine"], ["clean"], "all")]
    episode = read_episode(played[0])
    assert len(episode) == STEPS
    assert episode.images["head"].shape == (STEPS + 1, 16, 16, 3)
    assert (episode.instruction, episode.style) == ("do fine in clean", {})
    before = tree_of(Path(root))
    assert record_policy(config).written == 0
    assert tree_of(Path(root)) == before


def test_it_resumes_stops_and_mixes_nothing(config: Config) -> None:
    one = replace(config.demonstrations, failures=replace(config.demonstrations.failures, policy=1))
    assert record_policy(replace(config, demonstrations=one)).written == 1
    assert not record_policy(config, stop_requested=lambda: True).complete
    assert record_policy(config).written == 2
    config.demonstrations.failures.schedule = "fixed-3"
    with pytest.raises(ValueError, match="holds episodes with another schedule"):
        record_policy(config)


@pytest.mark.parametrize("schedule", ["sants", "sants+plan", "fixed-5+plan", "fixed-0", "nonsense"])
def test_a_schedule_that_cannot_play_alone_is_refused(config: Config, schedule: str) -> None:
    config.demonstrations.failures.schedule = schedule
    with pytest.raises(ValueError, match=r"has to be trained, or has a planner|fixed-0|'nonsense' is no schedule"):
        check_policy(config)


def test_a_scene_whose_simulator_fails_is_noted_and_not_kept(tmp_path: Path) -> None:
    config = settings_for(tmp_path, scenes=1, task="raise")
    (tmp_path / "raise" / "clean").mkdir(parents=True)
    (tmp_path / "raise" / "clean" / "seed.txt").write_text("3\n")
    report = record_policy(config)
    assert (report.outcomes, report.complete) == ({"raise/clean/failures/policy": {"sim_fault": 1}}, True)
    assert list_failures(tmp_path, ["raise"], ["clean"]) == []
