"""Latent planning as a pure, batched search (WAV, Algorithm 1 and Equations 4 and 5). It knows no backbone.

Every row searches alone. In each round it draws M video noises and, for each of them, N value noises. A judge predicts
a return for every pair. The score of a video is that of the best of its own N predictions. Both distributions are
fitted again: that of the video noises to the best K1 videos, that of the value noises to the best K2 of all M N pairs.

Shapes: B rows, M videos, N values, H returns of a prediction, V numbers of a value noise, *D a video noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from configs.planning import PlanConfig
from policies.planning.scores import pooled, rate
from policies.streams import normal_streams

FIRST_STREAM = 1000
"""The streams of the draws: two for each round from here on, and two for the final draw."""


class Judge(Protocol):
    """Predicts returns."""

    def __call__(self, rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
        """Return float32 [c, N, H] for c candidates: `rows` int64 [c], `videos` [c, *D], `values` [c, N, V]."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution for each row, with independent coordinates."""

    mean: Tensor  # float32 [B, *D]
    std: Tensor  # float32 [B, *D]

    def at(self, standard: Tensor) -> Tensor:
        """Turn standard normal draws [B, count, *D] into draws from this distribution."""
        return self.mean[:, None] + self.std[:, None] * standard

    def refitted(self, samples: Tensor, ratings: Tensor, share: float, config: PlanConfig) -> Gaussian:
        """Fit to the elites among `samples` [B, count, *D] by their `ratings` [B, count] (Equations 4 and 5).

        Elites that are rated minus infinity do not count. A row that has no others keeps its distribution.
        """
        count = elites_of(ratings.shape[1], share)
        top, chosen = ratings.topk(count, dim=1)
        elites = samples[torch.arange(len(samples), device=samples.device)[:, None], chosen]
        one_a_row = (-1, *[1] * (samples.ndim - 2))
        counted = (top > -torch.inf).to(samples.dtype)
        number = counted.sum(dim=1).clamp_min(1.0).reshape(one_a_row)
        weight = counted.reshape(*counted.shape, *[1] * (samples.ndim - 2))
        mean = (weight * elites).sum(dim=1) / number
        std = config.std_decay * ((weight * (elites - mean[:, None]) ** 2).sum(dim=1) / number).sqrt()
        alpha, beta = config.mean_smoothing, config.std_smoothing
        if config.smoothing_weighs == "old":
            alpha, beta = 1 - alpha, 1 - beta
        found = (counted.sum(dim=1) > 0).reshape(one_a_row)
        return Gaussian(
            torch.where(found, alpha * mean + (1 - alpha) * self.mean, self.mean),
            torch.where(found, beta * std + (1 - beta) * self.std, self.std).clamp_min(config.least_std),
        )


def elites_of(count: int, share: float) -> int:
    """Return the number of elites among `count` samples. A single one would have no spread, so two are the least."""
    return min(count, max(2, math.ceil(share * count)))


@dataclass(frozen=True)
class Draws:
    """Standard normal numbers. Those of row i depend on seeds[i] and the round alone, never on the batch."""

    seeds: Sequence[int]
    device: torch.device

    def videos(self, number: int, shape: tuple[int, ...]) -> Tensor:
        """Return float32 [B, *shape] for the videos of a round, counted from 0."""
        return self._normal(shape, FIRST_STREAM + 2 * number)

    def values(self, number: int, shape: tuple[int, ...]) -> Tensor:
        """Return float32 [B, *shape] for the values of a round, counted from 0."""
        return self._normal(shape, FIRST_STREAM + 2 * number + 1)

    def _normal(self, shape: tuple[int, ...], stream: int) -> Tensor:
        return torch.from_numpy(normal_streams(self.seeds, shape, stream)).float().to(self.device)


@dataclass(frozen=True)
class Found:
    """The outcome of a search."""

    video: Tensor  # float32 [B, *D]: the noise from which the walk starts
    value: Tensor  # float32 [B, V]: the noise from which a value is denoised, for an action that reads values
    best: Tensor  # float32 [B]: the score of the best candidate; minus infinity if no prediction was finite
    scores: Tensor  # float32 [B, K, M]: the score of every candidate
    videos: Gaussian  # the last distributions
    values: Gaussian


def search(judge: Judge, first: Tensor, value_dim: int, draws: Draws, config: PlanConfig, lowest: float = 0.0) -> Found:
    """Search for the video noise with the best score.

    `first`, float32 [B, *D], holds the noise from which each row would start without planning. It is the first
    candidate of the first round, so that the best candidate is never rated below it, and a search that finds nothing
    finite returns it, with the first value noise. `lowest` is the lowest return that the judge knows.
    """
    rows, shape = len(first), tuple(first.shape[1:])
    videos = Gaussian(torch.zeros_like(first), torch.ones_like(first))
    values = Gaussian(first.new_zeros(rows, value_dim), first.new_ones(rows, value_dim))
    best = first.new_full((rows,), -torch.inf)
    best_video = first
    scores = []
    every = torch.arange(rows, device=first.device)
    for number in range(config.rounds):
        x = videos.at(draws.videos(number, (config.videos, *shape)))
        z = values.at(draws.values(number, (drawn_values(config), value_dim)))
        z = z.unflatten(1, (-1, config.values)).expand(-1, config.videos, -1, -1)
        if number == 0:
            x[:, 0], best_value = first, z[:, 0, 0]
        ratings = rate(judged(judge, x, z, config.chunk), config.score, lowest, config.epsilon)  # [B, M, N]
        score, pair = pooled(ratings, config.video_score), ratings.argmax(dim=2)
        scores.append(score)
        top, chosen = score.max(dim=1)
        better = top > best
        best = torch.where(better, top, best)
        best_video = torch.where(_as(better, first), x[every, chosen], best_video)
        best_value = torch.where(better[:, None], z[every, chosen, pair[every, chosen]], best_value)
        videos = videos.refitted(x, score, config.elite_videos, config)
        values = values.refitted(z.flatten(1, 2), ratings.flatten(1), config.elite_values, config)
    if config.final == "draw":
        found = best > -torch.inf
        video = videos.at(draws.videos(config.rounds, (1, *shape)))[:, 0]
        best_video = torch.where(_as(found, first), video, first)
        value = values.at(draws.values(config.rounds, (1, value_dim)))[:, 0]
        best_value = torch.where(found[:, None], value, best_value)
    return Found(best_video, best_value, best, torch.stack(scores, dim=1), videos, values)


def drawn_values(config: PlanConfig) -> int:
    """Return the number of value noises of a row and round. If scores are means, all videos share them."""
    return config.values * (config.videos if config.video_score == "best" else 1)


def judged(judge: Judge, videos: Tensor, values: Tensor, chunk: int) -> Tensor:
    """Return the predictions [B, M, N, H] for `videos` [B, M, *D] and `values` [B, M, N, V].

    The candidates of all rows form one list, row after row, and go to the judge in chunks of at most `chunk`. Each goes
    there with its own value noises, and its predictions come back to its own place.
    """
    count, each = videos.shape[:2]
    rows = torch.arange(count, device=videos.device).repeat_interleave(each)
    flat, noises = videos.flatten(0, 1), values.flatten(0, 1)
    parts = [
        judge(rows[start : start + chunk], flat[start : start + chunk], noises[start : start + chunk])
        for start in range(0, len(rows), chunk)
    ]
    return torch.cat(parts).float().unflatten(0, (count, each))


def _as(rows: Tensor, like: Tensor) -> Tensor:
    """Return bool [B] in a shape that selects rows of `like` [B, *D]."""
    return rows.reshape(-1, *[1] * (like.ndim - 1))
