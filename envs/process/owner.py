"""A simulator in a process of its own, so that it can hang in native code, crash or leak without harm to its owner.

Every verb has a deadline. After a missed deadline, a crash or a malformed reply the whole process group is killed, and
a `SimulatorFault` says what happened in which episode; the next reset starts a fresh process. One caller can keep
several simulators busy at once with `start_*`, `wait_ready` and `result`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from configs.schema import EnvConfig
from envs.outcomes import DETERMINISTIC_FAULTS, MissingDependency, Outcome
from envs.process.child import Child
from envs.process.protocol import PASSED, Message, ProtocolError
from envs.simulator import ChunkReply, ExpertReply, Observation, ResetReply, SimulatorSpec, checked_actions

_log = logging.getLogger(__name__)
_TRANSFER_GRACE_S = 1.0  # more time for a reply that began to arrive in time while its owner was busy

Reply = ResetReply | ChunkReply | ExpertReply


@dataclass(frozen=True)
class Deadlines:
    """These are the seconds that each verb may take. The first reset of a process also compiles shaders."""

    hello: float = 60.0
    reset: float = 120.0
    step_chunk: float = 60.0
    demonstrate: float = 300.0
    close: float = 5.0

    @classmethod
    def from_config(cls, env: EnvConfig) -> Deadlines:
        """Those of the settings; starting a process and demonstrating may take longer where a reset may."""
        patient = {
            "hello": max(cls.hello, env.reset_deadline_s),
            "demonstrate": max(cls.demonstrate, 2 * env.reset_deadline_s),
        }
        return cls(reset=env.reset_deadline_s, step_chunk=env.chunk_deadline_s, **patient)


@dataclass(frozen=True)
class RecycleLimits:
    """When a process is replaced, at its next reset, because simulators leak memory."""

    episodes: int = 500
    rss_bytes: int = 3 << 30

    @classmethod
    def from_config(cls, env: EnvConfig) -> RecycleLimits:
        return cls(env.recycle_episodes, env.recycle_rss_mib << 20)


class SimulatorFault(RuntimeError):
    """An episode ended because of the simulator, not because of the policy. `outcome` says how."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(outcome, message)
        self.outcome = outcome

    def __str__(self) -> str:
        return str(self.args[1])


class SimulatorUnavailable(SimulatorFault):
    """The simulator cannot be built at all (wrong factory, no Vulkan device): another attempt will not help."""


class SimulatorIncomplete(SimulatorUnavailable, MissingDependency):
    """The simulator lacks something that was asked of it, such as a package. The text says how to get it."""


@dataclass(frozen=True)
class _PendingCall:
    """A message that was sent and whose reply has not been taken yet."""

    id: int
    verb: str
    episode: str  # for error messages
    allowed_s: float
    deadline: float  # on time.monotonic


