"""The built-in bimanual suite: a robot made of primitives, tasks, a scripted expert. Importing it loads no SAPIEN."""

from __future__ import annotations

import gymnasium

from envs.tabletop.tasks import TASK_NAMES

for _task in TASK_NAMES:
    gymnasium.register(f"tabletop/{_task}", entry_point="envs.tabletop.env:TabletopEnv", kwargs={"task": _task})
