"""A runner answers whatever happens; a closed loop plays every episode; segments and records keep their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Config
from envs.demonstrations import CorruptDemonstration, list_episodes
from envs.demonstrations.formats.legacy import write_episode
from envs.process.owner import SimulatorProcess, SimulatorUnavailable
from envs.simulator import SimulatorSpec
from policies.catalogue import build_schedule
from policies.schedules.sants import SantsTrace
from rl.algorithm import ScheduleAlgorithmConfig
from rl.engine.runner import NO_WEIGHTS, WAMEnvRunner
from rl.experience.closed_loop import PlayRules, play
from rl.experience.records import (
    AnchorRequest,
    EpisodeRequest,
    EpisodeTask,
    PathOutcome,
    PathRequest,
    PathTask,
    failed_paths,
)
from rl.experience.rollouts import concatenate
from rl.experience.segments import cut_chunk, load_segments, segment_order, segment_starts, spread_indices
from rl.experience.simulators import make_simulators
from tests.analytic import SPEC, AnalyticWAM
from tests.rl.recipes import analytic_settings, closed_loop_settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]


def runner_of(settings: Config) -> WAMEnvRunner:
    return WAMEnvRunner(config=ScheduleAlgorithmConfig.of(settings, SPEC), worker_index=0)


@pytest.fixture(scope="module")
def runner(ray_up: None) -> WAMEnvRunner:
    return runner_of(analytic_settings())


def tasks(count: int, noise_seed: int = 5) -> tuple[PathTask, ...]:
    return tuple(PathTask(segment, noise_seed, 100 + segment) for segment in range(count))


def path_request(paths: tuple[PathTask, ...], **changes: Any) -> PathRequest:
    """Of paths whose anchors nobody has walked yet."""
    return PathRequest(paths, "train", frozenset(task.anchor_key for task in paths), **changes)


def test_a_path_depends_on_its_task_alone(runner: WAMEnvRunner) -> None:
    together = runner.sample(request=path_request(tasks(8))).paths
    alone = runner.sample(request=path_request(tasks(8)[5:6])).paths
    assert together is not None
    assert alone is not None
    assert together.lengths[5] == alone.lengths[0]
    ours, theirs = together.traces()[5].columns(), alone.traces()[0].columns()
    assert together.trace is not None
    for name, values in together.trace.columns().items():
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
        assert len(values) == together.lengths.sum()
    np.testing.assert_allclose(together.errors[5], alone.errors[0], rtol=1e-5)


def test_known_anchors_are_not_walked_again(runner: WAMEnvRunner) -> None:
    first = runner.sample(request=path_request(tasks(4)))
    assert first.anchors.keys() == {task.anchor_key for task in tasks(4)}
    rows = runner.wam.forward_rows
    again = runner.sample(request=PathRequest(tasks(4), "train"))
    assert again.anchors == {}
    assert again.paths is not None
    assert runner.wam.forward_rows - rows == again.paths.forwards.sum()
    some = runner.sample(request=PathRequest(tasks(4), "train", frozenset({tasks(4)[2].anchor_key})))
    assert some.anchors.keys() == {tasks(4)[2].anchor_key}
    np.testing.assert_allclose(some.anchors[tasks(4)[2].anchor_key], first.anchors[tasks(4)[2].anchor_key], rtol=1e-6)


def test_anchors_alone_equal_those_of_a_path(runner: WAMEnvRunner) -> None:
    with_path = runner.sample(request=path_request(tasks(4))).anchors
    alone = runner.sample(request=AnchorRequest(tasks(4), "train")).anchors
    assert alone.keys() == with_path.keys()
    for key, errors in alone.items():
        np.testing.assert_allclose(errors, with_path[key], rtol=1e-6)


def test_sample_never_raises() -> None:
    broken = runner_of(analytic_settings())

    def fail(*args: Any) -> None:
        raise MemoryError("out of memory")

    broken.wam.forward = fail
    reply = broken.sample(request=path_request(tasks(3)))
    assert reply.paths is not None
    assert reply.paths.outcomes == 3 * [PathOutcome.walk_fault]
    assert reply.failures[0].message == "MemoryError: out of memory"
    settings = closed_loop_settings(episodes=1)
    settings.env.simulator = "tests.rl.test_runners:no_simulator"
    episodes = runner_of(settings).sample(request=EpisodeRequest((EpisodeTask("click_bell", "clean", 1),))).episodes
    assert [episode.outcome for episode in episodes] == ["walk_fault"]
    assert "cannot be imported" in episodes[0].message or "No module" in episodes[0].message


def test_a_path_whose_action_is_not_finite_is_masked_alone_and_named() -> None:
    broken = runner_of(analytic_settings())
    finish = broken.wam.finish_actions

    def finish_badly(context: Any, actions: Any) -> Any:
        finished = finish(context, actions)
        finished[1, 0, 6] = np.inf  # a gripper, whose distance is clipped
        return finished

    broken.wam.finish_actions = finish_badly
    reply = broken.sample(request=PathRequest(tasks(3), "train"))
    assert reply.paths is not None
    assert reply.paths.outcomes == [PathOutcome.completed, PathOutcome.not_finite, PathOutcome.completed]
    (failure,) = reply.failures
    assert failure.message == f"fine {tasks(3)[1]}: an action is NaN or infinite"


def no_simulator(env: object) -> SimulatorSpec:
    return SimulatorSpec("tests.no_such_module:Simulator")


def test_a_simulator_that_cannot_be_built_is_not_an_outcome() -> None:
    wam = AnalyticWAM()
    with pytest.raises(SimulatorUnavailable):
        play(
            wam,
            build_schedule("fixed-1", wam.spec),
            [SimulatorProcess(no_simulator(None))],
            [EpisodeTask("click_bell", "clean", 1)],
        )


def test_weights_are_taken_when_they_differ_not_only_when_newer(runner: WAMEnvRunner) -> None:
    state = runner.get_state()
    assert runner.weights_version == NO_WEIGHTS
    for version in (5, 3):
        weights = {name: np.full_like(value, version) for name, value in state["rl_module"]["default_policy"].items()}
        runner.set_state({"rl_module": {"default_policy": weights}, "weights_seq_no": version})
        assert runner.weights_version == version
        assert float(runner.module.policy.stop_head.bias.detach()[0]) == version
    runner.set_state(state)


def test_every_episode_is_played_once_whatever_the_number_of_simulators() -> None:
    settings = closed_loop_settings(episodes=1)
    wam, episodes = AnalyticWAM(), [EpisodeTask("click_bell", "clean", seed) for seed in (4, 7, 1, 2, 9)]
    played = []
    for count in (1, 3):
        simulators = make_simulators(settings.env, count)
        played.append(play(wam, build_schedule("fixed-5", wam.spec), simulators, episodes))
        for simulator in simulators:
            simulator.close()
    assert played[0] == played[1]
    assert [record.seed for record in played[0]] == [4, 7, 1, 2, 9]
    assert [record.outcome for record in played[0]] == [
        "success", "infeasible_seed", "step_limit", "success", "step_limit",
    ]  # fmt: skip
    assert [record.forwards for record in played[0]] == [[5, 5, 5], [], [5, 5, 5], [5, 5, 5], [5, 5, 5]]
    assert played[0][0].steps == 3 * wam.spec.action_horizon


@pytest.mark.parametrize("overlap", [False, True])
def test_a_schedule_by_query_knows_how_many_queries_each_episode_has_made(overlap: bool) -> None:
    """Two simulators play three episodes, so that a first query shares its batch with later ones."""
    settings = closed_loop_settings(episodes=1)
    wam, episodes = AnalyticWAM(), [EpisodeTask("click_bell", "clean", seed) for seed in (4, 17, 1, 2)]
    simulators = make_simulators(settings.env, 2)
    records = play(
        wam, build_schedule("fixed-5-then-1", wam.spec), simulators, episodes, rules=PlayRules(overlap=overlap)
    )
    for simulator in simulators:
        simulator.close()
    assert [record.updates for record in records] == [[5, 1, 1], [], [5, 1, 1], [5, 1, 1]]
    assert [record.forwards for record in records] == [record.updates for record in records]


@given(count=st.integers(1, 20), seed=st.integers(0, 9), cursor=st.integers(0, 60), paths=st.integers(1, 30))
def test_segments_come_in_full_rounds(count: int, seed: int, cursor: int, paths: int) -> None:
    assert segment_order(count, seed, cursor, paths) == segment_order(count, seed, 0, cursor + paths)[cursor:]
    first = segment_order(count, seed, cursor - cursor % count, count)
    assert sorted(first) == list(range(count))


@given(count=st.integers(1, 50), wanted=st.integers(1, 60))
def test_spread_indices_reach_both_ends(count: int, wanted: int) -> None:
    indices = spread_indices(count, wanted)
    assert len(indices) == min(count, wanted)
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] == (count - 1 if wanted > 1 else 0)


def test_a_chunk_is_padded_at_the_episodes_end() -> None:
    joints = np.arange(5 * 14, dtype=np.float32).reshape(5, 14)
    chunk, weight = cut_chunk(joints, start=2, horizon=4)
    np.testing.assert_array_equal(chunk, joints[[3, 4, 4, 4]])
    assert weight.tolist() == [1, 1, 0, 0]
    assert segment_starts([5, 3], stride=2) == [(0, 0), (0, 2), (1, 0)]


def test_failed_rows_stay_in_place_and_out_of_the_batch(runner: WAMEnvRunner) -> None:
    good = runner.sample(request=path_request(tasks(3))).paths
    assert good is not None
    joined = concatenate([failed_paths(tasks(2), PathOutcome.runner_lost), good])
    completed = [outcome == PathOutcome.completed for outcome in joined.outcomes]
    assert completed == [False, False, True, True, True]
    assert joined.lengths.tolist() == [0, 0, *good.lengths]
    selected = joined.select([4, 2])
    assert selected.names == [str(tasks(3)[2]), str(tasks(3)[0])]
    assert isinstance(selected.trace, SantsTrace)
    padded = selected.trace.padded(selected.lengths.tolist())
    assert padded.pooled.shape == (2, selected.lengths.max(), SPEC.feature_dim)
    assert padded.drawn.sum(dim=1).tolist() == [int(good.traces()[row].drawn.sum()) for row in (2, 0)]
    decided = np.arange(selected.lengths.max()) < selected.lengths[:, None]
    assert not padded.sigma.numpy()[~decided].any()
    np.testing.assert_array_equal(padded.sigma[0].numpy()[decided[0]], good.traces()[2].columns()["sigma"])
    np.testing.assert_array_equal(joined.where(completed).errors, good.errors)


def write_demonstrations(root: Path, seeds: int, length: int = 6) -> None:
    """A few tiny episodes, laid out as the collection lays them out."""
    folder = root / "click_bell" / "clean"
    (folder / "instructions").mkdir(parents=True)
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    for index in range(seeds):
        shape = (length, 16, 16, 3)
        images = {
            name: random.integers(0, 255, shape, dtype=np.uint8) for name in ("head", "left_wrist", "right_wrist")
        }
        joints = random.uniform(0, 1, (length, 14)).astype(np.float32)
        write_episode(folder / "data" / f"episode{index}.hdf5", images, joints)
        (folder / "instructions" / f"episode{index}.json").write_text(f'{{"seen": ["press bell {index}"]}}')
    (folder / "seed.txt").write_text(" ".join(str(seed) for seed in range(seeds)))
    (root / "splits.json").write_text('{"train": [0, 1], "validation": [2], "test": []}')


def demonstration_settings(root: Path) -> Config:
    settings = Config()
    settings.demonstrations.root, settings.env.tasks = str(root), ["click_bell"]
    return settings


def test_segments_are_read_from_demonstrations(tmp_path: Path) -> None:
    write_demonstrations(tmp_path, seeds=3)
    source = load_segments(demonstration_settings(tmp_path), "train", horizon=4)
    assert len(source) == 2 * 5
    segment = source[7]
    assert (segment.task, segment.episode, segment.start) == ("click_bell", "click_bell/clean/1", 2)
    assert segment.instruction == "press bell 1"
    assert segment.chunk.shape == (4, 14)
    assert segment.weight.tolist() == [1, 1, 1, 0]
    assert segment.observation["head"].shape == (16, 16, 3)
    assert not np.array_equal(segment.observation["joints"], segment.chunk[0])
    assert len(load_segments(demonstration_settings(tmp_path), "validation", horizon=4)) == 5


def test_a_corrupt_demonstration_is_named(tmp_path: Path) -> None:
    write_demonstrations(tmp_path, seeds=3)
    path = list_episodes(tmp_path, ["click_bell"], ["clean"], "train")[1].path
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorruptDemonstration, match=r"episode1\.hdf5"):
        load_segments(demonstration_settings(tmp_path), "train", horizon=4)


def test_other_weights_on_a_node_are_named_with_it() -> None:
    config = ScheduleAlgorithmConfig.of(analytic_settings(), replace(SPEC, weights_hash="of the driver"))
    with pytest.raises(ValueError, match=r"holds other weights \(hash analytic\).*\(hash of the drive\)"):
        WAMEnvRunner(config=config, worker_index=1)
