"""The main job: it collects demonstrations, trains a schedule on the backbone, and compares it with others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.fetched import is_uri
from configs.plain_yaml import to_yaml
from configs.schema import Config, DemonstrationsConfig
from envs.suites import training_roles
from launch.machine.findings import require_renderer
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages, section
from launch.shell.interrupts import EXIT_INTERRUPTED, StopRequest
from launch.shell.runs import kept_run, reads_demonstrations, run_directory

if TYPE_CHECKING:
    from policies.backbones.door import WAMSpec
    from policies.learning import LearnedSchedule
    from rl.runs.keeping import Keeper

DESCRIPTION = "Train a schedule for a frozen World Action Model, validate it and compare it with fixed schedules."


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    config = load_config(
        arguments, DESCRIPTION, plays=training_roles, compares=reads_demonstrations, walks=True, trains=True
    )
    with failures_are_messages(run_directory(config)), kept_run(config) as keeper, StopRequest() as stop:
        stop.save_by(keeper.leave)
        return run(config, stop, keeper)


def run(config: Config, stop: StopRequest, keeper: Keeper) -> int:
    """Run every stage in order and return the exit code. Each stage skips what is already done."""
    if config.run.quick:
        console.print("QUICK: smaller numbers; the table below supports no conclusion.", style="yellow")
    for stage in (prepare_demonstrations, train_schedule, compare):
        stage(config, stop, keeper)
        if stop.requested:
            console.print("\nInterrupted and saved. The same command goes on from here.")
            return EXIT_INTERRUPTED
    finish(config)
    return 0


def prepare_demonstrations(config: Config, stop: StopRequest, keeper: Keeper) -> None:
    """Collect the missing demonstrations, if the run or its comparison reads any."""
    own_source = config.demonstrations.segments != DemonstrationsConfig().segments
    if own_source or not reads_demonstrations(config):
        return
    from envs.experts.collection import is_collected_elsewhere
    from launch.collect import collect

    section("Demonstrations")
    if is_collected_elsewhere(config.demonstrations.root):
        console.print(f"{config.demonstrations.root} is read as it is: it was not collected by this project")
        return
    stop.requested |= not collect(config).complete


def train_schedule(config: Config, stop: StopRequest, keeper: Keeper) -> None:
    """Train the schedule, or resume its training, unless it is finished."""
    from envs.files import write_text
    from launch.shell.progress import TrainingProgress
    from policies.backbones import describe
    from rl.engine.cluster import ray_session
    from rl.evaluation.sources import weights_in
    from rl.runs.training import is_finished, train

    spec, directory = describe(config.wam), run_directory(config)
    section("Backbone")
    console.print(f"{config.wam.checkpoint}, hash {spec.weights_hash[:12]}, {spec.reference_updates} updates in full")
    if is_finished(config, directory, spec):
        console.print(f"{config.schedule.name} is trained: {directory}")
        return
    require_renderer(config.env)
    section(f"Training {config.schedule.name} -> {directory}")
    inherits = weights_in(Path(config.run.inherit)) if config.run.inherit else None
    starts_from = start_of(config, spec)
    with ray_session(directory, config.rollout.runners), TrainingProgress(config.run.iterations) as progress:

        def save_and_leave(save: Callable[[], object]) -> None:
            save()
            keeper.leave()

        def begin(iteration: int) -> None:
            stop.install()
            write_text(directory / "config.yaml", to_yaml(config))
            progress.begin(iteration)

        stop.install()
        train(
            config,
            directory,
            spec=spec,
            inherits=inherits,
            starts_from=starts_from,
            should_stop=lambda: stop.requested,
            on_start=begin,
            on_iteration=progress.advance,
            on_finished=lambda save: stop.save_by(lambda: save_and_leave(save)),
            on_saved=keeper.keep,
        )


def start_of(config: Config, spec: WAMSpec) -> LearnedSchedule[Any, Any] | None:
    """Load the schedule from whose weights the training starts. Raises ValueError if the folder holds none that fit."""
    from policies.learning import LearnedSchedule
    from rl.evaluation.sources import ScheduleSource, weights_in

    if not config.run.start_from:
        return None
    folder = weights_in(Path(config.run.start_from))
    if folder is None:
        raise ValueError(
            f"run.start_from: {config.run.start_from} holds no trained weights. Name a run, a checkpoint "
            "or an exported schedule."
        )
    loaded = ScheduleSource(config.schedule.name, folder).load(spec, config.schedule)
    assert isinstance(loaded, LearnedSchedule)
    return loaded


def compare(config: Config, stop: StopRequest, keeper: Keeper) -> None:
    """Compare the schedules, unless `evaluation.schedules` is empty."""
    from launch.evaluate import evaluate_run

    if not config.evaluation.schedules:
        return
    section("Comparison")
    evaluate_run(config, stop, keeper)


def finish(config: Config) -> None:
    """Print where the results are, and how to go on."""
    kept_at = f" (kept in {config.run.root})" if is_uri(config.run.root) else ""
    console.print(f"\nRun directory  {run_directory(config)}{kept_at}", soft_wrap=True)
    console.print("Curves         make tensorboard")
    console.print(f"Again          run.name=<another>, or run.iterations above {config.run.iterations} to train on")


if __name__ == "__main__":
    sys.exit(main())
