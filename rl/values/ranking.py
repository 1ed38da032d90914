"""How well a value expert ranks the initial noises of the same scene, by what really came of them.

The outcomes come from a file that says how whole episodes ended, a scene a row and a noise a column. The expert only
sees the first query of each: its initial noise and what is imagined from it.

Shapes: S scenes, N noises of each scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel

from configs.factories import resolve
from configs.planning import PlanConfig
from configs.schema import EnvConfig
from configs.stored import DamagedFile, read_json
from envs.process.owner import SimulatorProcess
from envs.simulator import SimulatorSpec
from policies.backbones.door import Context, FrozenWAM
from policies.planning.planned import Imagining
from policies.planning.scores import pooled, rate
from policies.planning.search import Draws, drawn_values, judged
from rl.experience.closed_loop import query_noise_seed
from rl.values.measures import auc_within

Array = npt.NDArray[np.float64]
Outcomes = npt.NDArray[np.bool_]


class NoiseOutcomes(BaseModel):
    """The content of a file of outcomes, such as `docs/results/noise_bound.json`."""

    what: str
    backbone_hash: str
    first_seed: int  # of the scenes; row i is the scene of this seed + i
    outcomes: dict[str, list[str]]  # by `<schedule>/<task>`: a row for each scene, a 1 for each noise that succeeded

    def of(self, name: str) -> Outcomes:
        """Return bool [S, N] of a schedule and task."""
        return np.array([[letter == "1" for letter in row] for row in self.outcomes[name]])


@dataclass(frozen=True)
class Ranking:
    """How the scores of a scene's noises agree with their outcomes."""

    scenes: int
    noises: int
    auc: float  # within scenes, over all pairs of a success and a failure of the same scene
    chosen: float  # the share of scenes in which the noise with the best score succeeds
    average: float  # the same of any noise
    oracle: float  # the share of scenes in which a noise succeeds

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read_outcomes(path: Path, backbone_hash: str) -> NoiseOutcomes:
    """Read outcomes. Raises `DamagedFile` for a file that is none, or one of another backbone."""
    fix = "Name a file like docs/results/noise_bound.json, or leave value.outcomes empty."
    found = read_json(path, NoiseOutcomes, fix)
    if found.backbone_hash != backbone_hash:
        raise DamagedFile(path, f"it is of backbone {found.backbone_hash}, not {backbone_hash}", fix)
    return found


def ranking(scores: Array, outcomes: Outcomes) -> Ranking:
    """Compare scores [S, N] with outcomes [S, N]."""
    best, (scenes, noises) = scores.argmax(axis=1), scores.shape
    return Ranking(
        scenes=scenes,
        noises=noises,
        auc=auc_within(list(zip(scores, outcomes, strict=True))),
        chosen=float(outcomes[np.arange(len(scores)), best].mean()),
        average=float(outcomes.mean()),
        oracle=float(outcomes.any(axis=1).mean()),
    )


def observe_scenes(wam: FrozenWAM, env: EnvConfig, task: str, mode: str, seeds: Sequence[int]) -> Context:
    """Encode the first observation of each scene. Raises `SimulatorFault` for a scene that cannot be set up."""
    spec: SimulatorSpec = resolve(env.simulator)(env)
    with SimulatorProcess.from_config(spec, env) as simulator:
        replies = [simulator.reset(task, mode, seed) for seed in seeds]
    return wam.observe([reply.observation for reply in replies], [reply.instruction for reply in replies])


def stream_seeds(seeds: Sequence[int], count: int) -> list[list[int]]:
    """Return the seeds of the first query's noise in `count` streams of each scene, [S][N]."""
    return [[query_noise_seed(seed, 0, (stream,)) for stream in range(count)] for seed in seeds]


@torch.no_grad()
def score_noises(wam: FrozenWAM, context: Context, noise_seeds: Sequence[Sequence[int]], config: PlanConfig) -> Array:
    """Rate initial noises, given by their seeds [S][N], as a planner with `config` does in its first round.

    `context` holds the observations of the S scenes. What else is drawn is that of each scene's first seed. Returns
    scores [S, N].
    """
    assert wam.spec.value is not None
    observed, each = wam.spec.observed_frames, len(noise_seeds[0])
    rows = torch.arange(len(noise_seeds)).repeat_interleave(each)
    x, _ = wam.initial_noise(context.select(rows), [seed for row in noise_seeds for seed in row])
    videos = x[:, :, observed:].unflatten(0, (len(noise_seeds), each))
    first = [row[0] for row in noise_seeds]
    judge, _ = Imagining.from_seeds(wam, context, first, config)
    draws = Draws(first, x.device)
    count = drawn_values(replace(config, videos=each))
    drawn = draws.values(0, (count, wam.spec.value.noise_dim)).unflatten(1, (-1, config.values))
    values = drawn.expand(-1, each, -1, -1)
    predicted = judged(judge, videos, values, config.chunk)
    ratings = rate(predicted, config.score, wam.spec.value.lowest, config.epsilon)
    return pooled(ratings, config.video_score).double().numpy()
