"""LingBot-VA after the first query of an episode: what it keeps, and what rows with other pasts make of one batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.pretraining import VAEConfig
from configs.schema import EnvConfig
from policies.backbones import load_wam
from policies.backbones.codecs import LatentCodec, build_vae
from policies.backbones.door import EVERYTHING, History, Output, Passed, Point
from policies.backbones.published.history import EpisodeMemory
from policies.backbones.published.shared_blocks import FrozenSharedBlocks, SharedContext
from policies.catalogue import build_schedule
from policies.walk import walk
from rl.experience.simulators import arms_of
from tests.policies.published.small_mixture import INSTRUCTIONS, observations, write_mixture

TEXTS = [*INSTRUCTIONS, INSTRUCTIONS[0]]
PARTS = ("video_flow", "pooled", "action_flow")


@pytest.fixture(scope="module")
def wam(tmp_path_factory: pytest.TempPathFactory) -> FrozenSharedBlocks:
    found = load_wam(write_mixture(tmp_path_factory.mktemp("history"), "lingbot-va"))
    assert isinstance(found, FrozenSharedBlocks)
    found.take_arms(arms_of(EnvConfig()))
    return found


def passed(wam: FrozenSharedBlocks, seed: int) -> Passed:
    """A chunk that slowly moves both arms, and pictures without any order."""
    seen = observations(wam.spec.action_horizon // wam.spec.history_stride, seed=seed)
    actions = np.linspace(seen[0]["joints"], seen[-1]["joints"], wam.spec.action_horizon, dtype=np.float32)
    return Passed(actions, {name: np.stack([one[name] for one in seen]) for name in seen[0]})


def episode(wam: FrozenSharedBlocks, chunks: int, seed: int = 0) -> History:
    return History(observations(1, seed)[0], tuple(passed(wam, 10 * seed + number) for number in range(chunks)))


def answer(wam: FrozenSharedBlocks, context: SharedContext, rows: list[int]) -> Output:
    """Ask at a point of which every row has its own noise and levels."""
    x, actions = wam.initial_noise(context, rows)
    levels = torch.tensor([[0.9, 0.4], [0.6, 0.9], [0.2, 0.5]])[rows]
    return wam.forward(context, Point(x, actions, levels, torch.tensor([0.7, 0.2, 0.4])[rows]), EVERYTHING)


def observe(wam: FrozenSharedBlocks, histories: list[History], rows: list[int]) -> SharedContext:
    seen = observations(3, seed=5)
    return wam.observe([seen[row] for row in rows], [TEXTS[row] for row in rows], [histories[row] for row in rows])


def same(found: Output, wanted: Output, rows: list[int], tolerance: float = 1e-4) -> None:
    for part in PARTS:
        torch.testing.assert_close(getattr(found, part), getattr(wanted, part)[rows], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("counts", [(0, 1, 2), (1, 3, 2)])
def test_a_row_does_not_depend_on_its_neighbours(wam: FrozenSharedBlocks, counts: tuple[int, ...]) -> None:
    """Rows of other lengths, and first queries, share a batch."""
    histories = [episode(wam, count, seed) for seed, count in enumerate(counts)]
    context = observe(wam, histories, [0, 1, 2])
    together = answer(wam, context, [0, 1, 2])
    for row in range(3):
        same(answer(wam, observe(wam, histories, [row]), [row]), together, [row])
        same(answer(wam, context.select(torch.tensor([row])), [row]), together, [row])
        assert context.select(torch.tensor([row])).history(0) is context.history(row)
    twice = context.select(torch.tensor([2, 1, 1])).select(torch.tensor([1, 0]))
    same(answer(wam, twice, [1, 2]), together, [1, 2])


def test_an_empty_history_gives_exactly_the_first_query(wam: FrozenSharedBlocks) -> None:
    histories = [episode(wam, 0, seed) for seed in range(3)]
    first = observe(wam, histories, [0, 1, 2])
    assert [first.history(row) for row in range(3)] == [None] * 3
    plain = wam.observe(observations(3, seed=5), TEXTS)
    same(answer(wam, first, [0, 1, 2]), answer(wam, plain, [0, 1, 2]), [0, 1, 2], tolerance=0)


def test_what_is_kept_and_a_chunk_are_the_whole_history(wam: FrozenSharedBlocks) -> None:
    """An episode may be told at once, or chunk by chunk with what was kept; a kept value is never changed."""
    whole = episode(wam, 3)
    kept: list[EpisodeMemory | None] = [None]
    for chunk in whole.chunks:
        kept.append(observe(wam, [History(whole.first, (chunk,), kept[-1])], [0]).history(0))
    assert [(len(one.chunks), one.frames) for one in kept if one] == [(1, 3), (2, 5), (3, 7)]
    again = observe(wam, [dataclasses.replace(whole, chunks=(), kept=kept[-1])], [0])
    same(answer(wam, again, [0]), answer(wam, observe(wam, [whole], [0]), [0]), [0], tolerance=0)


def test_the_order_of_queries_changes_nothing(wam: FrozenSharedBlocks) -> None:
    """A replica answers other episodes in between, and the first one again as if it were new."""
    one, other = episode(wam, 2), episode(wam, 1, seed=1)
    first = answer(wam, observe(wam, [one], [0]), [0])
    answer(wam, observe(wam, [other], [0]), [0])
    same(answer(wam, observe(wam, [one], [0]), [0]), first, [0], tolerance=0)


def test_every_part_of_a_history_is_read(wam: FrozenSharedBlocks) -> None:
    whole = episode(wam, 2)
    flows = answer(wam, observe(wam, [whole], [0]), [0])
    chunk = whole.chunks[0]
    darker = {**chunk.observations, "left_wrist": chunk.observations["left_wrist"] // 2}
    others = {
        "the first picture": dataclasses.replace(
            whole, first=observations(1, seed=7)[0] | {"joints": whole.first["joints"]}
        ),
        "actions": dataclasses.replace(
            whole, chunks=(dataclasses.replace(chunk, actions=chunk.actions * 0.9), whole.chunks[1])
        ),
        "a camera": dataclasses.replace(
            whole, chunks=(dataclasses.replace(chunk, observations=darker), whole.chunks[1])
        ),
        "order": dataclasses.replace(whole, chunks=whole.chunks[::-1]),
        "length": dataclasses.replace(whole, chunks=whole.chunks[1:]),
    }
    for name, other in others.items():
        found = answer(wam, observe(wam, [other], [0]), [0])
        assert not torch.allclose(found.video_flow, flows.video_flow, atol=1e-4), name
        assert not torch.allclose(found.action_flow, flows.action_flow, atol=1e-4), name


def test_only_a_first_query_reads_its_observed_frame(wam: FrozenSharedBlocks) -> None:
    context = observe(wam, [episode(wam, count) for count in (0, 1, 2)], [0, 1, 2])
    moved = dataclasses.replace(context, observed=context.observed + 1)
    before, after = answer(wam, context, [0, 1, 2]), answer(wam, moved, [0, 1, 2])
    assert not torch.allclose(after.video_flow[0], before.video_flow[0], atol=1e-3)
    torch.testing.assert_close(after.video_flow[1:], before.video_flow[1:], rtol=0, atol=0)
    torch.testing.assert_close(after.action_flow[1:], before.action_flow[1:], rtol=0, atol=0)


def test_the_window_drops_the_oldest_chunk(wam: FrozenSharedBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is not read any more; positions go on, and what was kept beside it stays as it was."""
    whole = episode(wam, 3)
    all_three = observe(wam, [whole], [0])
    monkeypatch.setattr(wam, "spec", dataclasses.replace(wam.spec, history_chunks=2))
    context = observe(wam, [whole], [0])
    long, short = all_three.history(0), context.history(0)
    assert long is not None
    assert short is not None
    assert (len(long.chunks), len(short.chunks), short.frames) == (3, 2, long.frames)
    newest = dataclasses.replace(long, chunks=long.chunks[1:])
    for run in range(2):
        torch.testing.assert_close(short.keys_values(run), newest.keys_values(run), rtol=0, atol=0)
    found, wanted = answer(wam, context, [0]), answer(wam, all_three, [0])
    assert not torch.allclose(found.video_flow, wanted.video_flow, atol=1e-4)


