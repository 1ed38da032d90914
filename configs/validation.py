"""Checks of a configuration that need more than one field: names on disk, and keys of different sections.

Every check yields all of its problems. This module imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from configs.fields import Problem, section_problems
from configs.schema import TABLETOP_TASKS, Config, GroupsConfig

_FOLDER_FIX = "Use letters, digits, '.', '_', '-'. Set the parent folder by run.root."
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REPOSITORY = Path(__file__).resolve().parent.parent
TASK_FILES = REPOSITORY / "envs" / "tabletop" / "tasks"


def known_tasks() -> list[str]:
    """Return the tasks of the built-in suite. Each is a file, so a new task needs no change here."""
    files = {path.stem for path in TASK_FILES.glob("*.py")} - {"__init__"}
    return sorted(files | set(TABLETOP_TASKS))


def value_problems(config: Config) -> list[Problem]:
    """Return every problem: values outside their limits, unknown names, and keys that do not agree with each other."""
    return [*section_problems(config), *_name_problems(config), *_agreement_problems(config)]


def _name_problems(config: Config) -> Iterator[Problem]:
    tasks = known_tasks() if config.env.suite == "tabletop" else config.env.tasks  # other suites check their tasks
    yield from _list_problem("env.tasks", config.env.tasks, tasks)
    yield from _list_problem("demonstrations.modes", config.demonstrations.modes, config.demonstrations.modes)
    if not NAME_PATTERN.fullmatch(config.run.name):
        yield Problem("run.name", f"{config.run.name!r} is no folder name", _FOLDER_FIX)
    resume = config.run.resume
    if resume not in ("auto", "never") and not (resume and Path(resume).is_dir()):
        yield Problem("run.resume", f"{resume!r} is no folder", "Use auto, never, or a checkpoint's folder.")
    start = config.run.start_from
    if start and not Path(start).is_dir():
        fix = "Use a run, a checkpoint or an exported schedule."
        yield Problem("run.start_from", f"{start!r} is no folder", fix)
    for key, value in (
        ("env.simulator", config.env.simulator),
        ("demonstrations.segments", config.demonstrations.segments),
    ):
        module, _, function = value.partition(":")
        if not (module and function.isidentifier()):
            yield Problem(key, f"{value!r} names no function", "Use 'package.module:function'.")


def _list_problem(key: str, values: list[str], choices: Collection[str]) -> Iterator[Problem]:
    known = f"Use one of: {', '.join(choices)}."
    if not values:
        yield Problem(key, "is empty", known if choices else "Name at least one.")
    if len(set(values)) < len(values):
        yield Problem(key, f"{values} names something twice", "Name each once.")
    for value in values:
        if value not in choices:
            yield Problem(key, f"{value!r} is not known", known)


def _agreement_problems(config: Config) -> Iterator[Problem]:
    rows = config.evaluation.schedules
    keys = ["evaluation.schedules"] * len(rows) + ["evaluation.reference"]
    for key, row in zip(keys, [*rows, config.evaluation.reference], strict=True):
        _, at, backbone = row.partition("@")
        if at and backbone not in config.evaluation.backbones:
            fix = f"Set evaluation.backbones.{backbone}=<checkpoint>."
            yield Problem(key, f"{row!r}: no backbone {backbone!r}", fix)
    yield from _list_problem("evaluation.constants", config.evaluation.constants, config.evaluation.constants)
    if rows:  # none: no comparison is made
        yield from _list_problem("evaluation.schedules", rows, rows)
    if isinstance(config.collector, GroupsConfig) and config.collector.asynchronous and not config.rollout.runners:
        yield Problem("collector.asynchronous", "needs runners of its own", "Use rollout.runners=1 or more.")
