"""The analytic backbone at forks (tests only): two ways lead on, their mean is a crash, and noise chooses between them.

In *fine* states a walk with few updates ends between both ways, as the mean of two modes does. With more updates it
commits to the way that its noise chose. In *coarse* states nothing matters. A demonstration takes one way of a fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config, WAMConfig
from policies.backbones.door import Output, Point, WAMSpec, Want
from rl.experience.segments import Segment
from tests.analytic import SPEC, AnalyticContext, AnalyticWAM, erroneous_chunk, make_segments

TWO_WAYS = replace(SPEC, weights_hash="two-ways")
WIDTH = 1.0  # the joint error between a way and the mean of both
COARSE = 0.1  # the error in a coarse state, whatever the walk


def commitment(sigma: Tensor, deviation: Tensor) -> Tensor:
    """How far a walk that stopped at `sigma` is on its way, in [0, 1]. One jump integrates badly and stays between."""
    return ((0.3 - sigma) / 0.25).clamp(0, 1) * ((1 - deviation) / 0.35).clamp(0, 1)


class TwoWaysWAM(AnalyticWAM):
    """Channel 1 of the latents holds the way that the noise chose, -1 or 1. The memory has it as a third column."""

    def __init__(self) -> None:
        super().__init__(TWO_WAYS)

    def initial_noise(self, context: AnalyticContext, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, actions = super().initial_noise(context, seeds)
        x[:, 1, 1:] = x[:, 1, 1:2].sign()
        return x, actions

    def forward(self, context: AnalyticContext, point: Point, wants: Want, memory: Tensor | None = None) -> Output:
        way = point.x[:, 1, 1, 0, 0]
        output = super().forward(context, point, wants & ~Want.ACTION_FLOW, memory)
        if memory is None:
            output.video_flow[:, 1] = 0
            output.memory = torch.cat([output.memory, way[:, None]], dim=1)
        if Want.ACTION_FLOW in wants:
            output.action_flow = self._action_flow(context, output.memory, point)
        return output

    def _action_flow(self, context: AnalyticContext, memory: Tensor, point: Point) -> Tensor:
        sigma, deviation, way = memory.unbind(1)
        error = torch.where(context.fine, way * WIDTH * commitment(sigma, deviation.abs()), COARSE)
        target = torch.from_numpy(erroneous_chunk(context.joints.numpy(), error.double().numpy()))
        return (point.actions - target) / point.sigma_action[:, None, None].double()


def describe(config: WAMConfig) -> WAMSpec:
    """With `load`, what makes this module a family that `wam.backbone` may name."""
    return TWO_WAYS


def load(config: WAMConfig) -> TwoWaysWAM:
    return TwoWaysWAM()


def load_segments(config: Config, split: str, horizon: int) -> list[Segment]:
    """What `demonstrations.segments` may name. Demonstrations take both ways equally often."""
    segments = make_segments(64, seed=("train", "validation", "test").index(split))
    for number, segment in enumerate(segments):
        if segment.task == "fine":
            way = np.float64(WIDTH if number % 4 == 1 else -WIDTH)
            chunk = erroneous_chunk(segment.observation["joints"].astype(np.float64), way).astype(np.float32)
            segments[number] = replace(segment, chunk=chunk)
    return segments
