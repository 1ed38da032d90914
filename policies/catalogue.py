"""The schedules by name. Each file of `policies/schedules` registers its own; no list names them.

Names of schedules that do not look at the video may be joined: `all-fast-then-joint-10` walks the first query of an
episode under `all-fast` and every later one under `joint-10`; `a-then-b-then-c` names the first two.

Any name may end in a planner that chooses the initial noise (`configs.planning`): `fixed-5+plan`, `sants+best-of-8`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from configs.planning import PlanConfig, planner_settings, split_planner
from configs.registry import Registry
from configs.schema import ScheduleConfig
from policies.backbones.door import WAMSpec
from policies.grids import by_query
from policies.learning import LearnedKind, Policy
from policies.schedule import Schedule

Settings = TypeVar("Settings", bound=ScheduleConfig)


@dataclass(frozen=True)
class Argument:
    """The argument that may follow a schedule's name after a hyphen, such as the 5 in "fixed-5"."""

    pattern: str  # a regular expression that the whole argument must match; empty: there is no argument
    shown: str  # how the list of names shows the argument
    optional: bool = False


NO_ARGUMENT = Argument("", "")
COUNT = Argument(r"[1-9]\d*", "-<steps>")
OPTIONAL_COUNT = Argument(r"[1-9]\d*", "[-<steps>]", optional=True)
THEN = "-then-"


@dataclass(frozen=True)
class ScheduleRequest:
    """What a builder receives. For "fixed-5", the builder of "fixed" receives the argument "5"."""

    name: str
    argument: str
    spec: WAMSpec
    settings: ScheduleConfig  # the settings of the schedule that the run trains
    policy: Policy[Any, Any] | None  # the policy of a schedule that learns; None: build an untrained one

    def settings_as(self, kind: type[Settings]) -> Settings:
        """Return the run's settings if they are of this kind, otherwise the defaults of the kind."""
        return self.settings if isinstance(self.settings, kind) else kind()


Builder = Callable[[ScheduleRequest], Schedule]


@dataclass(frozen=True)
class Registered:
    """The entry of one name that `build_schedule` knows."""

    build: Builder
    argument: Argument
    learned: LearnedKind | None = None

    def takes(self, argument: str) -> bool:
        """Whether the schedule may be named with this argument; empty: without one."""
        if not argument:
            return self.argument.optional or not self.argument.pattern
        return bool(self.argument.pattern and re.fullmatch(self.argument.pattern, argument))


SCHEDULES: Registry[Registered] = Registry("policies.schedules", "schedule")


def register(name: str, argument: Argument = NO_ARGUMENT) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a builder of schedules under `name`, with the given kind of argument."""

    def add(builder: Builder) -> Builder:
        SCHEDULES.add(name, Registered(builder, argument))
        return builder

    return add


def register_learned(*names: str, kind: LearnedKind) -> None:
    """Register a learned kind under every one of `names`. The settings of the built schedule hold the chosen name."""

    def build(request: ScheduleRequest) -> Schedule:
        settings = replace(request.settings_as(kind.settings), name=request.name)
        policy = request.policy if request.policy is not None else kind.new_policy(request.spec, settings)
        if not isinstance(policy, kind.policy):
            wrong = type(policy).__name__
            raise ValueError(f"schedule {request.name!r} walks under a {kind.policy.__name__}, not under a {wrong}")
        return kind.schedule(policy, settings)

    for name in names:
        SCHEDULES.add(name, Registered(build, NO_ARGUMENT, kind))


def learned_schedules() -> dict[str, LearnedKind]:
    """Return the kinds of the schedules that learn, by name."""
    return {name: entry.learned for name, entry in SCHEDULES.all().items() if entry.learned is not None}


def learned_kind(name: str) -> LearnedKind:
    """Return the kind of a schedule that learns. Raise ValueError, which lists these names, for any other name."""
    kinds = learned_schedules()
    if name not in kinds:
        raise ValueError(f"{name!r} is no schedule that learns: use one of {', '.join(kinds)}")
    return kinds[name]


def find_schedule(name: str) -> tuple[Registered, str]:
    """Return the registered entry and the argument of a name such as "fixed-5", "fixed-3-then-1" or "a-then-b".

    The name may end in a planner, which is checked and left out. Raises ValueError, which lists the known names, if the
    name is not known, and ValueError for a joined name of which a part learns.
    """
    name, planner = split_planner(name)
    planner_settings(planner, PlanConfig())
    known = SCHEDULES.all()
    parts = name.split("-")
    splits = [("-".join(parts[:at]), "-".join(parts[at:])) for at in range(1, len(parts)) if parts[-1]]
    for key, argument in [(name, ""), *splits]:
        if key in known and known[key].takes(argument):
            return known[key], argument
    listed = ", ".join(key + entry.argument.shown for key, entry in known.items())
    unknown = f"{name!r} is no schedule: use one of {listed}, or join some by {THEN!r}"
    if THEN not in name:
        raise ValueError(unknown)
    try:
        joined = {part: find_schedule(part)[0] for part in name.split(THEN)}
    except ValueError as error:
        raise ValueError(unknown) from error
    for part, entry in joined.items():
        if entry.learned is not None:
            raise ValueError(f"{name!r}: {part} learns, and is not joined with others. Name it alone")
    return Registered(_build_joined, NO_ARGUMENT), ""


def _build_joined(request: ScheduleRequest) -> Schedule:
    parts = request.name.split(THEN)
    return by_query(request.name, [build_schedule(part, request.spec, request.settings) for part in parts])


def build_schedule(
    name: str,
    spec: WAMSpec,
    settings: ScheduleConfig | None = None,
    policy: Policy[Any, Any] | None = None,
    plan: PlanConfig | None = None,
) -> Schedule:
    """Build the schedule called `name`, such as "fixed-full", "fixed-3-then-1", "sants" or "joint-10".

    A learned schedule uses `policy`, or an untrained policy if there is none. `settings` are the settings of the
    schedule that the run trains; other schedules read the fields that they share with it. `plan` are the settings of a
    planner in the name. Raises ValueError, which lists the known names, if the name is not known.
    """
    entry, argument = find_schedule(name)
    alone, planner = split_planner(name)
    schedule = entry.build(ScheduleRequest(alone, argument, spec, settings or ScheduleConfig(), policy))
    return behind_planner(schedule, planner, plan)


def behind_planner(schedule: Schedule, planner: str, plan: PlanConfig | None = None) -> Schedule:
    """Put a planner in front of a schedule; `none` leaves it as it is. Raise ValueError if there is no such planner."""
    settings = planner_settings(planner, plan or PlanConfig())
    if settings is None:
        return schedule
    from policies.planning.planned import Planned  # nothing else needs that package

    return Planned(schedule, planner, settings)
