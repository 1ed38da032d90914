"""Sends requests to runners. Every request is answered exactly once, even if runners die."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from configs.schema import RolloutConfig
from rl.experience.records import PathOutcome, Reply, Request, failed_reply

logger = logging.getLogger(__name__)

TAG = "sample"
MAX_ATTEMPTS = 3
STREAM_DEPTH = 2  # the requests that an asynchronous runner holds: one in work and one behind it
_POLL_S = 0.05
_PROBE_EVERY_S = 0.5


class NoRunnersLeftError(RuntimeError):
    """All runners are dead, and none was restarted in time."""


@dataclass
class DispatchCounters:
    """Counts since the start of the run."""

    reissued: int = 0  # requests that were sent again because their runner died
    stale: int = 0  # replies that were dropped because they were made under old weights


@dataclass
class _Work:
    """The requests that are not finished. A request is identified by its ticket."""

    waiting: deque[Request] = field(default_factory=deque)
    in_flight: dict[int, deque[Request]] = field(default_factory=dict)  # runner id -> its requests, in order
    since: dict[int, float] = field(default_factory=dict)  # runner id -> time.monotonic when it began its first request
    answered: dict[int, Reply] = field(default_factory=dict)  # ticket -> reply
    attempts: dict[int, int] = field(default_factory=dict)  # ticket -> how often the request was lost
    versions: dict[int, int] = field(default_factory=dict)  # ticket -> the weights under which it must be answered
    streamed: set[int] = field(default_factory=set)  # tickets of the requests that `gather` sent

    @property
    def open(self) -> int:
        """The number of requests that have no reply yet."""
        return len(self.waiting) + sum(map(len, self.in_flight.values()))


class Dispatcher:
    """Runs requests on RLlib's runner group. A reply depends on its request and on the weights alone."""

    def __init__(
        self,
        group: EnvRunnerGroup,
        restore: Callable[[], Sequence[int]],
        send_weights: Callable[[Sequence[int]], None],
        rollout: RolloutConfig,
        asynchronous: bool = False,
    ) -> None:
        """If `asynchronous`, a runner holds a second request behind the one that it works on."""
        self._group, self._restore, self._send_weights = group, restore, send_weights
        self._rollout = rollout
        self._depth = STREAM_DEPTH if asynchronous else 1
        self._tickets = itertools.count()
        self._work = _Work()
        self._last_probe = 0.0
        self._last_alive = time.monotonic()
        self.counters = DispatchCounters()
        self._longest_queue = 0

    def take_longest_queue(self) -> int:
        """Return the most requests that waited for a runner at the same time since this was asked last."""
        longest, self._longest_queue = self._longest_queue, 0
        return longest

    def collect(self, requests: Sequence[Request], weights_version: int) -> list[Reply]:
        """Return the replies to all requests under these weights, in order. Raises `NoRunnersLeftError`."""
        if self._group.local_env_runner is not None:
            return [self._group.local_env_runner.sample(request=request) for request in requests]
        ticketed = [self._ticketed(request) for request in requests]
        tickets = [request.ticket for request in ticketed]
        self._work.versions |= dict.fromkeys(tickets, weights_version)
        self._work.waiting.extendleft(reversed(ticketed))
        self._last_alive = time.monotonic()
        while not self._work.answered.keys() >= set(tickets):
            self._step()
        return [self._finish(ticket) for ticket in tickets]

    def gather(self, count: int, next_request: Callable[[], Request], is_fresh: Callable[[Reply], bool]) -> list[Reply]:
        """Return the next `count` fresh replies to an endless stream of requests. Stale ones are dropped and counted.

        Every runner always has one request in work and one behind it, also after this method returns.
        """
        gathered: list[Reply] = []
        self._last_alive = time.monotonic()
        while True:
            done = sorted(self._work.streamed & self._work.answered.keys())
            for ticket in done[: count - len(gathered)]:
                self._work.streamed.remove(ticket)
                reply = self._finish(ticket)
                if reply.lost or is_fresh(reply):
                    gathered.append(reply)
                else:
                    self.counters.stale += 1
            while self._work.open < STREAM_DEPTH * self._group.num_remote_env_runners():
                request = self._ticketed(next_request())
                self._work.streamed.add(request.ticket)
                self._work.waiting.append(request)
            self._hand_out()
            if len(gathered) == count:
                return gathered
            self._step()

    def _ticketed(self, request: Request) -> Request:
        return replace(request, ticket=next(self._tickets))

    def _finish(self, ticket: int) -> Reply:
        self._work.attempts.pop(ticket, None)
        self._work.versions.pop(ticket, None)
        return self._work.answered.pop(ticket)

    def _step(self) -> None:
        self._hand_out()
        self._take_replies()
        self._kill_hanging()
        self._recover()

    def _hand_out(self) -> None:
        """Send waiting requests. A runner gets a second request only after every runner has a first one."""
        work = self._work
        for taken in range(self._depth):
            for runner in self._group.healthy_env_runner_ids():
                if work.waiting and len(work.in_flight.get(runner, ())) == taken:
                    self._send(runner, work.waiting.popleft())
        self._longest_queue = max(self._longest_queue, len(work.waiting))

    def _send(self, runner: int, request: Request) -> None:
        sent = self._group.foreach_env_runner_async(
            TAG, tag=TAG, kwargs=[{"request": request}], remote_worker_ids=[runner]
        )
        if not sent:
            self._work.waiting.appendleft(request)
            return
        queue = self._work.in_flight.setdefault(runner, deque())
        if not queue:
            self._work.since[runner] = time.monotonic()
        queue.append(request)

    def _take_replies(self) -> None:
        """Take the replies that are ready. A reply under wrong weights is dropped, and its request is sent again."""
        work = self._work
        for runner, reply in self._group.fetch_ready_async_reqs(tags=TAG, timeout_seconds=_POLL_S):
            request = next((one for one in work.in_flight.get(runner, ()) if one.ticket == reply.ticket), None)
            if request is None:  # the runner was taken for dead, and others got its requests
                continue
            work.in_flight[runner].remove(request)
            work.since[runner] = time.monotonic()
            if work.versions.get(reply.ticket, reply.weights_version) == reply.weights_version:
                work.answered[reply.ticket] = reply
            else:
                self.counters.stale += 1
                self._send_weights([runner])
                self._retry(request)

    def _kill_hanging(self) -> None:
        """Kill every runner that is past its deadline: it hangs in native code, so another process must take over."""
        now, deadline = time.monotonic(), self._rollout.request_deadline_s
        for runner in [runner for runner, queue in self._work.in_flight.items() if queue]:
            if now - self._work.since[runner] > deadline:
                logger.error("Runner %d gave no answer for %g s: killed", runner, deadline)
                ray.kill(self._group._worker_manager.actors()[runner], no_restart=False)
                self._work.since[runner] = now

    def _recover(self) -> None:
        """Put the requests of dead runners back, restart runners, and raise `NoRunnersLeftError` if none comes back."""
        healthy = set(self._group.healthy_env_runner_ids())
        for runner in [runner for runner in self._work.in_flight if runner not in healthy]:
            lost = self._work.in_flight.pop(runner)
            self.counters.reissued += len(lost)
            while len(lost) > 1:  # only the first one had begun
                self._work.waiting.appendleft(lost.pop())
            if lost:
                self._retry(lost.pop())
        now = time.monotonic()
        if len(healthy) < self._group.num_remote_env_runners() and now - self._last_probe > _PROBE_EVERY_S:
            self._restore()
            self._last_probe = time.monotonic()
        if healthy:
            self._last_alive = now
        elif now - self._last_alive > self._rollout.restart_deadline_s:
            raise NoRunnersLeftError(
                f"No runner is left: all {self._group.num_remote_env_runners()} died and none came back within "
                f"{self._rollout.restart_deadline_s:g} s. Their logs say why; the last checkpoint is kept."
            )
        else:
            time.sleep(_POLL_S)

    def _retry(self, request: Request) -> None:
        """Queue a request again. After too many attempts it gets a failed reply, since it may kill its runners."""
        work = self._work
        work.attempts[request.ticket] = work.attempts.get(request.ticket, 0) + 1
        if work.attempts[request.ticket] < MAX_ATTEMPTS:
            work.waiting.appendleft(request)
        else:
            work.answered[request.ticket] = lost_reply(request)


def lost_reply(request: Request) -> Reply:
    """Return the failed reply to a request that was lost with every runner."""
    message = f"lost with its runner {MAX_ATTEMPTS} times"
    logger.error("Request %d was %s: masked", request.ticket, message)
    return failed_reply(request, 0, PathOutcome.runner_lost, message, lost=True)
