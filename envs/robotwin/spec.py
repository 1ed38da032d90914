"""How a RoboTwin process is started."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from configs.schema import EnvConfig
from envs.robotwin import worker
from envs.robotwin.layout import open_checkout
from envs.simulator import SimulatorSpec


def simulator_spec(env: EnvConfig, record_expert: bool = True) -> SimulatorSpec:
    """One RoboTwin process. Without `record_expert` demonstrations have no pictures, which is enough to verify seeds.

    Raises ValueError, with the fix, for a root, task, embodiment, assets or interpreter that do not exist.
    """
    settings = env.options
    checkout = open_checkout(settings.root)
    for task in env.tasks:
        checkout.require_task(task)
    checkout.require_assets(settings.embodiment, env.tasks, [env.mode], planner=True)
    python = shutil.which(settings.python or sys.executable)
    if python is None:
        raise ValueError(f"no interpreter {settings.python}: set ROBOTWIN_PYTHON or env.options.python")
    return SimulatorSpec(
        ".robotwin.simulator:RoboTwinSimulator",
        {
            "root": str(checkout.root),
            "embodiment": list(settings.embodiment),
            "shader": settings.shader,
            "planner": settings.planner,
            "instruction_type": settings.instruction_type,
            "action_type": settings.action_type,
            "eval_mode": settings.eval_mode,
            "step_limit": 0 if settings.eval_mode else settings.train_step_limit,
            "manifests": str(Path(settings.manifests).absolute()) if settings.manifests else "",
            "record_expert": record_expert,
            "depth": env.depth,
        },
        command=(python, str(Path(worker.__file__).resolve()), str(checkout.root)),
        directory=str(checkout.root),
        action_size=checkout.embodiment(settings.embodiment).size_of(settings.action_type),
    )
