"""NoiseGate on a real Ray: what it learns from, what it leaves out, what stops it, and that a resume is exact."""

from __future__ import annotations

import itertools
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.schema import Config, EnvConfig
from rl.algorithm import ScheduleAlgorithm, ScheduleAlgorithmConfig, running
from rl.engine.learner import NotFiniteError
from rl.evaluation.sources import ScheduleSource
from rl.method import charts_of
from rl.runs.checkpoints import CheckpointError, CheckpointStore
from rl.runs.snapshot import snapshot
from rl.runs.tracking import LAYOUT, combined, read_metrics
from rl.runs.training import train
from tests.gated_simulator import GatedSimulator
from tests.gated_task import SPEC, STEPS, gated_settings
from tests.local_simulator import LocalSimulator
from tests.rl.test_algorithm import assert_same, kill_soon, metrics_of_an_iteration
from tests.rl.test_training import run as run_with

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulators(env: EnvConfig, count: int) -> list[LocalSimulator]:
        return [LocalSimulator(GatedSimulator()) for _ in range(count)]

    monkeypatch.setattr("rl.engine.runner.make_simulators", simulators)


def built(settings: Config) -> Any:
    return running(ScheduleAlgorithmConfig.of(settings, SPEC))


def weights(one: ScheduleAlgorithm) -> dict[str, torch.Tensor]:
    return snapshot(one).scheduler


@pytest.mark.usefixtures("local")
def test_every_iteration_reports_what_happened() -> None:
    settings = gated_settings()
    settings.validation.episodes_per_task = 3
    with built(settings) as one:
        metrics = metrics_of_an_iteration(one) | one.validate()
    layout = combined(LAYOUT, *charts_of(settings))
    tags = {tag for charts in layout.values() for _, tags in charts.values() for tag in tags}
    shown = {tag: {name for name in metrics if re.search(tag, name)} for tag in tags}
    assert all(shown.values()), shown
    steps = {f"policy/sigma_frame{frame}_step{step:02d}" for frame in (1, 2) for step in range(STEPS)}
    tasks = {"episode/success_gated", "episode/n_gated", "group/count", "group/dropped", "learner/advantage_std"}
    expected = set().union(*shown.values()) | steps | tasks | {"episode/outcome_success", "episode/outcome_step_limit"}
    expected |= {"reward/return", "reward/success", "learner/entropy", "learner/std", "learner/rollouts"}
    assert expected <= metrics.keys()
    assert all(np.isfinite(metrics[name]) for name in expected)
    assert metrics["episode/n_gated"] == 16
    assert metrics["policy/sigma_frame1_step00"] == 1
    assert metrics["policy/last_sigma_frame1"] == pytest.approx(0.2, abs=0.1)


