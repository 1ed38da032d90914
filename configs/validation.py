"""What types cannot say about a configuration: ranges, choices and keys that must agree.

Every check yields a `Problem`; none stops at the first. Imports nothing heavy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.ranges import ABOVE, POSITIVE, RANGES
from configs.schema import TABLETOP_TASKS, Config, NoiseGateConfig, RewardConfig
from configs.seeds import seed_conflicts

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

REPOSITORY = Path(__file__).resolve().parent.parent
CHOICES: dict[str, Collection[Any]] = {
    "env.suite": sorted(path.parent.name for path in (REPOSITORY / "envs").glob("*/spec.py")),
    "env.mode": ("clean", "randomized"),
    "env.robotwin.shader": ("rt", "default"),
    "env.robotwin.planner": ("curobo", "none"),
    "env.robotwin.instruction_type": ("seen", "unseen"),
    "env.robotwin.action_type": ("qpos", "ee"),
    "convert.pixels": ("yuv420p", "yuv444p"),
    "wam.device": ("auto", "cpu", "cuda"),
    "wam.dtype": ("float32", "bfloat16"),
    "scheduler.kind": ("sants", "stop_only", "jump_only", "noisegate"),
    "grpo.baseline": ("group", "playing"),
    "rollout.segment_split": ("train", "validation", "test"),
    "pretrain.noise": ("shared", "independent", "asynchronous", "mixed"),
    "pretrain.action.reads": ("future_latents", "future_keys", "all_keys"),
}
MODES = ("clean", "randomized")
TASK_FILES = REPOSITORY / "envs" / "tabletop" / "tasks"
SCHEDULE_FILES = REPOSITORY / "policies" / "schedules"
REGISTRATION = re.compile(r'@register\("([\w-]+)"(, counted=True)?\)')
FACTORIES = ("wam.factory", "env.simulator", "rollout.segments")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration."""

    key: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}. {self.fix}"


def value_at(config: Config, key: str) -> Any:
    """The value at a dotted path."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def known_tasks() -> list[str]:
    """The suite's tasks: one file each, so a new one needs no change here."""
    files = {path.stem for path in TASK_FILES.glob("*.py")} - {"__init__", "base"}
    return sorted(files | set(TABLETOP_TASKS))


def known_schedules() -> dict[str, bool]:
    """Names registered by the files of `policies/schedules`, and whether each takes a number behind it.

    Read as text: importing the files would load torch.
    """
    texts = [path.read_text(encoding="utf-8") for path in SCHEDULE_FILES.glob("*.py") if path.stem != "base"]
    learned = {kind.replace("_", "-"): False for kind in CHOICES["scheduler.kind"]}
    found = {name: bool(counted) for text in texts for name, counted in REGISTRATION.findall(text)}
    return dict(sorted((learned | found).items()))


def is_schedule(name: str, known: Mapping[str, bool]) -> bool:
    """A registered name, or one with a number behind it; `fixed` takes `full` too, and needs either."""
    head, _, argument = name.rpartition("-")
    if "fixed" in (head, name):
        return bool(re.fullmatch(r"full|[1-9]\d*", argument))
    return name in known or (known.get(head, False) and bool(re.fullmatch(r"[1-9]\d*", argument)))


def value_problems(config: Config) -> list[Problem]:
    """Every value that no run could use, in the order of the keys above, then the keys that disagree."""
    checks = (_choice_problems, _list_problems, _range_problems, _path_problems, _agreement_problems)
    return [problem for check in checks for problem in check(config)]


def _one_of(choices: Iterable[Any]) -> str:
    return "Use one of: " + ", ".join(str(choice) for choice in choices) + "."


def _choice_problems(config: Config) -> Iterator[Problem]:
    for key, choices in CHOICES.items():
        value = value_at(config, key)
        if value not in choices:
            yield Problem(key, f"{value!r} is not known", _one_of(choices))


def _list_problems(config: Config) -> Iterator[Problem]:
    tasks = known_tasks() if config.env.suite == "tabletop" else config.env.tasks  # other suites look for themselves
    yield from _list_problem("env.tasks", config.env.tasks, tasks)
    yield from _list_problem("demonstrations.modes", config.demonstrations.modes, MODES)
    backbones = config.evaluation.backbones
    yield from _schedule_problems("evaluation.schedules", config.evaluation.schedules, backbones)
    yield from _schedule_problems("evaluation.reference", [config.evaluation.reference], backbones)
    widths = config.scheduler.trunk_widths
    if not widths or min(widths) < 1:
        yield Problem("scheduler.trunk_widths", f"{widths} is no network", "Use widths like [128, 64].")


def _schedule_problems(key: str, rows: list[str], backbones: Collection[str]) -> Iterator[Problem]:
    known = known_schedules()
    for row in rows:
        name, at, backbone = row.partition("@")
        if at and backbone not in backbones:
            yield Problem(
                key, f"{row!r}: no backbone {backbone!r}", f"Set evaluation.backbones.{backbone}=<checkpoint>."
            )
        if not is_schedule(name, known):
            others = (kind + "[-<steps>]" * counted for kind, counted in known.items() if kind != "fixed")
            choices = ["fixed-full", "fixed-<updates>", *others]
            yield Problem(key, f"{name!r} is no schedule", _one_of(choices))


