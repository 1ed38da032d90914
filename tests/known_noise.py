"""An analytic backbone and value expert on which the best initial noise is known (tests only).

A walk leaves the latents where its noise put them. The true return of a future falls with its squared distance from one
noise, BEST, and so does the precision of the action that is read from it. The value expert knows that return, and
spreads its predictions the less, the closer the first number of a value noise is to BEST_VALUE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from configs.schema import WAMConfig
from policies.backbones.door import Output, Point, ValueSpec, WAMSpec, Want
from tests.analytic import SPEC, AnalyticContext, AnalyticWAM, erroneous_chunk

HORIZON, NOISE_DIM = 4, 2
KNOWN = replace(SPEC, latent_grid=(1, 2), weights_hash="known-noise", value=ValueSpec(NOISE_DIM, HORIZON, lowest=-1.0))
BEST = torch.tensor([0.9, -1.1, 0.4, -0.7, 1.2, 0.3, -0.8, 1.0]).reshape(2, 2, 1, 2)  # [C, F, h, w]
BEST_VALUE = 0.5
WIDTH = 8.0  # of the return, as a squared distance
SPREAD = torch.tensor([1.0, -1.0, 1.0, -1.0])
MOST_ERROR = 0.5


def true_return(noise: Tensor) -> Tensor:
    """The return of noises [..., C, F, h, w]: 1 at BEST, and towards 0 away from it."""
    return torch.exp(-((noise - BEST.to(noise)) ** 2).sum(dim=(-4, -3, -2, -1)) / WIDTH)


class KnownNoiseWAM(AnalyticWAM):
    """A `ValueWAM`. It counts the rows of all video forwards, and notes the levels at which values were asked for."""

    def __init__(self, spec: WAMSpec = KNOWN) -> None:
        super().__init__(spec)
        self.scored_at: list[float] = []
        self.largest_batch = 0

    def initial_noise(self, context: AnalyticContext, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        shape = (2, self.spec.latent_frames, *self.spec.latent_grid)
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        x[:, :, 0] = 0.0
        generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
        chunk = (self.spec.action_horizon, self.spec.action_dim)
        return x, torch.stack([torch.randn(chunk, generator=generator) for generator in generators])

    def forward(self, context: AnalyticContext, point: Point, wants: Want, memory: Tensor | None = None) -> Output:
        output = Output(memory=memory)
        if memory is None:
            self.forward_rows += len(context) * bool(wants & ~Want.MEMORY)
            self.largest_batch = max(self.largest_batch, len(context))
            output.video_flow = torch.zeros_like(point.x)
            output.pooled = self._kinds[context.fine.long()]
            output.memory = true_return(point.x[:, :, 1:])[:, None]
        if Want.ACTION_FLOW in wants:
            output.action_flow = self._action_flow(context, output.memory, point)
        return output

    def _action_flow(self, context: AnalyticContext, memory: Tensor, point: Point) -> Tensor:
        error = MOST_ERROR * (1 - memory[:, 0])
        target = torch.from_numpy(erroneous_chunk(context.joints.numpy(), error.double().numpy()))
        return (point.actions - target) / point.sigma_action[:, None, None].double()

    def score(self, context: AnalyticContext, point: Point, noises: Tensor) -> Tensor:
        self.forward_rows += len(context)
        self.largest_batch = max(self.largest_batch, len(context))
        self.scored_at.append(float(point.sigma_video.mean()))
        mean = true_return(point.x[:, :, 1:])[:, None, None]
        spread = 0.2 + 0.05 * (noises[..., :1] - BEST_VALUE) ** 2
        return mean + spread * SPREAD


def describe(config: WAMConfig) -> WAMSpec:
    """With `load`, what makes this module a family that `wam.backbone` may name."""
    return KNOWN


def load(config: WAMConfig) -> KnownNoiseWAM:
    return KnownNoiseWAM()