class SimulatorProcess:
    """Owns a simulator process, which it starts at the first reset. Use it in a `with` block, or call `close`."""

    def __init__(
        self, spec: SimulatorSpec, deadlines: Deadlines | None = None, limits: RecycleLimits | None = None
    ) -> None:
        self.spec = spec
        self.deadlines = deadlines or Deadlines()
        self.limits = limits or RecycleLimits()
        self._child: Child | None = None
        self._pending: deque[_PendingCall] = deque()
        self._ids = itertools.count(1)
        self._start_fault: SimulatorFault | None = None
        self._episode = ""  # the name of the current episode, for error messages; empty where there is none
        self._episodes = 0  # played by the current process
        self.description: dict[str, Any] = {}  # what the simulator said about itself when it was built
        self.worked = (0.0, 0.0)  # when the simulator worked on the last reply: begin and end on time.monotonic

    @classmethod
    def from_config(cls, spec: SimulatorSpec, env: EnvConfig) -> Self:
        """Make one with the deadlines and the limits of the settings."""
        return cls(spec, Deadlines.from_config(env), RecycleLimits.from_config(env))

    # To use one simulator at a time:

    def reset(self, task: str, mode: str, seed: int) -> ResetReply:
        """Begins the episode `seed`. Raises `SimulatorFault` if that fails or takes too long."""
        self.start_reset(task, mode, seed)
        return cast(ResetReply, self.result())

    def step_chunk(self, actions: npt.ArrayLike, record: bool = False, every: int = 0) -> ChunkReply:
        """Takes `actions` [T, the spec's `action_size`] one after another until the episode ends.

        If `every` is not 0, the reply's `passed` has the observations after every so many of them. Raises ValueError
        for a wrong shape or a value that is not finite, before anything moves.
        """
        self.start_chunk(actions, record, every)
        return cast(ChunkReply, self.result())

    def demonstrate(self, task: str, mode: str, seed: int) -> ExpertReply:
        """Lets the scripted expert play the whole episode `seed`."""
        self.start_demonstrate(task, mode, seed)
        return cast(ExpertReply, self.result())

    # To use several at a time: start each, then take the results as they come.

    def start_reset(self, task: str, mode: str, seed: int) -> None:
        self._start_episode("reset", task, mode, seed)

    def start_demonstrate(self, task: str, mode: str, seed: int) -> None:
        self._start_episode("demonstrate", task, mode, seed)

    def start_chunk(self, actions: npt.ArrayLike, record: bool = False, every: int = 0) -> None:
        checked = checked_actions(actions, self.spec.action_size)
        if not self._episode:
            raise RuntimeError("step_chunk needs a live episode: reset first (a fault ends the episode)")
        self._send("step_chunk", {"record": record, "every": every}, {"actions": checked})

    def ready(self) -> bool:
        """Whether `result` would return or raise without waiting."""
        if self._start_fault is not None:
            return True
        if not self._pending:
            raise RuntimeError("nothing was started")
        if not self._live_child.readable():
            return time.monotonic() >= self._pending[0].deadline
        if len(self._pending) > 1:
            self._greet()
            return self.ready()
        return True

    def result(self) -> Reply:
        """The reply to what was started last. Raises `SimulatorFault`."""
        if not self._pending and self._start_fault is None:
            raise RuntimeError("nothing was started")
        while len(self._pending) > 1:
            self._greet()
        if self._start_fault is not None:
            fault, self._start_fault = self._start_fault, None
            raise fault
        call = self._pending[0]
        reply = _parse(call.verb, self._take())
        self._check_finite(reply.columns if isinstance(reply, ExpertReply) else reply.observation, call)
        return reply

    def fileno(self) -> int:
        """The file descriptor that becomes readable when a reply arrives, for `select` and the like."""
        return self._live_child.channel.fileno()

    @property
    def deadline(self) -> float:
        """When the first pending call counts as lost, on `time.monotonic`."""
        return self._pending[0].deadline if self._pending else float("-inf")

    # The process itself.

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def rss_bytes(self) -> int:
        """Resident memory; 0 without a process."""
        return 0 if self._child is None else self._child.rss_bytes()

    def kill(self) -> None:
        """Ends the process group at once, whatever it is doing."""
        self._pending.clear()
        self._start_fault, self._episode, self._episodes = None, "", 0
        if self._child is not None:
            self._child.kill()
            self._child = None

    def close(self) -> None:
        """Lets an idle simulator close itself, then ends the process group."""
        if self._child is not None and not self._pending:
            with contextlib.suppress(SimulatorFault):  # it is killed either way
                self._send("close", {}, {})
                self._take()
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # How calls are sent and replies are taken:

    @property
    def _live_child(self) -> Child:
        if self._child is None:
            raise RuntimeError("no process: reset first")
        return self._child

    def _start_episode(self, verb: str, task: str, mode: str, seed: int) -> None:
        if self._pending:
            raise RuntimeError("take the pending result first, or kill()")
        if self._child is not None and self._worn_out():
            self.close()
        self._episode = f"{task}/{mode} seed {seed}"
        if self._child is None:
            self._child = Child(self.spec)
            self._send("hello", {"factory": self.spec.factory, "kwargs": dict(self.spec.kwargs)}, {})
        self._episodes += 1
        self._send(verb, {"task": task, "mode": mode, "seed": int(seed)}, {})

    def _worn_out(self) -> bool:
        rss = self.rss_bytes()
        if self._episodes == 1 and rss >= self.limits.rss_bytes:
            _log.warning(
                "a simulator takes %d MiB after one episode, more than its limit of %d: it is replaced after every "
                "episode, which is slow. Raise env.recycle_rss_mib.",
                rss >> 20,
                self.limits.rss_bytes >> 20,
            )
        return self._episodes >= self.limits.episodes or rss >= self.limits.rss_bytes

    def _send(self, verb: str, header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        allowed_s = getattr(self.deadlines, verb)
        begin = max([time.monotonic(), *(call.deadline for call in self._pending)])
        call = _PendingCall(next(self._ids), verb, self._episode, allowed_s, begin + allowed_s)
        self._pending.append(call)
        with contextlib.suppress(ConnectionError, TimeoutError):  # `result` will find the channel broken and say why
            self._live_child.send(Message(dict(header, verb=verb, id=call.id), arrays), call.deadline)

    def _greet(self) -> None:
        """Takes the reply to `hello`, which comes before the reply to the first reset."""
        try:
            self.description = self._take().header["description"]
        except SimulatorFault as fault:
            self.kill()
            self._start_fault = fault
            return
        first = self._pending[0]  # the simulator begins to work on it only now
        self._pending[0] = replace(first, deadline=time.monotonic() + first.allowed_s)

    def _take(self) -> Message:
        call, child = self._pending[0], self._live_child
        deadline = max(call.deadline, time.monotonic() + _TRANSFER_GRACE_S * child.readable())
        try:
            reply = child.receive(deadline)
        except TimeoutError:
            raise self._lost(call, Outcome.timeout, f"no answer within {call.allowed_s:g} s") from None
        except (ConnectionError, ProtocolError, ValueError) as error:
            raise self._lost(call, Outcome.sim_fault, f"the channel broke ({error})") from None
        if reply.header["id"] != call.id:
            raise self._lost(call, Outcome.sim_fault, f"got the answer to call {reply.header['id']}")
        self._pending.popleft()
        begin, end = reply.header["worked"]
        self.worked = begin, end
        if "fault" in reply.header:
            outcome = Outcome(reply.header["fault"])
            self._end_episode(outcome)
            raise _fault_kind(call, reply)(outcome, _with_episode(call, reply.header["message"]))
        return reply

    def _lost(self, call: _PendingCall, outcome: Outcome, reason: str) -> SimulatorFault:
        child = self._live_child
        self.worked = (call.deadline - call.allowed_s, time.monotonic())
        ending = child.end(wait_for_exit=outcome is Outcome.sim_fault)
        log = child.log_tail()
        self.kill()
        return SimulatorFault(outcome, _with_episode(call, f"{reason}; {ending}; last log lines:\n{log}"))

    def _check_finite(self, observation: Observation, call: _PendingCall) -> None:
        for name, values in observation.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                self._end_episode(Outcome.sim_fault)
                raise SimulatorFault(Outcome.sim_fault, _with_episode(call, f"observation {name!r} is not finite"))

    def _end_episode(self, outcome: Outcome) -> None:
        """Kills the process unless the fault is the seed's: a simulator that went wrong gets no other episode."""
        self._episode = ""
        if outcome not in DETERMINISTIC_FAULTS:
            self.kill()


def wait_ready(simulators: Sequence[SimulatorProcess], timeout: float | None = None) -> list[SimulatorProcess]:
    """Those with a result or a fault to take, in the given order. Waits until there is one, at most `timeout` s."""
    limit = float("inf") if timeout is None else time.monotonic() + timeout
    while True:
        ready = [simulator for simulator in simulators if simulator.ready()]
        if ready or not simulators or time.monotonic() >= limit:
            return ready
        first_event = min(limit, *(simulator.deadline for simulator in simulators))
        wait([simulator.fileno() for simulator in simulators], max(0.0, first_event - time.monotonic()))


def _fault_kind(call: _PendingCall, reply: Message) -> type[SimulatorFault]:
    if reply.header["missing_dependency"]:
        return SimulatorIncomplete
    return SimulatorUnavailable if call.verb == "hello" else SimulatorFault


def _with_episode(call: _PendingCall, text: str) -> str:
    return f"{call.verb} of {call.episode}: {text}"


def _parse(verb: str, message: Message) -> Reply:
    header, arrays = message.header, dict(message.arrays)
    if verb == "reset":
        return ResetReply(arrays, header["instruction"])
    if verb == "step_chunk":
        frames = arrays.pop("frames", None)
        passed = {name.removeprefix(PASSED): arrays.pop(name) for name in list(arrays) if name.startswith(PASSED)}
        return ChunkReply(arrays, header["executed"], header["success"], header["done"], frames, passed)
    return ExpertReply.of(arrays, header["instruction"], header["outcome"], header["style"])
