"""A simulator without physics, for closed loops over the analytic backbone. No torch: its process starts fast."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs.schema import EnvConfig
from envs.simulator import ChunkReply, ExpertReply, ResetReply, SimulatorSpec

CHUNKS = 3
TOLERANCE = 0.004  # radians of mean joint error that a fine episode survives
MOTION = np.tile([0.03, 0.02, -0.02, 0.0, 0.01, 0.0, 0.0], 2)  # as in tests.analytic
FAULTY_SEED = 7


class InfeasibleSeed(RuntimeError):
    outcome = "infeasible_seed"


class ToySimulator:
    """Even seeds are coarse and succeed; odd ones are fine and succeed where the actions are precise enough."""

    def __init__(self, crash_once: str = "") -> None:
        self._crash_once = crash_once

    def reset(self, *, task: str, mode: str, seed: int) -> ResetReply:
        if seed % 10 == FAULTY_SEED:
            raise InfeasibleSeed(f"seed {seed}")
        if self._crash_once and not Path(self._crash_once).exists():
            Path(self._crash_once).touch()
            os._exit(3)
        self._seed, self._chunks, self._error = seed, 0, 0.0
        self._joints = np.random.default_rng(seed).normal(0, 0.1, 14).astype(np.float32)
        return ResetReply(self._observation(), f"a {'fine' if seed % 2 else 'coarse'} move")

    def step_chunk(self, actions: npt.NDArray[np.float32], record: bool) -> ChunkReply:
        wanted = self._joints + np.arange(1, len(actions) + 1)[:, None] * MOTION
        self._error = max(self._error, float(np.abs(actions - wanted).mean()))
        self._joints, self._chunks = actions[-1], self._chunks + 1
        done = self._chunks == CHUNKS
        success = done and (self._seed % 2 == 0 or self._error < TOLERANCE)
        frames = np.full((len(actions), 16, 16, 3), self._chunks, dtype=np.uint8) if record else None
        return ChunkReply(self._observation(), len(actions), success, done, frames)

    def demonstrate(self, *, task: str, mode: str, seed: int) -> ExpertReply:
        raise RuntimeError("the toy has no expert")

    def close(self) -> None:
        """Nothing to free."""

    def _observation(self) -> dict[str, npt.NDArray[np.float32]]:
        return {"joints": self._joints.astype(np.float32)}


def toy_spec(env: EnvConfig) -> SimulatorSpec:
    """What `env.simulator` may name."""
    return SimulatorSpec("tests.toy_simulator:ToySimulator")


def crashing_spec(env: EnvConfig) -> SimulatorSpec:
    """The first process of all dies in its first reset; the marker file is named by the environment."""
    return SimulatorSpec("tests.toy_simulator:ToySimulator", {"crash_once": os.environ["TOY_CRASH_MARKER"]})
