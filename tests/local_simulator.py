"""A simulator in the test's own process behind the face of `SimulatorProcess`: hundreds of them cost nothing."""

from __future__ import annotations

import time
from typing import Any

from envs.outcomes import Outcome
from envs.process.owner import SimulatorFault
from envs.simulator import Simulator, step_in_parts


class LocalSimulator:
    """Answers when it is asked for the result. What the simulator raises is the fault of the episode."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._pending: Any = None
        self.worked = (0.0, 0.0)

    def start_reset(self, task: str, mode: str, seed: int) -> None:
        self._pending = lambda: self._simulator.reset(task=task, mode=mode, seed=seed)

    def start_chunk(self, actions: Any, record: bool = False, every: int = 0) -> None:
        self._pending = lambda: step_in_parts(self._simulator, actions, record, every)

    def result(self) -> Any:
        begin = time.monotonic()
        try:
            reply = self._pending()
        except RuntimeError as error:
            raise SimulatorFault(Outcome(getattr(error, "outcome", Outcome.sim_fault)), str(error)) from error
        self.worked = (begin, time.monotonic())
        return reply

    def rss_bytes(self) -> int:
        return 0

    def kill(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""
