"""A runner that only waits, and answers as large as a real one. It imports no torch, so that many fit on a machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    from rl.experience.records import Reply

VERSION = "weights_seq_no"  # where RLlib puts the version of weights


Content = dict[str, npt.NDArray[Any]]
"""The arrays of the rollouts in a real reply, which are nearly all of its bytes."""


@dataclass(frozen=True)
class StubRequest:
    """A request of the size of a real one."""

    payload: tuple[Any, ...]
    ticket: int = -1


class StubReply:
    """The answer of a stub. The driver receives a `Reply` in its place."""

    def __init__(self, ticket: int, version: int, content: Content) -> None:
        self._parts = (ticket, version, content)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reply, self._parts


def _reply(ticket: int, version: int, content: Content) -> Reply:
    from rl.experience.records import Reply

    return Reply(ticket, version)


class StubRunner:
    """Answers what RLlib's group of runners and the dispatcher ask of a runner."""

    def __init__(self, content: Content, work_s: float) -> None:
        self._content, self._work_s, self._version = content, work_s, -1

    def apply(self, func: Callable[..., Any], **kwargs: Any) -> Any:
        """Call a method, as RLlib's actors do."""
        return func(self, **kwargs)

    def sample(self, request: StubRequest) -> StubReply:
        """Wait as long as the walks of a request would take."""
        time.sleep(self._work_s)
        return StubReply(request.ticket, self._version, self._content)

    def set_state(self, state: dict[str, Any]) -> None:
        """Take weights, and keep their version."""
        self._version = state[VERSION]

    def ping(self) -> str:
        return "pong"
