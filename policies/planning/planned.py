"""A planner in front of a schedule: the search chooses the initial noise, and the schedule walks from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor

from configs.planning import PlanConfig, split_planner, with_planner
from policies.backbones.door import Context, FrozenWAM, Point, ValueWAM, WAMSpec, Want
from policies.backbones.flow import shifted_grid
from policies.imagining import LeavesTheVideo
from policies.planning.search import Draws, Found, search
from policies.schedule import ChosenStart, Course, Schedule, WalkStart
from policies.solvers import euler
from policies.value_noise import with_value_noise


@dataclass(frozen=True)
class Planned:
    """A schedule behind a planner. It is a schedule itself: `policies.walk` asks it for the start of every walk."""

    schedule: Schedule
    planner: str  # the name of the planner, such as `plan`
    config: PlanConfig  # the settings that this name stands for

    @property
    def name(self) -> str:
        return with_planner(self.schedule.name, self.planner)

    @property
    def video_steps(self) -> int:
        """The steps of the whole grid of the video, as `policies.imagining.LeavesTheVideo` has them."""
        return self.schedule.video_steps if isinstance(self.schedule, LeavesTheVideo) else 0

    def check(self, spec: WAMSpec) -> None:
        """Raise ValueError if the backbone has no value expert, or if the schedule cannot walk on it."""
        check_value(self.name, spec)
        self.schedule.check(spec)

    def start(self, start: WalkStart) -> Course:
        return self.schedule.start(start)

    @torch.no_grad()
    def choose_start(self, wam: FrozenWAM, context: Context, noise_seeds: Sequence[int]) -> ChosenStart:
        """Search the initial noise of video and value of every row. The noise of the action stays that of its seed.

        Row i depends on (context row i, noise_seeds[i]) alone. Raises ValueError as `check` does.
        """
        self.check(wam.spec)
        assert wam.spec.value is not None
        judge, found = searched(wam, context, noise_seeds, self.config)
        rated = self.config.depth - 1 + wam.spec.value.forwards(self.config.values)
        forwards = self.config.rounds * self.config.videos * rated
        return ChosenStart(
            torch.cat([judge.observed, found.video.to(judge.observed.dtype)], dim=2),
            judge.actions,
            torch.full((len(noise_seeds),), forwards),
            found.scores,
            found.value,
        )


def check_value(name: str, spec: WAMSpec) -> None:
    """Raise ValueError if a backbone has no value expert, which the planner of the schedule `name` needs."""
    if spec.value is None:
        raise ValueError(
            f"{name!r} rates imagined futures, but backbone {spec.weights_hash} has no value expert: use a backbone "
            f"that has one, or {split_planner(name)[0]!r} without a planner"
        )


@dataclass(frozen=True)
class Imagining:
    """The judge of a backbone: it walks each candidate's video a few steps, and asks the value expert there."""

    wam: ValueWAM
    context: Context
    observed: Tensor  # [B, C, F_all - F, h, w]
    actions: Tensor  # [B, T, A]: the initial noise of the actions
    config: PlanConfig

    @classmethod
    def from_seeds(
        cls, wam: FrozenWAM, context: Context, noise_seeds: Sequence[int], config: PlanConfig
    ) -> tuple[Self, Tensor]:
        """Return the judge of the rows of `context`, and the video noise [B, C, F, h, w] of their seeds.

        Actions, and values if the video or the action reads them, start from the noise of the seeds too.
        """
        x, actions = wam.initial_noise(context, noise_seeds)
        context, actions = with_value_noise(wam, context, actions, noise_seeds)
        observed = wam.spec.observed_frames
        return cls(cast(ValueWAM, wam), context, x[:, :, :observed], actions, config), x[:, :, observed:]

    def __call__(self, rows: Tensor, videos: Tensor, values: Tensor) -> Tensor:
        """Predict returns [c, N, H] of the video noises [c, C, F, h, w] of these rows, after `depth` - 1 steps."""
        spec, ones = self.wam.spec, torch.ones(len(rows), device=videos.device)
        x = torch.cat([self.observed[rows], videos.to(self.observed.dtype)], dim=2)
        point = Point(x, self.actions[rows], ones[:, None].expand(-1, spec.future_frames), ones)
        own = self.context.select(rows)
        wants = Want.VIDEO_FLOW | (Want.ACTION_FLOW if spec.video_reads_action else Want(0))
        video_grid = shifted_grid(self.config.steps, spec.video_shift).to(x.device)
        action_grid = shifted_grid(self.config.steps, spec.action_shift).to(x.device)
        for step in range(1, self.config.depth):
            output = self.wam.forward(own, point, wants)
            moving = output.action_flow if spec.video_reads_action else None
            action_level = action_grid[step].expand_as(ones) if spec.video_reads_action else point.sigma_action
            level = video_grid[step].expand_as(point.sigma_video)
            point = euler(point, output.video_flow, moving, level, action_level, spec.observed_frames)
        return self.wam.score(own, point, values)


def searched(
    wam: FrozenWAM, context: Context, noise_seeds: Sequence[int], config: PlanConfig
) -> tuple[Imagining, Found]:
    """Search the initial noise of every row, from that of its seed on. Return the judge and what was found."""
    assert wam.spec.value is not None
    judge, first = Imagining.from_seeds(wam, context, noise_seeds, config)
    draws, value = Draws(noise_seeds, first.device), wam.spec.value
    return judge, search(judge, first, value.noise_dim, draws, config, value.lowest)
