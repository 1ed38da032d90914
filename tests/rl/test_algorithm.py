"""The algorithm on a real Ray: what it learns from, what it does when runners die, what stops it."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.schema import Config
from rl.algorithm import ScheduleAlgorithm, ScheduleAlgorithmConfig, running
from rl.engine.dispatch import NoRunnersLeftError
from rl.engine.learner import NotFiniteError
from rl.experience.records import PathOutcome
from rl.runs.snapshot import restore, snapshot
from tests.analytic import SPEC
from tests.rl.recipes import analytic_settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]


def built(settings: Config) -> Any:
    return running(ScheduleAlgorithmConfig.of(settings, SPEC))


def metrics_of_an_iteration(one: ScheduleAlgorithm) -> dict[str, float]:
    one.train()
    return one.latest_metrics


def weights(one: ScheduleAlgorithm) -> dict[str, torch.Tensor]:
    return snapshot(one).scheduler


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def kill_soon(process_id: int, after_s: float) -> threading.Thread:
    def kill() -> None:
        time.sleep(after_s)
        os.kill(process_id, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def two_slots(runners: int) -> Config:
    settings = analytic_settings(runners=runners, iterations=5)
    settings.rollout.slots = 2
    return settings


def test_rllib_makes_no_folder_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", "/proc/no_home/ray_results")
    with built(analytic_settings()) as one:
        folder = Path(one.logdir)
        assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()


def test_every_iteration_reports_what_happened() -> None:
    with built(analytic_settings()) as one:
        metrics = metrics_of_an_iteration(one)
    expected = {
        "reward/return", "reward/quality", "reward/quality_seq", "reward/quality_dif", "reward/cost",
        "reward/baseline", "path/updates", "path/final_sigma", "path/outcome_completed", "policy/stop_rate",
        "policy/forced_stops", "policy/jump_ratio", "learner/advantage_std", "learner/reference_kl",
        "learner/approximate_kl", "learner/clip_fraction", "learner/ratio_mean", "learner/ratio_max",
        "learner/gradient_norm", "time/runner_busy_share", "time/learner_share", "runners/broadcast_bytes",
        "runners/weights_lag_max",
    }  # fmt: skip
    assert expected <= metrics.keys()
    assert all(np.isfinite(metrics[name]) for name in expected)
    assert metrics["path/outcome_completed"] == 16
    assert metrics["runners/weights_lag_max"] == 0


def test_every_epoch_counts_as_an_update_and_its_weights_are_broadcast() -> None:
    settings = analytic_settings()
    settings.objective.epochs = 3
    with built(settings) as one:
        first = one.weights_version
        metrics = metrics_of_an_iteration(one)
        assert metrics["runners/weights_version"] == one.weights_version == first + 3
        assert metrics["learner/minibatches"] == 3 * 2
        assert one.env_runner_group.local_env_runner.weights_version == one.weights_version


def test_a_broadcast_is_the_schedulers_bytes() -> None:
    with built(analytic_settings()) as one:
        metrics = metrics_of_an_iteration(one)
        assert metrics["runners/broadcast_bytes"] == sum(4 * tensor.numel() for tensor in weights(one).values())


def test_the_first_loss_is_on_policy() -> None:
    settings = analytic_settings()
    settings.objective.epochs, settings.objective.minibatch_paths = 1, 16
    with built(settings) as one:
        metrics = metrics_of_an_iteration(one)
    assert metrics["learner/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["learner/approximate_kl"] == pytest.approx(0.0, abs=1e-6)


def test_anchors_are_walked_once() -> None:
    settings = analytic_settings(iterations=12)
    settings.collector.noise_seeds = 1
    with built(settings) as one:
        for _ in range(8):  # two rounds through 64 segments
            one.train()
        assert len(one.collector.anchors) == 64
        wam = one.env_runner_group.local_env_runner.wam
        before = wam.forward_rows
        metrics = metrics_of_an_iteration(one)
        assert wam.forward_rows - before == round(metrics["path/forwards"] * 16)
        rollouts = one.collector.collect().rollouts
        for key, errors in zip(rollouts.groups, rollouts.anchors, strict=True):
            np.testing.assert_array_equal(errors, one.collector.anchors[key])


def test_runners_that_lag_or_die_change_counters_not_results() -> None:
    """One scenario, since real processes start slowly. After each step the weights are those of an undisturbed run."""
    expected = undisturbed(iterations=4)
    with built(two_slots(runners=2)) as one:
        assert metrics_of_an_iteration(one)["runners/weights_lag_max"] == 0
        assert_same(weights(one), expected[0])
        stale_weights_are_replaced(one)
        assert_same(weights(one), expected[1])
        a_killed_and_a_hanging_runner_are_replaced_and_their_work_is_done_once(one)
        assert_same(weights(one), expected[2])
        one.train()
        assert_same(weights(one), expected[3])
        without_any_runner_the_run_ends(one)


def undisturbed(iterations: int) -> list[dict[str, torch.Tensor]]:
    """Weights after each iteration of two slots, in this process."""
    collected = []
    with built(two_slots(runners=0)) as one:
        for _ in range(iterations):
            one.train()
            collected.append(weights(one))
    return collected


def stale_weights_are_replaced(one: ScheduleAlgorithm) -> None:
    one.env_runner_group.foreach_env_runner(lambda runner: setattr(runner, "weights_version", -1))
    metrics = metrics_of_an_iteration(one)
    assert metrics["runners/stale"] >= 1
    assert metrics["runners/weights_lag_max"] == 0


def a_killed_and_a_hanging_runner_are_replaced_and_their_work_is_done_once(one: ScheduleAlgorithm) -> None:
    before = one.env_runner_group.foreach_env_runner(lambda runner: os.getpid())
    one.env_runner_group.foreach_env_runner(lambda runner: setattr(runner, "sample", hang))
    one.settings.rollout.request_deadline_s = 2.0
    killer = kill_soon(before[0], after_s=0.3)
    metrics = metrics_of_an_iteration(one)
    killer.join()
    one.settings.rollout.request_deadline_s = 600.0
    assert metrics["runners/reissued"] == 2
    assert metrics["path/outcome_completed"] == 16
    deadline = time.monotonic() + 90
    while one.env_runner_group.num_healthy_env_runners() < 2 and time.monotonic() < deadline:
        one.restore_env_runners(one.env_runner_group)
    now = one.env_runner_group.foreach_env_runner(lambda runner: (os.getpid(), runner.weights_version))
    assert len({process for process, _ in now} - set(before)) == 2
    assert [version for _, version in now] == 2 * [one.weights_version]


def without_any_runner_the_run_ends(one: ScheduleAlgorithm) -> None:
    for process in one.env_runner_group.foreach_env_runner(lambda runner: os.getpid()):
        os.kill(process, signal.SIGKILL)
    one.settings.rollout.restart_deadline_s = 1.0
    with pytest.raises(NoRunnersLeftError, match="all 2 died"):
        one.train()


def hang(**kwargs: Any) -> None:
    """As native code may."""
    time.sleep(1000)


def test_a_runner_that_cannot_be_built_says_why() -> None:
    settings = analytic_settings(runners=1)
    settings.wam.backbone = "tests.no_such_module"
    with pytest.raises(RuntimeError, match=r"No runner could be built.*no_such_module"), built(settings):
        pass


def test_failures_of_single_segments_are_masked_and_counted() -> None:
    with built(analytic_settings()) as one:
        source = one.env_runner_group.local_env_runner._source("train")
        broken = one.collector.tasks(0, 16)[3].segment
        one.env_runner_group.local_env_runner._sources["train"] = Unreadable(source, broken)
        metrics = metrics_of_an_iteration(one)
        assert metrics["path/outcome_completed"] == 15
        assert metrics["path/outcome_data_fault"] == 1
        assert one.recent_failures[-1].outcome is PathOutcome.data_fault
        assert "cannot be read" in one.recent_failures[-1].message


class Unreadable:
    """A source with one damaged segment."""

    def __init__(self, source: Any, broken: int) -> None:
        self._source, self._broken = source, broken

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        if index == self._broken:
            raise ValueError("episode3.hdf5 cannot be read")
        return self._source[index]


def test_a_failing_backbone_is_data_and_ends_the_run_when_it_persists() -> None:
    settings = analytic_settings()
    settings.rollout.max_empty_iterations = 2
    with built(settings) as one:
        one.train()
        before = weights(one)
        runner = one.env_runner_group.local_env_runner
        runner.wam.forward = fail
        metrics = metrics_of_an_iteration(one)
        assert metrics["path/outcome_walk_fault"] == 16
        assert "reward/return" not in metrics
        assert_same(weights(one), before)
        with pytest.raises(RuntimeError, match=r"2 iterations in a row.*the kernel failed"):
            one.train()


def fail(*args: Any) -> None:
    raise RuntimeError("the kernel failed")


@pytest.mark.parametrize("name", ["advantage", "stop_log_prob"])
def test_a_number_that_is_not_finite_stops_before_the_step(name: str) -> None:
    with built(analytic_settings()) as one:
        one.train()
        before, optimizer = weights(one), snapshot(one).optimizer
        update = one.update
        one.update = lambda arrays, minibatch: update(arrays | {name: np.full_like(arrays[name], np.nan)}, minibatch)
        with pytest.raises(NotFiniteError, match=r"stopped before the step.*segment \d+") as caught:
            one.train()
        assert caught.value.owners
        assert_same(weights(one), before)
        assert_same(snapshot(one).optimizer, optimizer)


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    with built(analytic_settings()) as one:
        one.train()
        before = weights(one)
        policy = one.learner_group._learner.module["default_policy"].policy
        policy.stop_head.weight.register_hook(lambda gradient: gradient * float("inf"))
        with pytest.raises(NotFiniteError, match="A gradient"):
            one.train()
        assert_same(weights(one), before)


def test_the_same_cursor_gives_the_same_paths() -> None:
    with built(analytic_settings()) as one:
        assert one.collector.tasks(8, 4) == one.collector.tasks(0, 12)[8:]
        rounds = [{task.segment for task in one.collector.tasks(start, 64)} for start in (0, 64)]
        assert rounds == 2 * [set(range(64))]
        assert one.collector.tasks(0, 64) != one.collector.tasks(64, 64)


def test_several_paths_of_a_segment_differ_in_their_decisions_only() -> None:
    settings = analytic_settings()
    settings.collector.paths_per_segment = 4
    with built(settings) as one:
        tasks = one.collector.tasks(8, 16)
        assert tasks == one.collector.tasks(0, 24)[8:]
        starts = [[task.anchor_key for task in tasks[first : first + 4]] for first in range(0, 16, 4)]
        assert all(len(set(group)) == 1 for group in starts)
        assert len({group[0] for group in starts}) == 4
        assert len({task.path_seed for task in tasks}) == 16


def test_the_learning_rate_falls_to_its_end() -> None:
    settings = analytic_settings(iterations=4)
    settings.objective.learning_rate_end = 0.5
    with built(settings) as one:
        rates = [rate_of_an_iteration(one) / settings.objective.learning_rate for _ in range(4)]
        assert rates == pytest.approx([1.0, 0.875, 0.75, 0.625])


def rate_of_an_iteration(one: ScheduleAlgorithm) -> float:
    one.train()
    optimizer = next(iter(one.learner_group._learner._named_optimizers.values()))
    return float(optimizer.param_groups[0]["lr"])


def test_a_baseline_of_other_rewards_is_not_taken_back() -> None:
    """The moving average of returns holds only while the rewards are the same."""
    with running(ScheduleAlgorithmConfig.of(analytic_settings(), SPEC)) as one:
        one.train()
        stored = snapshot(one)
    same, dearer = analytic_settings(), analytic_settings()
    dearer.reward["cost"].weight = 0.9
    for settings, kept in ((same, True), (dearer, False)):
        with running(ScheduleAlgorithmConfig.of(settings, SPEC)) as one:
            restore(one, stored)
            assert (one.objective.baseline is not None) == kept
            assert one.rewards.terms["path"].calibration is not None


def test_a_stop_only_run_walks_each_segment_once() -> None:
    """After one round through the segments, neither paths nor anchors need the backbone."""
    settings = analytic_settings(iterations=8)
    settings.schedule.name = "stop-only"
    with running(ScheduleAlgorithmConfig.of(settings, SPEC)) as one:
        wam = one.env_runner_group.local_env_runner.wam
        for _ in range(4):  # 64 segments, 16 paths an iteration
            one.train()
        before, known = wam.forward_rows, len(one.collector.anchors)
        assert known == 64
        one.train()
        assert wam.forward_rows == before
        assert one.latest_metrics["path/forwards"] > 0
