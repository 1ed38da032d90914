"""A whole run: resume is exact, damage is survived, directories have one owner."""

from __future__ import annotations

import logging
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.schema import Config
from policies.backbones.door import WAMSpec
from policies.learning import LearnedSchedule
from policies.schedules.sants import SantsSettings
from rl.engine.cluster import TOKEN_FILE, use_token
from rl.evaluation.sources import ScheduleSource
from rl.method import new_section
from rl.runs.checkpoints import SCHEMA_VERSION, Checkpoint, CheckpointError, CheckpointStore, read_checkpoint
from rl.runs.lock import run_lock
from rl.runs.scores import best as best_of
from rl.runs.tracking import read_metrics
from rl.runs.training import is_finished, score_of, train
from tests.analytic import SPEC
from tests.rl.recipes import analytic_settings, closed_loop_settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]

ORPHAN_WAIT_S = 60
LEARNED = ("iteration", "path", "reward", "policy", "learner")


def run(settings: Config, directory: Path, stop_after: int | None = None, spec: WAMSpec = SPEC) -> Checkpoint:
    seen: list[int] = []
    result = train(
        settings,
        directory,
        spec=spec,
        should_stop=lambda: stop_after is not None and len(seen) + 1 >= stop_after,
        on_iteration=lambda iteration, metrics: seen.append(iteration),
    )
    assert result.interrupted == (stop_after is not None)
    return read_checkpoint(result.latest)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    for part in ("scheduler", "optimizer", "anchors"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert one.state == other.state


def learned(directory: Path) -> list[dict[str, float]]:
    """The metrics that do not depend on the clock."""
    return [
        {name: value for name, value in record.items() if name.partition("/")[0] in LEARNED}
        for record in read_metrics(directory)
    ]


@pytest.fixture(scope="module")
def straight(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of six iterations."""
    directory = tmp_path_factory.mktemp("straight")
    run(analytic_settings(iterations=6), directory)
    return directory


def latest(directory: Path) -> Checkpoint:
    found = CheckpointStore(directory).latest_valid()
    assert found is not None
    return found


def test_a_stopped_run_goes_on_exactly(straight: Path, tmp_path: Path) -> None:
    run(analytic_settings(iterations=6), tmp_path, stop_after=3)
    resumed = run(analytic_settings(iterations=6), tmp_path)
    assert resumed.iteration == 6
    assert resumed.optimizer
    assert_same(latest(straight), resumed)
    assert learned(straight) == learned(tmp_path)


def test_a_run_that_scores_every_stop_and_scales_its_features_goes_on_exactly(tmp_path: Path) -> None:
    def settings() -> Config:
        made = analytic_settings(iterations=4)
        made.schedule = SantsSettings(standardise=True, untrained_updates=4, max_decisions=6)
        made.collector.stops, made.run.root = "all", str(tmp_path)  # type: ignore[attr-defined]
        made.reward["path"].reference = "both"  # type: ignore[attr-defined]
        return made

    run(settings(), tmp_path / "straight")
    run(settings(), tmp_path / "stopped", stop_after=2)
    run(settings(), tmp_path / "stopped")
    assert latest(tmp_path / "straight").scheduler["feature_mean"].any()
    assert_same(latest(tmp_path / "straight"), latest(tmp_path / "stopped"))
    assert learned(tmp_path / "straight") == learned(tmp_path / "stopped")


def test_what_is_saved_in_the_middle_of_a_later_iteration_is_the_finished_one(straight: Path, tmp_path: Path) -> None:
    """As a signal handler does it: iterations 4 and 5 have changed weights, optimizer and baseline meanwhile."""
    saves: list[Callable[[], object]] = []  # after 1, after 2, nothing (2 is a checkpoint), after 3, and so on

    def end(iteration: int, metrics: object) -> None:
        if iteration == 5:
            saves[3]()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(analytic_settings(iterations=6), tmp_path, spec=SPEC, on_iteration=end, on_finished=saves.append)
    assert latest(tmp_path).iteration == 3
    assert_same(latest(straight), run(analytic_settings(iterations=6), tmp_path))
    assert learned(straight) == learned(tmp_path)


def test_a_killed_run_goes_on_exactly_and_leaves_no_orphan(straight: Path, tmp_path: Path) -> None:
    """Killed after iteration 5; the last checkpoint is the fourth's, so the fifth is made again."""
    command = [sys.executable, "-m", "tests.rl.killed_run", str(tmp_path), "6", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert psutil.wait_procs(orphans_of(tmp_path), timeout=ORPHAN_WAIT_S)[1] == []
    assert latest(tmp_path).iteration == 4
    assert_same(latest(straight), run(analytic_settings(iterations=6), tmp_path))
    assert learned(straight) == learned(tmp_path)


def orphans_of(directory: Path) -> list[psutil.Process]:
    """What the killed run left, save Ray's two agents, which wait a minute for their cluster before they end."""
    left = []
    for pid in (directory / "children").read_text().split():
        try:
            process = psutil.Process(int(pid))
            if process.status() != psutil.STATUS_ZOMBIE and "agent" not in " ".join(process.cmdline()).lower():
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    return left


def test_a_damaged_checkpoint_costs_its_iterations_only(
    straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(analytic_settings(iterations=6), tmp_path, stop_after=4)
    damaged = CheckpointStore(tmp_path).path_of(4) / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert_same(latest(straight), run(analytic_settings(iterations=6), tmp_path))
    assert str(damaged) in caplog.text


def test_a_named_checkpoint_must_be_whole(straight: Path, tmp_path: Path) -> None:
    settings = analytic_settings(iterations=6)
    settings.run.resume = str(CheckpointStore(straight).path_of(4))
    assert_same(latest(straight), run(settings, tmp_path / "continued"))
    settings.run.resume = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        run(settings, tmp_path / "other")


def test_going_back_in_a_run_leaves_the_course_it_had_taken(straight: Path, tmp_path: Path) -> None:
    settings = analytic_settings(iterations=6)
    settings.run.keep_checkpoints = 2
    run(settings, tmp_path)
    store = CheckpointStore(tmp_path)
    settings.run.resume = str(store.path_of(4))
    run(settings, tmp_path, stop_after=1)
    assert [path.name for path in store.paths()] == ["step_000004", "step_000005"]
    assert read_checkpoint(store.directory / "set_aside_001" / "step_000006").iteration == 6
    settings.run.resume = "auto"
    assert_same(latest(straight), run(settings, tmp_path))
    assert learned(straight) == learned(tmp_path)


def test_another_runs_checkpoint_replaces_all_of_the_directorys_own(straight: Path, tmp_path: Path) -> None:
    run(analytic_settings(iterations=2, seed=43), tmp_path)
    settings = analytic_settings(iterations=6)
    settings.run.resume = str(CheckpointStore(straight).path_of(4))
    run(settings, tmp_path, stop_after=1)
    store = CheckpointStore(tmp_path)
    assert [path.name for path in store.paths()] == ["step_000004", "step_000005"]
    assert (store.directory / "set_aside_001" / "step_000002").is_dir()
    settings.run.resume = "auto"
    assert_same(latest(straight), run(settings, tmp_path))


def test_a_run_does_not_start_over_beside_checkpoints_it_cannot_read(tmp_path: Path) -> None:
    run(analytic_settings(iterations=2), tmp_path)
    (manifest,) = tmp_path.glob("checkpoints/step_*/manifest.json")
    assert f'"schema_version": {SCHEMA_VERSION}' in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(CheckpointError, match=r"None of .*step_000002.* choose another run\.name"):
        run(analytic_settings(iterations=2), tmp_path)
    assert manifest.is_file()


def wider(settings: Config, spec: WAMSpec) -> WAMSpec:
    settings.schedule.trunk_widths = [32, 16]
    return spec


def other_backbone(settings: Config, spec: WAMSpec) -> WAMSpec:
    return replace(spec, weights_hash="another")


@pytest.mark.parametrize(
    ("change", "message"), [(wider, r"jump_head\.weight .* schedule settings"), (other_backbone, "backbone analytic")]
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    straight: Path, change: Callable[[Config, WAMSpec], WAMSpec], message: str
) -> None:
    settings = analytic_settings(iterations=8)
    spec = change(settings, SPEC)
    with pytest.raises(CheckpointError, match=message):
        run(settings, straight, spec=spec)
    assert latest(straight).iteration == 6


def test_changed_settings_are_named(straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = analytic_settings(iterations=6)
    settings.run.resume = str(CheckpointStore(straight).path_of(4))
    settings.objective.clip = 0.3
    with caplog.at_level(logging.WARNING):
        run(settings, tmp_path)
    assert "objective.clip" in caplog.text


def test_what_was_measured_in_other_errors_is_measured_anew(straight: Path, tmp_path: Path) -> None:
    fresh = analytic_settings(iterations=1)
    fresh.action_error.position_unit_m = 0.5
    wanted = run(fresh, tmp_path / "fresh")
    settings = analytic_settings(iterations=5)
    settings.action_error.position_unit_m = 0.5
    settings.run.resume = str(CheckpointStore(straight).path_of(4))
    resumed = run(settings, tmp_path / "resumed")
    assert calibration_of(resumed) == pytest.approx(calibration_of(wanted))
    assert calibration_of(resumed) != calibration_of(read_checkpoint(CheckpointStore(straight).path_of(4)))
    ours, theirs = anchors_of(resumed), anchors_of(wanted)
    both = ours.keys() & theirs.keys()
    assert len(both) >= 16
    assert all(ours[key] == pytest.approx(theirs[key]) for key in both)
    assert resumed.state["objective"]["baseline"] != pytest.approx(latest(straight).state["objective"]["baseline"])


def calibration_of(checkpoint: Checkpoint) -> dict[str, float]:
    found: dict[str, float] = checkpoint.state["rewards"]["path"]["calibration"]
    return found


def anchors_of(checkpoint: Checkpoint) -> dict[tuple[int, ...], list[float]]:
    keys, errors = checkpoint.anchors["keys"].tolist(), checkpoint.anchors["errors"].tolist()
    return {tuple(key): row for key, row in zip(keys, errors, strict=True)}


def test_what_was_measured_holds_under_settings_that_do_not_touch_it(straight: Path, tmp_path: Path) -> None:
    settings = analytic_settings(iterations=4)
    settings.objective.learning_rate, settings.demonstrations.workers, settings.run.keep_checkpoints = 1e-3, 9, 9
    settings.run.resume = str(CheckpointStore(straight).path_of(4))
    run(settings, tmp_path)
    before = read_checkpoint(CheckpointStore(straight).path_of(4))
    assert anchors_of(latest(tmp_path)) == anchors_of(before)
    assert latest(tmp_path).state == before.state


def test_a_finished_run_is_that_of_its_settings(straight: Path) -> None:
    settings = analytic_settings(iterations=6)
    settings.evaluation.episodes_per_task, settings.rollout.runners, settings.run.keep_checkpoints = 7, 3, 9
    assert is_finished(settings, straight, SPEC)
    with pytest.raises(CheckpointError, match=r"step_000006 was trained on the backbone analytic.*loads another"):
        is_finished(settings, straight, replace(SPEC, weights_hash="another"))
    settings.run.iterations = 8
    settings.objective.clip = 0.5
    assert not is_finished(settings, straight, SPEC)


def slower(settings: Config) -> str:
    settings.objective.learning_rate = 5.0
    return "objective.learning_rate"


def cheaper(settings: Config) -> str:
    settings.reward["cost"].weight = 0.0
    return "reward.cost.weight"


def without_cost(settings: Config) -> str:
    del settings.reward["cost"]
    keys = ("charged", "counts", "divided_by", "ramp_fraction", "weight", "weight_end")
    return ", ".join(rf"reward\.cost\.{key}" for key in keys)


def with_success(settings: Config) -> str:
    settings.reward["success"] = new_section("reward", "success")
    return "reward.success.weight"


def other_tasks(settings: Config) -> str:
    settings.env.tasks = ["lift_pot"]
    return "env.tasks"


def other_seed(settings: Config) -> str:
    settings.run.seed = 7
    return "run.seed"


def jump_only(settings: Config) -> str:
    settings.schedule = new_section("schedule", "jump-only")
    return "schedule.name"


@pytest.mark.parametrize(
    "change",
    [slower, cheaper, without_cost, with_success, other_tasks, other_seed, jump_only],
    ids=lambda one: one.__name__,
)
def test_a_finished_run_is_not_that_of_others(straight: Path, change: Callable[[Config], str]) -> None:
    settings = analytic_settings(iterations=6)
    keys = change(settings)
    with pytest.raises(CheckpointError, match=rf"step_000006 .* {keys}\. Choose another run\.name"):
        is_finished(settings, straight, SPEC)


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(ValueError, match="in use by a live run"):
        run(analytic_settings(), tmp_path)


def test_a_new_run_never_overwrites_one(straight: Path) -> None:
    settings = analytic_settings()
    settings.run.resume = "never"
    with pytest.raises(ValueError, match=r"choose another run\.name"):
        run(settings, straight)


def test_another_seed_gives_another_run(straight: Path, tmp_path: Path) -> None:
    other = run(analytic_settings(iterations=2, seed=43), tmp_path)
    assert not torch.equal(other.scheduler["trunk.0.weight"], latest(straight).scheduler["trunk.0.weight"])


def test_an_ablation_takes_the_anchors_of_the_main_run(straight: Path, tmp_path: Path) -> None:
    settings = analytic_settings(iterations=2)
    settings.schedule = new_section("schedule", "jump-only")
    source = CheckpointStore(straight).path_of(6)
    result = train(settings, tmp_path, spec=SPEC, inherits=source)
    ours, main = latest(tmp_path), latest(straight)
    assert torch.equal(ours.anchors["keys"], main.anchors["keys"])
    assert calibration_of(ours) == calibration_of(main)
    assert ScheduleSource("jump-only", result.latest).load(SPEC, settings.schedule).name == "jump-only"
    settings.action_error.position_weight = 2.0
    other = train(settings, tmp_path / "other", spec=SPEC, inherits=source)
    assert calibration_of(read_checkpoint(other.latest)) != calibration_of(main)


def test_a_training_may_start_from_trained_weights(straight: Path, tmp_path: Path) -> None:
    settings, source = analytic_settings(iterations=1), CheckpointStore(straight).path_of(6)
    settings.objective.learning_rate = 1e-12
    trained = ScheduleSource("sants", source).load(SPEC, settings.schedule)
    assert isinstance(trained, LearnedSchedule)
    train(settings, tmp_path / "further", spec=SPEC, starts_from=trained)
    for name, value in latest(straight).scheduler.items():
        assert torch.allclose(latest(tmp_path / "further").scheduler[name], value, atol=1e-9), name
    drawn, untrained = (read_metrics(path)[0]["policy/stop_rate"] for path in (tmp_path / "further", straight))
    assert drawn != untrained  # the runners have the weights too
    settings.schedule.max_decisions = 7
    with pytest.raises(ValueError, match=r"run\.start_from: .* schedule\.max_decisions="):
        train(settings, tmp_path / "other", spec=SPEC, starts_from=trained)


def test_the_best_checkpoint_comes_from_validation_in_closed_loop(tmp_path: Path) -> None:
    settings = closed_loop_settings(episodes=0)
    settings.validation.every, settings.validation.episodes_per_task = 2, 4
    settings.run.checkpoint_every, settings.run.keep_checkpoints = 100, 1
    run(settings, tmp_path)
    records = {record["iteration"]: record for record in read_metrics(tmp_path)}
    validated = [iteration for iteration, record in records.items() if "validation/success" in record]
    assert validated == [2, 4]
    assert records[2]["validation/outcome_success"] + records[2].get("validation/outcome_step_limit", 0) == 4
    store = CheckpointStore(tmp_path)
    best = store.best_path
    assert best is not None
    assert store.scores == {store.path_of(at).name: score_of(records[at]) for at in validated}
    assert all(score.episodes == 4 and score.path_return is not None for score in store.scores.values())
    assert best.name == best_of(store.scores)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [picture.step for picture in events.Images("episode/executed_beside_imagined")] == validated
    assert ScheduleSource("sants", best).load(SPEC, settings.schedule).name == "sants"
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_validation_that_a_stop_left_out_is_made_up_for(tmp_path: Path) -> None:
    settings = analytic_settings(iterations=4)
    settings.validation.every = 2
    run(settings, tmp_path / "straight")
    stopped = tmp_path / "stopped"
    run(settings, stopped, stop_after=2)
    assert CheckpointStore(stopped).scores == {}
    run(settings, stopped, stop_after=2)
    assert list(CheckpointStore(stopped).scores) == ["step_000002"]
    assert not is_finished(settings, stopped, SPEC)
    run(settings, stopped)
    assert is_finished(settings, stopped, SPEC)
    assert CheckpointStore(stopped).scores == CheckpointStore(tmp_path / "straight").scores
    assert CheckpointStore(stopped).best_path == stopped / "checkpoints" / best_of(CheckpointStore(stopped).scores)
    assert validated(stopped) == validated(tmp_path / "straight")
    assert learned(stopped) == learned(tmp_path / "straight")


def validated(directory: Path) -> dict[int, float]:
    return {
        record["iteration"]: record["validation/return"]
        for record in read_metrics(directory)
        if "validation/return" in record
    }


def test_the_cluster_listens_on_loopback_alone() -> None:
    children = psutil.Process().children(recursive=True)
    listening = [
        connection.laddr.ip
        for process in children
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_the_ray_token_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    use_token(tmp_path)
    path = tmp_path / TOKEN_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) == 64
    use_token(tmp_path)
    assert len(path.read_text()) == 64
