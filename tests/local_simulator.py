"""A simulator in the test's own process behind the face of `SimulatorProcess`: hundreds of them cost nothing."""

from __future__ import annotations

import time
from typing import Any

from envs.simulator import Simulator


class LocalSimulator:
    """Answers when it is asked for the result."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._pending: Any = None
        self.worked = (0.0, 0.0)

    def start_reset(self, task: str, mode: str, seed: int) -> None:
        self._pending = lambda: self._simulator.reset(task=task, mode=mode, seed=seed)

    def start_chunk(self, actions: Any, record: bool = False) -> None:
        self._pending = lambda: self._simulator.step_chunk(actions, record)

    def result(self) -> Any:
        begin = time.monotonic()
        reply = self._pending()
        self.worked = (begin, time.monotonic())
        return reply

    def rss_bytes(self) -> int:
        return 0

    def kill(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""
