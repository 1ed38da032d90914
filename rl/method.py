"""A method is a collector, rewards, an objective and a schedule. A recipe chooses each of them by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from configs.fields import Problem
from configs.planning import planner_settings, split_planner
from configs.schema import Config
from policies.backbones.door import WAMSpec
from policies.catalogue import behind_planner, build_schedule, find_schedule, learned_kind
from policies.learning import Charts
from policies.trace import StoppableTrace
from rl.collector import COLLECTORS, missing_needs
from rl.objective import OBJECTIVES
from rl.reward import REWARDS, Need

REWARDS_OF = {"segments": ("path", "cost"), "groups": ("success",)}
OBJECTIVE_OF = {"segments": "path_ppo", "groups": "grpo"}


def choose(
    schedule: str = "sants", collector: str = "segments", objective: str = "", rewards: Sequence[str] = ()
) -> Config:
    """Return the default settings of a method.

    If objective or rewards are empty, those are chosen that usually go with the collector. Raises ValueError, which
    lists the choices, for a name that is not known.
    """
    settings = new_section("collector", collector)
    return Config(
        schedule=new_section("schedule", schedule),
        collector=settings,
        objective=new_section("objective", objective or OBJECTIVE_OF[collector]),
        reward={name: new_section("reward", name) for name in rewards or REWARDS_OF[collector]},
    )


def new_section(kind: str, name: str) -> Any:
    """Return the default settings of one part; `kind` is schedule, collector, objective or reward."""
    if kind == "schedule":
        return learned_kind(name).settings(name=name)
    if kind == "reward":
        return REWARDS.get(name).settings_type()
    return (COLLECTORS.get(name) if kind == "collector" else OBJECTIVES.get(name)).settings_type(name=name)


def needs_of(config: Config) -> frozenset[Need]:
    """Return everything that the rewards of a run need."""
    return frozenset().union(*(REWARDS.get(name).needs for name in config.reward))


def check_backbone(config: Config, spec: WAMSpec) -> None:
    """Raise ValueError, with the reason, if the method cannot be trained on this backbone."""
    kind = learned_kind(config.schedule.name)
    with torch.random.fork_rng(devices=[]):  # a policy that is only asked draws nothing from the run's numbers
        schedule = kind.schedule(kind.new_policy(spec, config.schedule), config.schedule)
    behind_planner(schedule, config.plan.training, config.plan).check(spec)
    for name in config.reward:
        if Need.ANCHORS in REWARDS.get(name).needs:
            try:
                build_schedule("fixed-full", spec).check(spec)
            except ValueError as error:
                raise ValueError(
                    f"reward.{name} compares with reference walks, and this backbone has none ({error}): use the "
                    "rewards success and cost with collector.name=groups, as configs/sants_success.yaml does"
                ) from error


def charts_of(config: Config) -> list[Charts]:
    """Return the TensorBoard charts of every part of the method."""
    rewards: list[Charts] = [REWARDS.get(name).charts for name in config.reward]
    policy = learned_kind(config.schedule.name).policy.charts
    return [
        COLLECTORS.get(config.collector.name).charts, *rewards, policy, OBJECTIVES.get(config.objective.name).charts
    ]  # fmt: skip


def method_problems(config: Config) -> Iterator[Problem]:
    """Yield a problem for parts that do not go together, and for unknown schedules in the comparison."""
    if not config.reward:
        yield Problem("reward", "is empty", f"Name at least one of {', '.join(REWARDS.all())}.")
    missing = missing_needs(config.collector.name, {name: REWARDS.get(name).needs for name in config.reward})
    for name, needs in missing.items():
        fix = f"Use it with another collector, or leave it out: reward.{name}=null."
        yield Problem(f"reward.{name}", f"needs {', '.join(needs)}, which {config.collector.name} do not offer", fix)
    if config.run.inherit and Need.ANCHORS not in needs_of(config):
        wrong = f"has no effect where rewards ({', '.join(config.reward)}) compare with no anchors"
        yield Problem("run.inherit", wrong, "Leave it out.")
    paths = max(1, getattr(config.objective, "minibatch_paths", 1))
    collected = getattr(config.collector, "paths_per_iteration", paths)
    if collected % paths:
        yield Problem(
            "objective.minibatch_paths",
            f"{paths} does not divide collector.paths_per_iteration={collected}",
            f"Use a divisor of {collected}: a remainder would weigh some paths twice.",
        )
    compared = getattr(config.objective, "baseline", "moving_average")
    if compared != "moving_average" and getattr(config.collector, "paths_per_segment", 2) == 1:
        yield Problem(
            "objective.baseline",
            f"{compared!r} compares the paths of a segment, and collector.paths_per_segment=1 walks only one",
            "Use collector.paths_per_segment=4, or the objective path_ppo with objective.baseline=moving_average.",
        )
    if config.objective.ratio == "path" and getattr(config.reward.get("cost"), "charged", "episode") == "query":
        wrong = "'query' tells the queries of an episode apart, and objective.ratio=path weighs it as a whole"
        yield Problem("reward.cost.charged", wrong, "Use reward.cost.charged=episode, or objective.ratio=decision.")
    walked = learned_kind(config.schedule.name).policy.trace_type
    if getattr(config.collector, "stops", "sampled") == "all" and not issubclass(walked, StoppableTrace):
        wrong = f"'all' scores where a walk could have stopped, and {config.schedule.name} never stops one"
        yield Problem("collector.stops", wrong, "Use collector.stops=sampled.")
    rows = [*(("schedules", row) for row in config.evaluation.schedules), ("reference", config.evaluation.reference)]
    for key, row in rows:
        name = row.partition("@")[0]
        alone, planner = split_planner(name)
        try:
            planner_settings(planner, config.plan)
        except ValueError as error:
            yield Problem(f"evaluation.{key}", str(error), "Correct the name.")
            continue
        try:
            if alone not in config.evaluation.trained:
                find_schedule(alone)
        except ValueError as error:
            yield Problem(f"evaluation.{key}", str(error), "Or name its weights in evaluation.trained.")
    for row in config.evaluation.constants:
        try:
            learns = find_schedule(row)[0].learned is not None
        except ValueError as error:
            yield Problem("evaluation.constants", str(error), "Correct the name.")
        else:
            if learns:
                yield Problem("evaluation.constants", f"{row!r} learns", "Name it in evaluation.schedules instead.")
