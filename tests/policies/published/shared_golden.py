"""The inputs for which LingBot-VA's own code was asked, with the weights of `small_mixture.networks`.

`lingbot_golden.json` holds what it answered in float32, with its guidance. They are numbers only; our backbone, loaded
from a file as the authors save it, has to give the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from policies.backbones.door import EVERYTHING, Point
from policies.backbones.published.history import EpisodeMemory
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.shared_blocks import FrozenSharedBlocks
from policies.backbones.wan import select_rows
from tests.policies.published.mixture_golden import BATCH, CASES, Inputs
from tests.policies.published.small_mixture import INSTRUCTIONS

KEYS = ("lingbot-va", "lingbot-va-libero")


def point_of(key: str, case: str) -> Point:
    """The latents, actions and noise levels of a case. A third future frame has the level of the first."""
    inputs = Inputs.of(key)
    levels, sigma_action = (torch.tensor(values) for values in CASES[case])
    future = torch.arange(inputs.x.shape[2] - 1) % levels.shape[1]
    return Point(inputs.x, inputs.actions, levels[:, future], sigma_action)


HISTORIES = {"no chunk before": 0, "one chunk before": 1, "two chunks before": 2}


def chunks_of(key: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """The clean latents [B, C, f, h, w] and the actions [B, N, A] of the chunks before a query.

    The first chunk begins with the episode's first frame, whose actions are 0.
    """
    size, numbers, generator = LAYOUTS.get(key).sizes["tiny"], LAYOUTS.get(key).numbers, Generator().manual_seed(2)
    chunks = []
    for number in range(count):
        frames = size.frames if number == 0 else size.frames - 1
        latents = torch.randn(BATCH, size.channels, frames, *size.grid, generator=generator)
        actions = torch.randn(BATCH, size.horizon, numbers.action_dim, generator=generator)
        begin = size.horizon // (size.frames - 1) if number == 0 else 0
        chunks.append((latents, torch.nn.functional.pad(actions, (0, 0, begin, 0))))
    return chunks


def answers(wam: FrozenSharedBlocks, point: Point, chunks: Sequence[tuple[Tensor, Tensor]] = ()) -> dict[str, Tensor]:
    """Ask our backbone, after chunks that both rows have behind them. The keys and values are [layers, B, L, H K]."""
    context = wam.observe_latents(point.x[:, :, :1], torch.zeros(len(point), 14), INSTRUCTIONS)
    memories: list[EpisodeMemory | None] = [None] * len(point)
    for latents, actions in chunks:
        for row in range(len(point)):
            before = memories[row] or EpisodeMemory((), 0, {}, torch.zeros(14))
            text = select_rows(context.text, torch.tensor([row]))
            memories[row] = wam.remember(before, latents[row : row + 1], actions[row : row + 1], text)
    output = wam.forward(wam.after(context, memories), point, EVERYTHING)
    return {
        "video": output.video_flow,
        "pooled": output.pooled,
        "keys": torch.stack([key for key, _ in output.memory]).flatten(3),
        "values": torch.stack([value for _, value in output.memory]).flatten(3),
        "action": output.action_flow,
    }
