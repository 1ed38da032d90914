"""Collects demonstrations: `python -m launch.collect [configs/<recipe>.yaml] [key=value ...]`.

With `demonstrations.failures.disturbed` and `demonstrations.failures.policy` it also keeps episodes that are no
demonstrations, in folders of their own. The same command resumes an interrupted collection.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from configs.schema import Config
from envs.experts import collection, failures
from envs.outcomes import Outcome
from envs.process.owner import SimulatorUnavailable
from envs.suites import suite_of
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.interrupts import EXIT_INTERRUPTED, StopRequest


def main(argv: Sequence[str] | None = None) -> int:
    description = "Collects expert demonstrations of every task and mode, in parallel; and failures, if wanted."
    config = load_config(sys.argv[1:] if argv is None else argv, description)
    with failures_are_messages(Path(config.demonstrations.root).parent):
        check_failures(config)
        if not (collect(config).complete and collect_failures(config)):
            console.print("Interrupted. Finished episodes are kept: run the same command to continue.")
            return EXIT_INTERRUPTED
    return 0


def collect(config: Config) -> collection.Report:
    """Collect with a progress bar and a summary at the end. After one Ctrl-C, finished episodes are kept."""
    with StopRequest() as stop, _shown_progress() as show:
        report = collection.collect(config.demonstrations, config.env, show, lambda: stop.requested)
    for name, episodes in report.episodes.items():
        failed = f" (failed seeds: {_counted(report.failed[name])})" if report.failed[name] else ""
        console.print(f"{config.demonstrations.root}/{name}: {episodes} episodes{failed}")
    console.print(f"{report.written} written now.")
    return report


def check_failures(config: Config) -> None:
    """Raise ValueError for failures that cannot be collected, before hours are spent on demonstrations."""
    wanted = config.demonstrations.failures
    if wanted.disturbed:
        suite_of(config.env).disturbed_expert(config.env, wanted)
    if wanted.policy:
        from rl.experience.recording import check_policy

        check_policy(config)


def collect_failures(config: Config) -> bool:
    """Collect the episodes of the disturbed expert and of the policy that are wanted. Return whether all are there."""
    wanted = config.demonstrations.failures
    complete = True
    if wanted.disturbed:
        with StopRequest() as stop, _shown_progress("disturbed") as show:
            report = failures.collect_disturbed(config.demonstrations, config.env, show, lambda: stop.requested)
        complete = _told(config, report)
    if complete and wanted.policy:
        from rl.experience.recording import record_policy

        with StopRequest() as stop, _shown_progress("policy") as show:
            report = record_policy(config, show, lambda: stop.requested)
        complete = _told(config, report)
    return complete


def _told(config: Config, report: failures.Report) -> bool:
    for name, outcomes in report.outcomes.items():
        console.print(f"{config.demonstrations.root}/{name}: {_counted(outcomes) or 'none'}")
    console.print(f"{report.written} scenes played now.")
    return report.complete


def _counted(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())


@contextmanager
def _shown_progress(kind: str = "") -> Iterator[Callable[[collection.Progress], None]]:
    """A progress bar, and the function that moves it. `kind` is that of episodes that are no demonstrations."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        row = bar.add_task("collecting", total=None, settled=0, succeeded=0)

        def show(step: collection.Progress) -> None:
            fields = bar.tasks[row].fields
            bar.update(
                row,
                description=f"{step.task} ({step.mode}) {kind}".rstrip(),
                completed=step.collected,
                total=step.wanted,
                settled=fields["settled"] + 1,
                succeeded=fields["succeeded"] + (step.outcome is Outcome.success),
            )

        try:
            yield show
        except SimulatorUnavailable as error:
            error.add_note("`python -m launch.doctor` says what is missing.")
            raise


class _RateColumn(ProgressColumn):
    """Shows the seeds per second of this call, and the share of them that ended with success."""

    def render(self, task: Task) -> Text:
        settled = task.fields["settled"]
        rate = settled / task.elapsed if task.elapsed else 0.0
        share = task.fields["succeeded"] / settled if settled else 1.0
        return Text(f"{rate:.2f}/s, {share:.0%} good")


if __name__ == "__main__":
    sys.exit(main())