@pytest.mark.usefixtures("local")
def test_the_first_loss_is_on_policy() -> None:
    """The stored log-probabilities are those that the learner computes, from latents that travelled as float16."""
    settings = gated_settings()
    settings.objective.epochs, settings.objective.minibatch_decisions = 1, 10_000
    with built(settings) as one:
        metrics = metrics_of_an_iteration(one)
    assert metrics["group/informative"] > 0
    assert metrics["learner/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["learner/ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["learner/approximate_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["learner/clip_fraction"] == 0


@pytest.mark.usefixtures("local")
def test_the_learner_never_runs_the_backbone() -> None:
    with built(gated_settings()) as one:
        rollouts = one.collector.collect().rollouts
        one.env_runner_group.local_env_runner.wam.forward = fail
        assert one.learn(rollouts, one.score(rollouts).credit)["learner/rollouts"] > 0


def fail(*args: Any) -> Any:
    raise RuntimeError("the kernel failed")


@pytest.mark.usefixtures("local")
def test_groups_of_equal_reward_are_skipped_counted_and_end_the_run_with_advice() -> None:
    settings = gated_settings()
    settings.schedule.initial_log_std = settings.schedule.min_log_std = -20.0  # nothing is explored
    settings.objective.max_equal_iterations = 2
    with built(settings) as one:
        before = weights(one)
        metrics = metrics_of_an_iteration(one)
        assert metrics["group/informative"] == 0
        assert "learner/policy" not in metrics
        assert_same(weights(one), before)
        with pytest.raises(RuntimeError, match=r"2 iterations in a row.*between 20% and 80%"):
            one.train()


@pytest.mark.usefixtures("local")
def test_groups_of_equal_reward_are_played_again_within_the_budget() -> None:
    settings = gated_settings()
    settings.collector.resample_budget = 5
    with built(settings) as one:
        plain = one.collector._play(one.collector.next_groups(4))
        informative = one.collector._count_informative(plain)
        assert informative < 4
        one.collector.cursor = 0
        metrics = metrics_of_an_iteration(one)
        assert 4 < metrics["group/count"] <= 9
        assert one.collector.cursor == metrics["group/count"]
        assert metrics["group/informative"] * metrics["group/count"] >= informative


@pytest.mark.parametrize("name", ["deviation", "latents"])
@pytest.mark.usefixtures("local")
def test_a_number_that_is_not_finite_names_its_episodes_and_changes_nothing(name: str) -> None:
    with built(gated_settings()) as one:
        one.train()
        before, optimizer = weights(one), snapshot(one).optimizer
        rollouts = one.collector.collect().rollouts
        returns = one.score(rollouts).credit
        learnable = one.objective.learnable(rollouts, returns)
        broken, row = len(learnable) - 1, learnable[-1]
        getattr(rollouts.trace, name)[rollouts.lengths[:row].sum() : rollouts.lengths[: row + 1].sum()] = torch.nan
        with pytest.raises(NotFiniteError, match="stopped before the step") as caught:
            one.learn(rollouts, returns)
        assert caught.value.owners == [broken]
        assert caught.value.names == [rollouts.names[row]]
        assert "gated/clean seed" in str(caught.value)
        assert_same(weights(one), before)
        assert_same(snapshot(one).optimizer, optimizer)


def test_faults_are_counted_and_their_groups_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulator processes that die: once (run again), always (dropped), or refuse the scene (dropped at once)."""
    monkeypatch.setenv("GATED_SCRATCH", str(tmp_path))
    settings = gated_settings()
    settings.env.tasks = ["gated", "crash-once", "crash-always", "impossible"]
    settings.collector.size, settings.collector.retries = 2, 1
    with built(settings) as one:
        metrics = metrics_of_an_iteration(one)
    assert metrics["group/count"] == 4
    assert metrics["group/dropped"] == 2
    assert metrics["episode/outcome_sim_fault"] == 2
    assert metrics["episode/outcome_infeasible_seed"] == 2
    assert metrics["episode/reruns"] == 1 + 2
    assert (metrics["episode/n_gated"], metrics["episode/n_crash-once"]) == (2, 2)
    assert "episode/n_crash-always" not in metrics


def test_a_run_in_which_everything_fails_ends() -> None:
    settings = gated_settings()
    settings.env.tasks, settings.rollout.max_empty_iterations = ["impossible"], 2
    with built(settings) as one:
        one.train()
        with pytest.raises(RuntimeError, match="2 iterations in a row gave nothing usable"):
            one.train()


def test_a_runner_killed_in_the_middle_of_a_group_loses_nothing_but_time() -> None:
    """Two slots on two runners, of which one dies; after each step the weights are those of an undisturbed run."""
    expected = []
    with built(two_slots(runners=0)) as one:
        for _ in range(2):
            one.train()
            expected.append(weights(one))
    with built(two_slots(runners=2)) as one:
        one.train()
        assert_same(weights(one), expected[0])
        simulators = one.env_runner_group.foreach_env_runner(children)
        one.env_runner_group.foreach_env_runner(die_in_the_middle, remote_worker_ids=[1])
        metrics = metrics_of_an_iteration(one)
        assert metrics["runners/reissued"] == 1
        assert metrics["group/dropped"] == 0
        assert_same(weights(one), expected[1])
    assert [pid for pids in simulators for pid in pids if alive(pid)] == []


def two_slots(runners: int) -> Config:
    settings = gated_settings(runners=runners)
    settings.rollout.slots = 2
    return settings


def die_in_the_middle(runner: Any) -> None:
    """At its third chunk from now on, other episodes being on their way."""
    simulator, calls = runner.simulators()[0], itertools.count(1)
    start = simulator.start_chunk

    def start_chunk(*arguments: Any) -> None:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        start(*arguments)

    simulator.start_chunk = start_chunk


def children(runner: Any) -> list[int]:
    return [simulator.pid for simulator in runner.simulators()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_asynchronous_runners_go_on_while_the_learner_updates() -> None:
    """One scenario, since real processes start slowly: lags are bounded and told, runners die, rounds go between."""
    settings = gated_settings(runners=2, iterations=10)
    settings.collector.asynchronous, settings.collector.max_staleness = True, 1
    settings.collector.per_iteration = 2
    settings.validation.episodes_per_task = 4
    with built(settings) as one:
        for _ in range(3):
            metrics = metrics_of_an_iteration(one)
            assert metrics["group/count"] == 2
            assert metrics["runners/staleness_max"] <= 1
        assert one.collector.cursor > 3 * 2  # handed out ahead of what was learned from
        validation = one.validate()
        assert sum(count for name, count in validation.items() if "outcome" in name) == 4
        kill_soon(one.env_runner_group.foreach_env_runner(lambda runner: os.getpid())[0], after_s=0.0).join()
        for _ in range(2):
            metrics = metrics_of_an_iteration(one)
        assert metrics["group/dropped"] == 0
        assert metrics["runners/staleness_max"] <= 1


# A whole run.


run = partial(run_with, spec=SPEC)


def learned(directory: Path) -> list[dict[str, float]]:
    groups = ("iteration", "episode", "group", "reward", "policy", "learner")
    return [
        {name: value for name, value in record.items() if name.partition("/")[0] in groups}
        for record in read_metrics(directory)
    ]


@pytest.mark.usefixtures("local")
def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    settings = gated_settings(iterations=4)
    settings.collector.resample_budget = 2
    straight = run(settings, tmp_path / "straight")
    run(settings, tmp_path / "stopped", stop_after=2)
    resumed = run(settings, tmp_path / "stopped")
    assert_same(straight.scheduler, resumed.scheduler)
    assert_same(straight.optimizer, resumed.optimizer)
    assert straight.state == resumed.state
    assert straight.state["collector"]["cursor"] > 16
    assert learned(tmp_path / "straight") == learned(tmp_path / "stopped")


@pytest.mark.usefixtures("local")
def test_a_run_that_died_after_its_last_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    settings = gated_settings(iterations=4)
    straight = run(settings, tmp_path / "straight")

    def die(iteration: int, metrics: object) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "died", spec=SPEC, on_iteration=die)
    assert CheckpointStore(tmp_path / "died").paths()[-1].name == "step_000002"
    resumed = run(settings, tmp_path / "died")
    assert_same(straight.scheduler, resumed.scheduler)
    assert straight.state == resumed.state
    assert learned(tmp_path / "straight") == learned(tmp_path / "died")


@pytest.mark.usefixtures("local")
def test_the_best_checkpoint_comes_from_validation_and_is_a_schedule(tmp_path: Path) -> None:
    settings = gated_settings(iterations=2)
    settings.validation.every, settings.validation.episodes_per_task = 1, 6
    run(settings, tmp_path)
    best = CheckpointStore(tmp_path).best_path
    assert best is not None
    assert ScheduleSource("noisegate", best).load(SPEC, settings.schedule).name == "noisegate"
    assert all("validation/success" in record for record in read_metrics(tmp_path))
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.usefixtures("local")
def test_a_gate_of_another_shape_is_refused(tmp_path: Path) -> None:
    run(gated_settings(iterations=1), tmp_path)
    settings = gated_settings(iterations=2)
    settings.schedule.width = 32
    with pytest.raises(CheckpointError, match=r"schedule of another shape: .* Use the schedule settings"):
        run(settings, tmp_path)
