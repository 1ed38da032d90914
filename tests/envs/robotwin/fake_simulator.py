"""The adapter's process on a made-up RoboTwin (`fake_root`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

import envs
from configs.schema import EnvConfig
from envs.process.owner import Deadlines, SimulatorProcess
from envs.robotwin.settings import Settings
from envs.simulator import Observation, simulator_spec
from tests.envs.robotwin.fake_root import LIMITS, PIXELS, SEEDS

REPOSITORY = Path(envs.__file__).resolve().parents[1]
TASK = "press_button"
PATIENT = Deadlines(hello=60.0, reset=60.0, step_chunk=60.0, demonstrate=60.0, close=5.0)
KNOWN = (3, 4, *SEEDS.values())  # seeds of the manifest
STILL = np.zeros((4, 14), np.float32)


def fact(observation: Observation, name: str) -> int:
    return int(observation["head"][PIXELS[name]].max())


def environment(root: Path, **settings: object) -> EnvConfig:
    chosen = Settings(root=str(root), planner="none", manifests=str(root.parent / "manifests"))
    return EnvConfig(suite="robotwin", tasks=list(LIMITS), options=replace(chosen, **settings))


def start(root: Path, **settings: object) -> SimulatorProcess:
    return SimulatorProcess(simulator_spec(environment(root, **settings)), PATIENT)


def workers() -> list[int]:
    ours = str(REPOSITORY / "envs" / "robotwin" / "worker.py")
    return [child.pid for child in psutil.Process().children(recursive=True) if ours in child.cmdline()]
