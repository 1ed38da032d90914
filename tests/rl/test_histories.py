"""Whoever plays an episode, or reads a recorded one, tells a backbone what came before a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.simulator import step_in_parts
from policies.backbones.door import History
from policies.catalogue import build_schedule
from policies.schedule import Schedule
from rl.experience.closed_loop import PlayRules, play
from rl.experience.records import EpisodeTask
from rl.experience.segments import Segment, history_of, observe_segments
from tests.gated_simulator import CHUNKS, GatedSimulator
from tests.gated_task import SPEC, GatedContext, GatedWAM
from tests.local_simulator import LocalSimulator

READER = replace(SPEC, history_chunks=2, history_stride=2)


class Remembering(GatedContext):
    """What it keeps of an episode is the number of its queries."""

    queries: list[int]

    def history(self, row: int) -> int:
        return self.queries[row]


class Historian(GatedWAM):
    """Writes down the histories that it is given."""

    def __init__(self, spec: Any = READER) -> None:
        super().__init__(spec)
        self.told: list[list[History]] = []

    def observe(
        self, observations: Sequence[Any], instructions: Sequence[str], histories: Sequence[History] = ()
    ) -> Remembering:
        self.told.append(list(histories))
        context = Remembering(super().observe(observations, instructions).joints)
        context.queries = [(one.kept or 0) + 1 for one in histories]
        return context


class Drifting(GatedSimulator):
    """Ends where the chunk ends, so that its observations tell the actions. A chunk may come in parts."""

    def __init__(self, chunks: int = 3) -> None:
        super().__init__(chunks=chunks * READER.action_horizon // READER.history_stride)

    def step_chunk(self, actions: Any, record: bool) -> Any:
        reply = super().step_chunk(actions, record)
        self._joints = np.asarray(actions[-1], np.float32)
        return replace(reply, observation=self._observation())


class Counting(GatedSimulator):
    """Writes down the lengths of the chunks that it is told to take."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def step_chunk(self, actions: Any, record: bool) -> Any:
        self.steps.append(len(actions))
        return super().step_chunk(actions, record)


def schedule() -> Schedule:
    return build_schedule("fixed-2", SPEC)


def episodes(count: int) -> list[EpisodeTask]:
    return [EpisodeTask("gated", "clean", seed) for seed in range(count)]


@pytest.mark.parametrize("overlap", [False, True])
def test_an_episode_that_is_played_tells_what_it_saw_and_did(overlap: bool) -> None:
    wam = Historian()
    simulators: Any = [LocalSimulator(Drifting())]
    records = play(wam, schedule(), simulators, episodes(2), rules=PlayRules(overlap=overlap))
    assert [len(record.updates) for record in records] == [3, 3]
    told = [one for batch in wam.told for one in batch]
    assert [len(one.chunks) for one in told] == [0, 1, 1] * 2  # a new episode starts anew
    assert [one.kept for one in told] == [None, 1, 2] * 2
    for first, second, third in (told[:3], told[3:]):
        assert second.first is third.first is first.first
        for one in (second, third):
            chunk = one.chunks[0]
            assert chunk.actions.shape == (READER.action_horizon, 14)
            np.testing.assert_array_equal(chunk.observations["joints"], chunk.actions[1::2])
    assert not np.array_equal(told[0].first["joints"], told[3].first["joints"])


def test_a_backbone_that_reads_no_history_is_told_none_and_costs_one_step_a_chunk() -> None:
    wam = Historian(SPEC)
    simulator = Counting()
    simulators: Any = [LocalSimulator(simulator)]
    play(wam, schedule(), simulators, episodes(1))
    assert wam.told == [[]] * CHUNKS
    assert simulator.steps == [SPEC.action_horizon] * CHUNKS


def test_rows_of_a_batch_have_histories_of_their_own() -> None:
    wam = Historian()
    simulators: Any = [LocalSimulator(Drifting(chunks)) for chunks in (1, 3)]
    play(wam, schedule(), simulators, episodes(4))
    lengths = [[one.kept or 0 for one in batch] for batch in wam.told]
    assert any(len(set(batch)) > 1 for batch in lengths)
    assert all(bool(one.chunks) == (one.kept is not None) for batch in wam.told for one in batch)


def test_a_chunk_in_parts_is_the_chunk() -> None:
    whole, parts = Drifting(), Drifting()
    actions = np.random.default_rng(0).normal(size=(4, 14)).astype(np.float32)
    for simulator in (whole, parts):
        simulator.reset(task="gated", mode="clean", seed=3)
    at_once, seen = step_in_parts(whole, actions, False, 0), step_in_parts(parts, actions, False, 1)
    assert at_once.passed == {}
    assert (seen.executed, seen.done) == (4, False)
    np.testing.assert_array_equal(seen.observation["joints"], at_once.observation["joints"])
    np.testing.assert_array_equal(seen.passed["joints"], actions)
    ending = Drifting(chunks=1)  # of two parts
    ending.reset(task="gated", mode="clean", seed=3)
    ended = step_in_parts(ending, actions, False, 1)
    assert (ended.executed, ended.done, len(ended.passed["joints"])) == (2, True, 2)


def recorded(length: int) -> dict[str, Any]:
    steps = np.arange(length, dtype=np.float32)
    return {"head": steps.astype(np.uint8)[:, None, None, None], "joints": np.repeat(steps[:, None], 14, axis=1)}


@pytest.mark.parametrize(
    ("length", "first", "chunks"), [(1, 0, 0), (4, 3, 0), (5, 0, 1), (7, 2, 1), (9, 0, 2), (30, 21, 2)]
)
def test_a_recorded_episode_is_cut_backwards_into_whole_chunks(length: int, first: int, chunks: int) -> None:
    """Chunks have four actions, and the backbone reads at most two of them."""
    history = history_of(READER, recorded(length))
    assert history.kept is None
    assert history.first["joints"][0] == history.first["head"].item() == first
    assert len(history.chunks) == chunks
    for number, chunk in enumerate(history.chunks):
        begin = first + 4 * number
        np.testing.assert_array_equal(chunk.actions[:, 0], begin + np.arange(1, 5))
        np.testing.assert_array_equal(chunk.observations["head"].ravel(), [begin + 2, begin + 4])


def test_segments_give_the_history_or_say_why_not() -> None:
    before = recorded(6)
    now = {name: values[-1] for name, values in before.items()}
    segment = Segment(
        now, "leave noise", np.zeros((4, 14), np.float32), np.ones(4, np.float32), "gated", "0", 5, before
    )
    wam = Historian()
    observe_segments(wam, [segment])
    assert len(wam.told[0][0].chunks) == 1
    with pytest.raises(ValueError, match=r"backbone gated reads .*Segment\.before"):
        observe_segments(wam, [replace(segment, before=None)])
    plain = Historian(SPEC)
    observe_segments(plain, [replace(segment, before=None)])
    assert plain.told == [[]]
