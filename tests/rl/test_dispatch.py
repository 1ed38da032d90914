"""Requests and runners, without processes: who gets what, and what happens to the work of the dead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from configs.schema import RolloutConfig
from rl.engine.dispatch import MAX_ATTEMPTS, STREAM_DEPTH, Dispatcher
from rl.experience.records import EpisodeRequest, EpisodeTask, Reply


class Runners:
    """A group that answers the oldest request of each runner at every poll, under `version`."""

    local_env_runner = None

    def __init__(self, count: int) -> None:
        self.count, self.version = count, 1
        self.queues: dict[int, list[EpisodeRequest]] = defaultdict(list)
        self.dead: set[int] = set()
        self.seen: list[tuple[int, EpisodeRequest]] = []
        self.before_poll: Callable[[], None] = lambda: None

    def healthy_env_runner_ids(self) -> list[int]:
        return [runner for runner in range(1, self.count + 1) if runner not in self.dead]

    def num_remote_env_runners(self) -> int:
        return self.count

    def foreach_env_runner_async(self, func: str, tag: str, kwargs: Any, remote_worker_ids: list[int]) -> int:
        self.queues[remote_worker_ids[0]].append(kwargs[0]["request"])
        self.seen.append((remote_worker_ids[0], kwargs[0]["request"]))
        return 1

    def fetch_ready_async_reqs(self, tags: str, timeout_seconds: float) -> list[tuple[int, Reply]]:
        self.before_poll()
        ready = [(runner, queue.pop(0)) for runner, queue in self.queues.items() if queue and runner not in self.dead]
        return [(runner, Reply(request.ticket, self.version)) for runner, request in ready]

    def kill(self, runner: int) -> None:
        self.dead.add(runner)
        self.queues.pop(runner, None)


def dispatcher_of(runners: Runners, asynchronous: bool = False) -> Dispatcher:
    def restore() -> list[int]:
        revived = list(runners.dead)
        runners.dead.clear()
        return revived

    return Dispatcher(runners, restore, lambda runners: None, RolloutConfig(), asynchronous)  # type: ignore[arg-type]


def request(number: int) -> EpisodeRequest:
    return EpisodeRequest((EpisodeTask("task", "clean", number),))


def numbers(runners: Runners) -> list[int]:
    """Which requests were handed out, in order."""
    return [one.episodes[0].seed for _, one in runners.seen]


class Stream:
    """An endless one; remembers how far it was read."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self) -> EpisodeRequest:
        self.read += 1
        return request(100 + self.read)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_round_is_answered_in_its_order(count: int) -> None:
    runners = Runners(count)
    replies = dispatcher_of(runners).collect([request(number) for number in range(7)], 1)
    asked = {one.ticket: one.episodes[0].seed for _, one in runners.seen}
    assert [asked[reply.ticket] for reply in replies] == list(range(7))
    assert sorted(numbers(runners)) == list(range(7))
    assert max(len(queue) for queue in runners.queues.values()) == 0


def test_a_dead_runners_request_is_done_by_another_once() -> None:
    runners = Runners(2)
    dispatcher = dispatcher_of(runners)
    runners.before_poll = lambda: runners.kill(1) if len(runners.seen) == 2 else None
    replies = dispatcher.collect([request(number) for number in range(4)], 1)
    assert len(replies) == 4
    assert dispatcher.counters.reissued == 1
    assert sorted(numbers(runners)) == [0, 0, 1, 2, 3]


def test_answers_under_other_weights_are_asked_for_again_in_a_round() -> None:
    runners = Runners(1)
    dispatcher = dispatcher_of(runners)
    runners.version = 0
    sent: list[Any] = []

    def send(to: Any) -> None:
        sent.append(to)
        runners.version = 1

    dispatcher._send_weights = send
    assert [reply.weights_version for reply in dispatcher.collect([request(0)], 1)] == [1]
    assert sent == [[1]]
    assert dispatcher.counters.stale == 1


def test_a_request_that_costs_every_runner_is_masked() -> None:
    runners = Runners(1)
    runners.before_poll = lambda: runners.kill(1) if runners.queues[1] else None
    dispatcher = dispatcher_of(runners)
    dispatcher._last_probe = -1e9
    (reply,) = dispatcher.collect([request(0)], 1)
    assert reply.lost
    assert [record.outcome for record in reply.episodes] == ["runner_lost"]
    assert numbers(runners) == MAX_ATTEMPTS * [0]


def test_a_stream_keeps_every_runner_busy_after_it_returns() -> None:
    runners, stream = Runners(2), Stream()
    replies = dispatcher_of(runners, asynchronous=True).gather(3, stream, lambda reply: True)
    assert len(replies) == 3
    assert [len(runners.queues[runner]) for runner in (1, 2)] == [STREAM_DEPTH, STREAM_DEPTH]
    assert stream.read == 4 + 2 * STREAM_DEPTH  # the fourth answer waits for the next call
    assert numbers(runners) == list(range(101, 101 + len(runners.seen)))


def test_stale_answers_are_dropped_counted_and_replaced() -> None:
    runners, stream = Runners(2), Stream()
    dispatcher = dispatcher_of(runners, asynchronous=True)
    dispatcher.gather(2, stream, lambda reply: True)
    left = 0

    def newer() -> None:
        nonlocal left
        left += 1
        runners.version = 2 if left > 1 else 1

    runners.before_poll = newer
    replies = dispatcher.gather(3, stream, lambda reply: reply.weights_version == 2)
    assert [reply.weights_version for reply in replies] == [2, 2, 2]
    assert dispatcher.counters.stale == 2


def test_a_round_goes_before_the_stream_and_leaves_it_whole() -> None:
    runners, stream = Runners(2), Stream()
    dispatcher = dispatcher_of(runners, asynchronous=True)
    first = dispatcher.gather(2, stream, lambda reply: True)
    rounds = dispatcher.collect([request(number) for number in range(3)], 1)
    rest = dispatcher.gather(4, stream, lambda reply: True)
    tickets = [reply.ticket for reply in [*first, *rounds, *rest]]
    assert len(set(tickets)) == 9
    streamed = [number for number in numbers(runners) if number > 100]
    assert streamed == list(range(101, 101 + len(streamed)))


def test_of_a_dead_runners_stream_only_what_had_begun_counts_as_an_attempt() -> None:
    runners, stream = Runners(1), Stream()
    dispatcher = dispatcher_of(runners, asynchronous=True)
    dispatcher._last_probe = -1e9
    runners.before_poll = lambda: runners.kill(1) if len(runners.seen) == STREAM_DEPTH else None
    dispatcher.gather(2, stream, lambda reply: True)
    assert dispatcher.counters.reissued == STREAM_DEPTH
    assert numbers(runners)[:4] == [101, 102, 101, 102]


def test_the_longest_queue_is_told_once() -> None:
    dispatcher = dispatcher_of(Runners(2))
    dispatcher.collect([request(number) for number in range(5)], 1)
    assert dispatcher.take_longest_queue() == 3
    assert dispatcher.take_longest_queue() == 0
