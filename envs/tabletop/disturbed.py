"""The scripted expert with an error on its targets, which it does not notice: it mostly fails.

From a random moment on, the targets of the working arms are off by a constant error, they tremble, and the grippers may
stop to move. All of it depends on (task, mode, seed) alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from envs.simulator import ExpertReply
from envs.tabletop.env import TabletopEnv
from envs.tabletop.randomization import stream
from envs.tabletop.recording import record_expert
from envs.tabletop.robot import ARM_ACTION, ARM_JOINTS, SIDES, Array, Side
from envs.tabletop.simulator import TabletopSimulator

ONSET_S = (0.2, 1.0)  # when the error begins, after the start of the episode
RAMP_S = 0.5  # how long it grows
TREMBLE_S = 0.3  # how long a tremble takes to fade


@dataclass(frozen=True)
class Strength:
    """How much the expert may be disturbed (see `configs.failures.FailuresConfig`)."""

    offset: float  # rad
    noise: float  # rad
    slip: float  # in 0..1


@dataclass(frozen=True)
class Disturbance:
    """What is wrong in one episode. Steps are control steps."""

    offset: Array  # [14], rad
    noise: Array  # [14], rad, the standard deviation
    onset: int
    ramp: int
    memory: float  # the share of a tremble that is left after a step
    slips: bool

    def applied(self, actions: Iterable[Array], rng: np.random.Generator) -> Iterator[Array]:
        """The actions [14] with the error. `rng` draws the trembling."""
        tremble = np.zeros_like(self.offset)
        grippers = np.arange(len(self.offset)) % ARM_ACTION == ARM_JOINTS
        held: Array | None = None
        for step, action in enumerate(actions):
            fresh = rng.normal(size=len(tremble)) * self.noise
            tremble = self.memory * tremble + np.sqrt(1 - self.memory**2) * fresh
            changed = action + np.clip((step + 1 - self.onset) / self.ramp, 0.0, 1.0) * (self.offset + tremble)
            if step >= self.onset and self.slips:
                held = action[grippers] if held is None else held
                changed[grippers] = held
            yield changed


def draw_disturbance(
    rng: np.random.Generator, strength: Strength, working: tuple[Side, ...], control_hz: int
) -> Disturbance:
    """Draws what is wrong in an episode. The offset of each working arm has half to all of the length allowed."""
    offset, noise = np.zeros((2, len(SIDES) * ARM_ACTION))
    for side in SIDES:
        direction, length = rng.normal(size=ARM_JOINTS), rng.uniform(0.5, 1.0) * strength.offset
        if side in working:
            first = SIDES.index(side) * ARM_ACTION
            offset[first : first + ARM_JOINTS] = length * direction / np.linalg.norm(direction)
            noise[first : first + ARM_JOINTS] = strength.noise
    return Disturbance(
        offset=offset,
        noise=noise,
        onset=round(rng.uniform(*ONSET_S) * control_hz),
        ramp=max(1, round(RAMP_S * control_hz)),
        memory=float(np.exp(-1 / (TREMBLE_S * control_hz))),
        slips=bool(rng.random() < strength.slip),
    )


def record_disturbed(env: TabletopEnv, seed: int, strength: Strength) -> ExpertReply:
    """One episode of the disturbed expert. Raises `InfeasibleSeed`."""

    def disturb(actions: Iterator[Array]) -> Iterator[Array]:
        rng = stream(env.task_name, env.mode, seed, "disturbance")
        disturbance = draw_disturbance(rng, strength, env.task.working_arms, env.control_hz)
        return disturbance.applied(actions, rng)

    return record_expert(env, seed, disturb)


class DisturbedSimulator(TabletopSimulator):
    """The simulator of the suite whose expert is disturbed."""

    def __init__(
        self,
        head_size: int,
        wrist_size: int,
        control_hz: int,
        offset: float,
        noise: float,
        slip: float,
        render: bool = True,
        depth: bool = False,
    ) -> None:
        super().__init__(head_size, wrist_size, control_hz, render, depth)
        self._strength = Strength(offset, noise, slip)

    def demonstrate(self, *, task: str, mode: str, seed: int) -> ExpertReply:
        return record_disturbed(self._enter(task, mode), seed, self._strength)
