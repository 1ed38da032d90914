"""The simulators of a configuration."""

from __future__ import annotations

from configs.factories import resolve
from configs.schema import EnvConfig
from envs.process.owner import SimulatorProcess
from envs.simulator import SimulatorSpec
from envs.suites import kinematics_of
from policies.backbones.arms import Arms
from policies.backbones.door import WAMSpec


def make_simulators(env: EnvConfig, count: int) -> list[SimulatorProcess]:
    """Make `count` simulators. Each starts its process at its first reset."""
    spec: SimulatorSpec = resolve(env.simulator)(env)
    return [SimulatorProcess.from_config(spec, env) for _ in range(count)]


def check_actions(env: EnvConfig, spec: WAMSpec) -> None:
    """Raise ValueError if the backbone's actions have another size than those of the simulator's robot.

    A backbone that moves tools is also refused if the robot has other arms.
    """
    size = resolve(env.simulator)(env).action_size
    if size != spec.action_dim:
        raise ValueError(
            f"the backbone's actions have {spec.action_dim} numbers, and the robot of env.suite={env.suite} takes "
            f"{size}: choose a wam.checkpoint that was trained on it, or another robot"
        )
    if spec.tools:
        Arms.measured(kinematics_of(env).tools).check(spec.tools, "wam.checkpoint")