def test_a_walk_after_a_history_moves_the_tools_from_the_first_frame(wam: FrozenSharedBlocks) -> None:
    """The same numbers mean other joints where the episode began elsewhere."""
    histories = [episode(wam, 1, seed) for seed in (0, 0, 0)]
    histories[1] = dataclasses.replace(
        histories[1], first=histories[1].first | {"joints": np.full(14, 0.1, np.float32)}
    )
    context = observe(wam, histories, [0, 1, 2])
    batch = walk(wam, context, build_schedule("fixed-2", wam.spec), [1, 2, 3])
    assert np.isfinite(batch.actions).all()
    here = dataclasses.replace(context, joints=context.joints[:1].expand(3, -1))
    actions = wam.initial_noise(context, [1, 1, 1])[1]
    chunks = wam.finish_actions(here, actions)
    np.testing.assert_array_equal(chunks[0], chunks[2])
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-2


def test_a_chunk_that_was_not_carried_out_whole_is_refused(wam: FrozenSharedBlocks) -> None:
    whole = episode(wam, 1)
    half = dataclasses.replace(whole.chunks[0], actions=whole.chunks[0].actions[:3])
    with pytest.raises(ValueError, match=r"history has 3 actions.*have 8"):
        observe(wam, [dataclasses.replace(whole, chunks=(half,))], [0])


@pytest.mark.parametrize("cuts", [(9,), (1, 9), (5, 9)])
def test_a_video_may_be_encoded_in_parts(cuts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    codec = LatentCodec(build_vae(VAEConfig(base_dim=4)), torch.zeros(48), torch.ones(48))
    video = np.random.default_rng(0).integers(0, 256, (2, 9, 32, 32, 3), dtype=np.uint8)
    parts: list[Tensor] = []
    stream, start = None, 0
    for cut in cuts:
        latents, stream = codec.encode_on(video[:, start:cut], stream)
        parts.append(latents)
        start = cut
    torch.testing.assert_close(torch.cat(parts, dim=2), codec.encode(video), rtol=1e-5, atol=1e-5)
