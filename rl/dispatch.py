"""Hand requests to runners and get each of them answered exactly once, whatever dies on the way."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from configs.schema import RolloutConfig
from rl.records import EpisodeRecord, EpisodeRequest, Failure, PathOutcome, PathRequest, Reply, Request, failed_paths

logger = logging.getLogger(__name__)

TAG = "sample"
MAX_ATTEMPTS = 3
_POLL_S = 0.05
_PROBE_EVERY_S = 0.5


class NoRunnersLeftError(RuntimeError):
    """Every runner is dead and none came back in time."""


@dataclass
class DispatchCounters:
    """Since the start of the run."""

    reissued: int = 0
    stale: int = 0


@dataclass
class _Work:
    """The state of one round."""

    waiting: deque[Request]
    in_flight: dict[int, Request] = field(default_factory=dict)  # runner id -> request
    since: dict[int, float] = field(default_factory=dict)  # runner id -> when it got that request, on time.monotonic
    answered: dict[int, Reply] = field(default_factory=dict)  # slot -> reply
    attempts: dict[int, int] = field(default_factory=dict)  # slot -> how often it was lost

    @property
    def unfinished(self) -> bool:
        return bool(self.waiting or self.in_flight)


class Dispatcher:
    """Runs rounds of requests over RLlib's runner group. An answer is a function of its request, not of who gave it."""

    def __init__(
        self,
        group: EnvRunnerGroup,
        restore: Callable[[], Sequence[int]],
        send_weights: Callable[[Sequence[int]], None],
        rollout: RolloutConfig,
    ) -> None:
        self._group, self._restore, self._send_weights = group, restore, send_weights
        self._rollout = rollout
        self._last_probe = 0.0
        self._last_alive = time.monotonic()
        self.counters = DispatchCounters()

    def collect(self, requests: Sequence[Request], weights_version: int) -> list[Reply]:
        """One reply a request, in their order. Slots must differ. Raises `NoRunnersLeftError`."""
        if self._group.local_env_runner is not None:
            return [self._group.local_env_runner.sample(request=request) for request in requests]
        work = _Work(deque(requests))
        self._last_alive = time.monotonic()
        while work.unfinished:
            self._hand_out(work)
            self._take(work, weights_version)
            self._kill_hanging(work)
            self._recover(work)
        return [work.answered[request.slot] for request in requests]

    def _hand_out(self, work: _Work) -> None:
        for runner in self._group.healthy_env_runner_ids():
            if not work.waiting:
                return
            if runner in work.in_flight:
                continue
            request = work.waiting.popleft()
            sent = self._group.foreach_env_runner_async(
                TAG, tag=TAG, kwargs=[{"request": request}], remote_worker_ids=[runner]
            )
            if sent:
                work.in_flight[runner], work.since[runner] = request, time.monotonic()
            else:
                work.waiting.appendleft(request)

    def _take(self, work: _Work, weights_version: int) -> None:
        ready = self._group.fetch_ready_async_reqs(tags=TAG, timeout_seconds=_POLL_S)
        for runner, reply in ready:
            request = work.in_flight.pop(runner)
            if reply.weights_version == weights_version:
                work.answered[reply.slot] = reply
            else:
                self.counters.stale += 1
                self._send_weights([runner])
                self._again(work, request)

    def _kill_hanging(self, work: _Work) -> None:
        """A runner past its deadline is stuck in native code: only another process can do its work."""
        now = time.monotonic()
        for runner in work.in_flight:
            if now - work.since[runner] > self._rollout.request_deadline_s:
                logger.error("Runner %d gave no answer for %g s: killed", runner, self._rollout.request_deadline_s)
                ray.kill(self._group._worker_manager.actors()[runner], no_restart=False)
                work.since[runner] = now

    def _recover(self, work: _Work) -> None:
        """Put the work of dead runners back, bring runners back, and give up when none is left."""
        healthy = set(self._group.healthy_env_runner_ids())
        for runner in [runner for runner in work.in_flight if runner not in healthy]:
            self.counters.reissued += 1
            self._again(work, work.in_flight.pop(runner))
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

    def _again(self, work: _Work, request: Request) -> None:
        """Back into the queue, unless every attempt cost a runner: then the request itself is the suspect."""
        work.attempts[request.slot] = work.attempts.get(request.slot, 0) + 1
        if work.attempts[request.slot] < MAX_ATTEMPTS:
            work.waiting.appendleft(request)
        else:
            work.answered[request.slot] = lost_reply(request)


def lost_reply(request: Request) -> Reply:
    """The masked answer to a request that no runner survived."""
    message = f"lost with its runner {MAX_ATTEMPTS} times"
    logger.error("Request %d was %s: masked", request.slot, message)
    reply = Reply(request.slot, weights_version=0, failures=[Failure(PathOutcome.runner_lost, message)], lost=True)
    if isinstance(request, PathRequest):
        reply.paths = failed_paths(request.tasks, PathOutcome.runner_lost)
    if isinstance(request, EpisodeRequest):
        reply.episodes = [EpisodeRecord.of(episode, PathOutcome.runner_lost, message) for episode in request.episodes]
    return reply
