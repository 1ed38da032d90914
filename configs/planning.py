"""The settings of latent planning (WAV 4.3), and the names of planners. A name is `<schedule>+<planner>`.

The planners are `plan`, which searches as the settings say; `plan-3-8` or `plan-3-8-2`, with these rounds, videos and
values instead; `best-of`, the best of as many noises as `plan` looks at, without refitting; `best-of-8`, the best of
eight; and `none`. Comments give sources of numbers: the paper (P), its authors' code (A) or our choice (C).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from configs.fields import Problem, problem_of, setting

PLUS = "+"
NO_PLANNER = "none"
_COUNT = r"([1-9]\d{0,4})"
_PLAN = re.compile(rf"plan(?:-{_COUNT}-{_COUNT}(?:-{_COUNT})?)?")
_BEST_OF = re.compile(rf"best-of(?:-{_COUNT})?")
PLANNERS = "plan[-<rounds>-<videos>[-<values>]], best-of[-<videos>], none"


@dataclass
class PlanConfig:
    """The search for the initial noise of a walk. Every round costs videos x depth forwards of each observation."""

    training: str = (
        NO_PLANNER  # the planner in front of the schedule while it is trained, such as `plan` or `best-of-8`
    )
    rounds: int = setting(3, at_least=1, at_most=1000)  # P: K
    videos: int = setting(8, at_least=1, at_most=100_000)  # M. A: 8, and 30 in the earlier code
    values: int = setting(2, at_least=1, at_most=10_000)  # N, for each video. C; A: 1, and 5 in the earlier code
    # The shares of the videos and of all values that are elites. At least two are, because one alone has no spread.
    elite_videos: float = setting(0.25, above=0, at_most=1)  # K1 / M. A
    elite_values: float = setting(0.25, above=0, at_most=1)  # K2 / (M N). A
    mean_smoothing: float = setting(0.9, at_least=0, at_most=1)  # alpha. A
    std_smoothing: float = setting(0.5, at_least=0, at_most=1)  # beta. C; A: 0.9
    # The elites' standard deviation is multiplied by it. P names such a decay and no number; C: none, A: 0.5.
    std_decay: float = setting(1.0, above=0, at_most=1)
    # What alpha and beta weigh. P: the new value. A: the old one, so that .9 hardly moves.
    smoothing_weighs: str = setting("new", choices=("new", "old"))
    least_std: float = setting(0.05, at_least=0)  # the floor of every standard deviation. A
    # What rates a predicted return. P: `ratio`, mean / standard deviation. It prefers noise where means are negative.
    # C: `shifted`, the same of the returns above the lowest that the value expert knows. `mean`: the mean alone.
    score: str = setting("shifted", choices=("shifted", "ratio", "mean"))
    # The score of a video, of the ratings of its values. P: `best`, which prefers lucky value noises. C: `mean`, over
    # value noises that all videos of a row and round share, so that only the videos differ.
    video_score: str = setting("best", choices=("best", "mean"))
    epsilon: float = setting(1e-6, above=0)  # added to the standard deviation. A
    # Where the walk starts. P: at a draw from the last distributions. `best`: at the best candidate of all rounds.
    final: str = setting("draw", choices=("draw", "best"))
    # The forwards of a candidate. 1: it is rated as it was drawn, at noise level 1 (A, the earlier code). n: it is
    # rated after n - 1 steps on a grid of `steps`.
    depth: int = setting(1, at_least=1, at_most=1000)
    steps: int = setting(10, at_least=1, at_most=1000)
    chunk: int = setting(64, at_least=1, free=True)  # the candidates of all rows that are in memory together

    def conflicts(self) -> Iterator[Problem]:
        if self.depth > self.steps + 1:
            fix = f"Use at most {self.steps + 1}, or more steps."
            yield Problem("depth", f"{self.depth} forwards on a grid of {self.steps} steps", fix)
        try:
            planner_settings(self.training, self)
        except ValueError as error:
            yield Problem("training", str(error), "Correct the name.")


def split_planner(name: str) -> tuple[str, str]:
    """Split `<schedule>+<planner>` into both. A name without a planner has the planner `none`."""
    schedule, plus, planner = name.partition(PLUS)
    return schedule, planner if plus else NO_PLANNER


def with_planner(schedule: str, planner: str) -> str:
    """Return the name of a schedule behind a planner."""
    return schedule if planner == NO_PLANNER else f"{schedule}{PLUS}{planner}"


def planner_settings(planner: str, settings: PlanConfig) -> PlanConfig | None:
    """Return the settings of the search that a planner's name stands for; None for `none`.

    Raises ValueError, which lists the known names, for any other name, and for numbers that `plan` does not allow.
    """
    if planner == NO_PLANNER:
        return None
    if found := _PLAN.fullmatch(planner):
        named = dict(zip(("rounds", "videos", "values"), found.groups(), strict=True))
        changed: dict[str, Any] = {key: int(count) for key, count in named.items() if count}
    elif found := _BEST_OF.fullmatch(planner):
        changed = {"rounds": 1, "videos": int(found[1] or settings.rounds * settings.videos), "final": "best"}
    else:
        raise ValueError(f"{planner!r} is no planner: use one of {PLANNERS}")
    chosen = replace(settings, **changed)
    for key in changed:
        if problem := problem_of(chosen, key):
            raise ValueError(f"{planner!r} asks for too much: plan.{problem}")
    return chosen
