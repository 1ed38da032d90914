"""RoboTwin's offline work: `python -m launch.robotwin manifest|bench [configs/<recipe>.yaml] [key=value ...]`.

`manifest` lets RoboTwin's expert try candidate seeds and writes down which ones are feasible, for everything that the
recipe plays. It needs cuRobo and a GPU; training and evaluation need its result only. Again, it resumes.
`bench` times the first task of the recipe beside a bare loop over RoboTwin's own classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.schema import Config
from launch.shell.cli import load_config
from launch.shell.console import EXIT_FAILED, EXIT_USAGE, console, failures_are_messages
from launch.shell.interrupts import EXIT_INTERRUPTED, StopRequest

VERBS = ("manifest", "bench")
ONLY_PRINT = {"--help", "-h", "--dry-run"}
SUITE = "env.suite=robotwin"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((argument for argument in arguments if argument in VERBS), "")
    if not verb and not ONLY_PRINT & set(arguments):
        given = f"{arguments[0]!r} is no verb" if arguments else "No verb was given"
        console.print(f"{given}: use one of {', '.join(VERBS)}.\n\n{__doc__}")
        return EXIT_USAGE
    settings = [argument for argument in arguments if argument != verb]
    config = load_config([*settings, SUITE], str(__doc__), plays=lambda config: [])
    with failures_are_messages(Path(config.env.options.manifests)), StopRequest() as stop:
        if verb == "bench":
            from launch.measuring.robotwin import bench

            return bench(config)
        return fill_manifests(config, stop)


def fill_manifests(config: Config, stop: StopRequest) -> int:
    """Every manifest that a training run of this configuration and its evaluation read. The exit code."""
    from envs.robotwin.feasibility import Progress, find_seeds
    from envs.suites import training_roles, wanted_seeds
    from launch.shell.progress import SeedProgress

    wanted = wanted_seeds(config)
    roles = {role: wanted[role] for role in training_roles(config)}
    with SeedProgress() as bar:

        def show(step: Progress) -> None:
            bar.advance(f"{step.task} ({step.role})", step.accepted, step.wanted, step.refused)

        reached = find_seeds(config.env, roles, config.env.options.workers, show, lambda: stop.requested)
    for step in reached:
        tried = sum(step.verdicts.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(step.refused.items()))
        share = f"{step.verdicts.get('ok', 0) / tried:.0%} of {tried} feasible" if tried else "nothing tried"
        console.print(
            f"{step.task} ({step.role}): {step.accepted}/{step.wanted}, {share}" + f"; {reasons}" * bool(reasons)
        )
    console.print(f"{config.env.options.manifests}", soft_wrap=True)
    if stop.requested:
        console.print("Interrupted. What is settled is kept: the same command goes on from here.")
        return EXIT_INTERRUPTED
    if all(step.complete for step in reached):
        return 0
    console.print("Too few feasible seeds: raise env.options.max_attempts_per_seed, or ask for fewer episodes.")
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
