"""An actor from which asynchronous runners fetch the newest weights. It imports nothing heavy."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle


class WeightsServer:
    """Holds the newest weights, as one object from which each node takes a copy once.

    `state` is the argument of a runner's `set_state`.
    """

    def __init__(self) -> None:
        self._version: int | None = None
        self._state: ray.ObjectRef | None = None

    def put(self, version: int, state: dict[str, Any]) -> None:
        self._version, self._state = version, ray.put(state)

    def other_than(self, version: int) -> ray.ObjectRef | None:
        """Return where the state is, or None if it has this version, which may also be older, after a resume."""
        return None if self._version in (None, version) else self._state


def make_weights_server() -> ActorHandle:
    """Start the actor and return its handle. It ends with the process that started it."""
    return ray.remote(WeightsServer).options(num_cpus=0).remote()