def _list_problem(key: str, values: list[str], choices: Collection[str]) -> Iterator[Problem]:
    if not values:
        yield Problem(key, "is empty", _one_of(choices))
    if len(set(values)) < len(values):
        yield Problem(key, f"{values} names something twice", "Name each once.")
    for value in values:
        if value not in choices:
            yield Problem(key, f"{value!r} is not known", _one_of(choices))


def _range_problems(config: Config) -> Iterator[Problem]:
    for key, (low, high) in RANGES.items():
        value = value_at(config, key)
        inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        if not inside:
            limits = f"of at least {low}" if high is None else f"between {low} and {high}"
            yield Problem(key, f"{value} is out of range", f"Use a finite number {limits}.")
    for key in POSITIVE:
        value = value_at(config, key)
        if not 0 < value < float("inf"):
            yield Problem(key, f"{value} is out of range", "Use a finite number above 0.")
    for key, (low, high) in ABOVE.items():
        value = value_at(config, key)
        if not low < value <= high:
            yield Problem(key, f"{value} is out of range", f"Use a number above {low}, at most {high:g}.")


def _path_problems(config: Config) -> Iterator[Problem]:
    if not NAME_PATTERN.fullmatch(config.run.name):
        yield Problem(
            "run.name",
            f"{config.run.name!r} is no folder name",
            "Use letters, digits, '.', '_', '-'; run.root says where.",
        )
    resume = config.run.resume
    if resume not in ("auto", "never") and not (resume and Path(resume).is_dir()):
        yield Problem("run.resume", f"{resume!r} is no folder", "Use auto, never, or a checkpoint's folder.")
    for key in FACTORIES:
        module, _, function = value_at(config, key).partition(":")
        if not (module and function.isidentifier()):
            yield Problem(key, f"{value_at(config, key)!r} names no function", "Use 'package.module:function'.")


def _agreement_problems(config: Config) -> Iterator[Problem]:
    demonstrations, scheduler, rollout = config.demonstrations, config.scheduler, config.rollout
    if demonstrations.validation_fraction + demonstrations.test_fraction >= 1:
        yield Problem(
            "demonstrations.validation_fraction",
            "leaves nothing to train on",
            "Keep its sum with test_fraction below 1.",
        )
    if scheduler.min_updates > scheduler.max_decisions:
        yield Problem(
            "scheduler.min_updates", "is above scheduler.max_decisions", f"Use at most {scheduler.max_decisions}."
        )
    yield from _gate_problems(scheduler.gate)
    if scheduler.initial_concentration > scheduler.max_concentration:
        yield Problem(
            "scheduler.initial_concentration",
            "is above scheduler.max_concentration",
            f"Use at most {scheduler.max_concentration}.",
        )
    if rollout.paths_per_iteration % max(1, config.ppo.minibatch_paths):
        yield Problem(
            "ppo.minibatch_paths",
            f"{config.ppo.minibatch_paths} does not divide rollout.paths_per_iteration={rollout.paths_per_iteration}",
            f"Use a divisor of {rollout.paths_per_iteration}: a remainder would weigh some paths twice.",
        )
    if rollout.paths_per_iteration % max(1, rollout.paths_per_segment):
        yield Problem(
            "rollout.paths_per_segment",
            f"{rollout.paths_per_segment} does not divide rollout.paths_per_iteration={rollout.paths_per_iteration}",
            f"Use a divisor of {rollout.paths_per_iteration}, or 1 for the moving average as baseline.",
        )
    if config.ppo.reference_stop_probability >= 1:
        yield Problem("ppo.reference_stop_probability", "is no probability below 1", "Use a number like 0.01.")
    yield from _collection_problems(config)
    yield from (Problem(*conflict) for conflict in seed_conflicts(config))


def anchor_problems(reward: RewardConfig, reference_updates: int) -> Iterator[Problem]:
    """What only the backbone can tell: how many updates its full walk makes."""
    if reward.shallow_updates >= reference_updates:
        yield Problem(
            "reward.shallow_updates",
            f"{reward.shallow_updates} updates are no shallow walk: the backbone's full one makes {reference_updates}",
            f"Use at most {reference_updates - 1}.",
        )


def _gate_problems(gate: NoiseGateConfig) -> Iterator[Problem]:
    if len(gate.channels) != 2 or any(width < 8 or width % 8 for width in gate.channels):
        yield Problem("scheduler.gate.channels", f"{gate.channels} fits no group norm", "Use two multiples of 8.")
    if gate.width < 1 or gate.width % max(1, gate.heads):
        yield Problem("scheduler.gate.width", f"{gate.width} is no multiple of {gate.heads} heads", "Use one.")
    if not gate.min_log_std <= gate.initial_log_std <= gate.max_log_std:
        yield Problem(
            "scheduler.gate.initial_log_std",
            f"{gate.initial_log_std} is outside its limits",
            f"Use a number from {gate.min_log_std} to {gate.max_log_std}.",
        )


def _collection_problems(config: Config) -> Iterator[Problem]:
    rollout, noisegate = config.rollout, config.scheduler.kind == "noisegate"
    if rollout.asynchronous and not noisegate:
        yield Problem("rollout.asynchronous", "is for groups of episodes", "Use it with scheduler.kind=noisegate.")
    if rollout.asynchronous and not rollout.runners:
        yield Problem("rollout.asynchronous", "needs runners of its own", "Use rollout.runners=1 or more.")
    if config.groups.resample_budget and rollout.asynchronous:
        yield Problem("groups.resample_budget", "needs rounds that end", "Use rollout.asynchronous=false.")
