"""How a simulator of the built-in suite is started."""

from __future__ import annotations

from configs.schema import EnvConfig
from envs.simulator import SimulatorSpec


def simulator_spec(env: EnvConfig) -> SimulatorSpec:
    """One simulator process of the built-in suite."""
    settings = {"head_size": env.head_size, "wrist_size": env.wrist_size, "control_hz": env.control_hz}
    return SimulatorSpec("envs.tabletop.simulator:TabletopSimulator", {**settings, "depth": env.depth})
