"""The simulators of a configuration, and the backbone that acts in them."""

from __future__ import annotations

from typing import cast

from configs.factories import resolve
from configs.schema import EnvConfig, WAMConfig
from envs.process.owner import SimulatorProcess
from envs.simulator import SimulatorSpec
from envs.suites import end_effectors_of, kinematics_of
from policies.backbones import load_wam
from policies.backbones.arms import Arms
from policies.backbones.door import ArmedWAM, FrozenWAM, WAMSpec, Want


def make_simulators(env: EnvConfig, count: int) -> list[SimulatorProcess]:
    """Make `count` simulators. Each starts its process at its first reset."""
    spec: SimulatorSpec = resolve(env.simulator)(env)
    return [SimulatorProcess.from_config(spec, env) for _ in range(count)]


def check_actions(env: EnvConfig, spec: WAMSpec) -> None:
    """Raise ValueError if the robot of the suite cannot take the backbone's actions.

    It takes joint targets of the right number, and tool poses if its arms are known and the backbone fits any robot or
    this one.
    """
    if Want.ACTION_FLOW not in spec.gives:
        raise ValueError(f"backbone {spec.weights_hash} gives no actions, so that no episode can be played with it")
    size = resolve(env.simulator)(env).action_size
    if spec.acts_on == "nothing here" or size != spec.action_dim:
        raise ValueError(
            f"the backbone's actions are {spec.actions_are}: they have {spec.action_dim} numbers, and the robot of "
            f"env.suite={env.suite} takes {size}: choose a wam.checkpoint that was trained on it, another robot, or "
            "actions of the suite that are joint targets of two arms"
        )
    if spec.acts_on == "arms":
        arms_of(env)
    if spec.tools:
        Arms.measured(kinematics_of(env).tools).check(spec.tools, "wam.checkpoint")


def arms_of(env: EnvConfig) -> Arms:
    """Return the arms of the suite's robot, with the poses that its data record. Raises ValueError without two of six
    turning joints, or where they are not known.
    """
    return Arms.measured(end_effectors_of(env).tools)


def load_for(env: EnvConfig, config: WAMConfig) -> FrozenWAM:
    """Load a backbone that acts on the robot of a suite."""
    wam = load_wam(config)
    if wam.spec.acts_on == "arms":
        cast(ArmedWAM, wam).take_arms(arms_of(env))
    return wam
