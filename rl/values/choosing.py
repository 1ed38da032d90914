"""What a planner does at held-out observations: its scores by round, and the futures that it prefers and rejects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from configs.planning import PlanConfig
from policies.backbones.door import Context, FrozenWAM
from policies.planning.planned import searched
from policies.schedule import Schedule
from policies.walk import walk
from rl.values.ranking import score_noises

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rounds:
    """The scores of a search by round, averaged over observations."""

    observations: int
    mean: list[float]  # over the candidates of a round
    best: list[float]  # the best candidate of a round

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """The futures from the noises with the best and the worst score at one observation."""

    scores: npt.NDArray[np.float64]  # [N]
    chosen: Pictures  # [T, H, W, 3], the head camera
    rejected: Pictures


@torch.no_grad()
def scores_by_round(wam: FrozenWAM, context: Context, seeds: Sequence[int], config: PlanConfig) -> Rounds:
    """Search at every observation of `context`, with the noise of `seeds`."""
    _, found = searched(wam, context, seeds, config)
    mean, best = found.scores.mean(dim=(0, 2)), found.scores.amax(dim=2).mean(dim=0)
    return Rounds(len(seeds), mean.tolist(), best.tolist())


def choices(
    wam: FrozenWAM, context: Context, noise_seeds: Sequence[Sequence[int]], schedule: Schedule, config: PlanConfig
) -> list[Choice]:
    """Rate the noises [S][N] of every observation, and walk from the best and the worst under `schedule`."""
    scores = score_noises(wam, context, noise_seeds, config)
    films = []
    for places in (scores.argmax(axis=1).tolist(), scores.argmin(axis=1).tolist()):
        seeds = [row[place] for row, place in zip(noise_seeds, places, strict=True)]
        films.append(wam.imagined_pictures(walk(wam, context, schedule, seeds).end.x)["head"])
    return [Choice(*one) for one in zip(scores, *films, strict=True)]
