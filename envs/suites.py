"""What a suite of tasks offers besides its simulator: settings, seeds, checks before a run, its robot, facts.

A suite is a folder of `envs`:

    spec.py                    `simulator_spec(env)`: how its simulator is started (see `envs.simulator`)
    suite.py                   `SUITE`, an object of a subclass of `Suite`
    settings.py                `Settings`, a dataclass whose fields are the keys `env.options.*`; it may be missing
    recipe.yaml                what is laid over every recipe with this suite; it may be missing
    recipe.<collector>.yaml    the same for recipes with this collector alone

Nothing outside of the folder names the suite.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from configs.failures import FailuresConfig
from configs.fields import Problem
from configs.schema import Config, EnvConfig, GroupsConfig, SuiteOptions
from envs.cameras import RobotCameras
from envs.findings import Finding
from envs.kinematics import Kinematics
from envs.simulator import SimulatorSpec

Role = Literal["groups", "validation", "evaluation"]
"""What episodes are for: groups to train on, the validation during a training, or an evaluation."""


@dataclass(frozen=True)
class Wanted:
    """The number of episodes that each task needs, and the seed from which on they are chosen."""

    first_seed: int
    count: int


class Suite:
    """A suite of which every seed can be played, and nothing can be missing. Others replace methods of it."""

    ignores: Collection[str] = ()
    """The settings of `env` that it does not read. Setting one is then refused."""

    def prepare(self, env: EnvConfig) -> EnvConfig:
        """The settings, completed with what depends on this user and machine. Raises ValueError for a wrong file."""
        return env

    def episode_seeds(self, env: EnvConfig, role: Role, task: str, wanted: Wanted) -> Sequence[int]:
        """See the function `episode_seeds` below. Here, these are consecutive seeds."""
        return range(wanted.first_seed, wanted.first_seed + wanted.count)

    def instructions(self, env: EnvConfig, role: Role, task: str, wanted: Wanted) -> Sequence[str] | None:
        """The instructions of the wanted episodes of a task; None where only the simulator can tell them."""
        return None

    def candidates(self, env: EnvConfig) -> int:
        """Return how many seeds `episode_seeds` may look at for every one that it returns."""
        return 1

    def reserved(self, seeds: Mapping[str, range]) -> list[Problem]:
        """Which seeds of training meet a published evaluation. `seeds`: the candidates by their key, such as
        `collector.first_seed`.
        """
        return []

    def held_out(self, env: EnvConfig) -> EnvConfig:
        """The settings of an evaluation, whose scenes may differ from those of a training by more than their seeds."""
        return env

    def problems(self, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> list[Problem]:
        """Everything that keeps episodes of these roles from being played; empty if nothing does."""
        return []

    def findings(self, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> list[Finding]:
        """Return what `launch.doctor` shows of the suite; nothing if it shall look at machine and backbone instead."""
        return []

    def kinematics(self, env: EnvConfig) -> Kinematics:
        """See `kinematics_of`."""
        raise ValueError(
            f"the suite {env.suite} does not tell the kinematics of its robot: give its `Suite` the method "
            "`kinematics`, or use rewards that need no demonstrations and evaluation.segments=0"
        )

    def end_effectors(self, env: EnvConfig) -> Kinematics:
        """Return the kinematics whose tool poses are those that the suite's own data record, in its world.

        A backbone whose actions are tool poses means these. Raises ValueError where they are not known.
        """
        return self.kinematics(env)

    def cameras(self, env: EnvConfig) -> RobotCameras:
        """Return how the robot's cameras see and where they are at given joints. Raises ValueError if unknown."""
        raise ValueError(
            f"the suite {env.suite} does not tell where its robot's cameras are: give its `Suite` the method "
            "`cameras`, or set env.depth=true and take their poses from the observations"
        )

    def disturbed_expert(self, env: EnvConfig, failures: FailuresConfig) -> SimulatorSpec:
        """A simulator whose expert is disturbed, as `failures` says. Raises ValueError where there is none."""
        raise ValueError(
            f"the suite {env.suite} has no disturbed expert: give its `Suite` the method `disturbed_expert`, or use "
            "demonstrations.failures.disturbed=0"
        )

    def facts(self, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> dict[str, Any]:
        """Return what results depend on besides the fields of `EnvConfig`, as JSON values. Here it is all `options`."""
        return asdict(env.options)


def suite_of(env: EnvConfig) -> Suite:
    """The suite that `env` names."""
    suite: Suite = importlib.import_module(f"envs.{env.suite}.suite").SUITE
    return suite


def new_options(suite: str) -> Any:
    """The default settings of a suite's own: its `Settings`, or no settings at all where it has none."""
    if not (Path(__file__).parent / suite / "settings.py").is_file():
        return SuiteOptions()
    return importlib.import_module(f"envs.{suite}.settings").Settings()


def suite_recipes(suite: str, collector: str) -> list[Path]:
    """Return the paths where recipes may be that are laid over others with this suite and collector."""
    folder = Path(__file__).parent / suite
    return [folder / "recipe.yaml", folder / f"recipe.{collector}.yaml"]


def episode_seeds(env: EnvConfig, role: Role, task: str, wanted: Wanted) -> Sequence[int]:
    """The seeds of the wanted episodes of a task, in their order. Raises ValueError where the suite has too few."""
    return suite_of(env).episode_seeds(env_for(env, role), role, task, wanted)


def env_for(env: EnvConfig, role: Role) -> EnvConfig:
    """The settings with which episodes of a role are played: those of an evaluation may differ (see `held_out`)."""
    return suite_of(env).held_out(env) if role == "evaluation" else env


def wanted_seeds(config: Config) -> dict[Role, Wanted]:
    """The seeds of every role that this configuration can play."""
    wanted: dict[Role, Wanted] = {
        "validation": Wanted(config.validation.first_seed, config.validation.episodes_per_task),
        "evaluation": Wanted(config.evaluation.first_seed, config.evaluation.episodes_per_task),
    }
    if isinstance(config.collector, GroupsConfig):
        wanted["groups"] = Wanted(config.collector.first_seed, config.collector.seeds_per_task)
    return wanted


def training_roles(config: Config) -> Sequence[Role]:
    """Return the roles for which a training run and its comparison play episodes."""
    validates = config.validation.every > 0 and config.validation.episodes_per_task > 0
    roles: tuple[tuple[Role, bool], ...] = (
        ("groups", isinstance(config.collector, GroupsConfig)),
        ("validation", validates),
        ("evaluation", bool(config.evaluation.schedules)),
    )
    return [role for role, played in roles if played]


def suite_problems(config: Config, roles: Sequence[Role]) -> list[Problem]:
    """Everything that would keep a run from playing episodes of these roles; empty if nothing does."""
    return suite_of(config.env).problems(config.env, _wanted_of(config, roles))


def suite_findings(config: Config, roles: Sequence[Role]) -> list[Finding]:
    """Return what `launch.doctor` shows of the suite for a run that plays episodes of these roles."""
    return suite_of(config.env).findings(config.env, _wanted_of(config, roles))


def _wanted_of(config: Config, roles: Sequence[Role]) -> dict[Role, Wanted]:
    wanted = wanted_seeds(config)
    return {role: wanted[role] for role in roles if role in wanted}


def kinematics_of(env: EnvConfig) -> Kinematics:
    """The kinematics of the robot that plays the episodes. Raises ValueError, with the fix, where it is not known."""
    return suite_of(env).kinematics(env)


def end_effectors_of(env: EnvConfig) -> Kinematics:
    """Return the kinematics with the tool poses that the suite's data record. Raises ValueError as `kinematics_of`."""
    return suite_of(env).end_effectors(env)


def kinematics_problems(config: Config) -> list[Problem]:
    """Everything that would keep actions from being compared with demonstrations; empty if nothing does."""
    try:
        kinematics_of(config.env)
    except ValueError as error:
        return [Problem("env", str(error), "Path rewards and action errors are differences of tool poses.")]
    return []


def suite_facts(config: Config, role: Role) -> dict[str, Any]:
    """Return everything that results of episodes of a role depend on, as JSON values."""
    return suite_of(config.env).facts(env_for(config.env, role), {role: wanted_seeds(config)[role]})
