"""Schedules whose noise levels are known before the walk, and the settings of all joint schedules.

Shapes: B rows (1 if all rows follow the same levels), n updates, F future frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from configs.fields import setting
from configs.schema import ScheduleConfig
from policies.backbones.door import Point, WAMSpec, Want
from policies.backbones.flow import shifted_grid
from policies.schedule import Course, Decision, Schedule, WalkStart, warn_of_frames_never_seen
from policies.solvers import UniPC

if TYPE_CHECKING:
    from policies.catalogue import ScheduleRequest


@dataclass
class JointSettings(ScheduleConfig):
    """The settings of every joint schedule: video and action take the same number of steps (NoiseGate, Appendix C)."""

    steps: int = setting(10, at_least=2)  # P: the decisions of a walk. Each costs one video and one action forward.
    # P: the shift of the action's grid. Above 1, the action stays noisy until the video has taken shape.
    action_shift: float = setting(5.0, above=0)
    scale_bound: float = setting(0.5, at_least=0.01, at_most=1)  # C: relative scales stay in [1 - bound, 1 + bound]


class GridCourse(Course):
    """A course whose rows follow given noise levels and stop at the last one."""

    def __init__(self, video: Tensor, action: Tensor | None, updates: Tensor, action_grid: Tensor) -> None:
        """Follow `video` [B, n + 1, F or 1] and `action` [B, n + 1] for `updates` int64 [B] updates of each row.

        If `action` is None, the action waits until the video stops. Levels after the last update of a row are padding.
        """
        super().__init__(action_grid)
        self.video, self.action, self.updates = video, action, updates
        self.wants = Want.VIDEO_FLOW | (Want.MEMORY if action is None else Want.ACTION_FLOW)

    def ended(self, rows: Tensor, point: Point, updates: int) -> Tensor:
        return _pick(self.updates, rows) <= updates

    def decide(self, rows: Tensor, point: Point, pooled: Tensor, updates: int) -> Decision:
        video = _pick(self.video, rows)[:, updates + 1].expand_as(point.sigma_video)
        action = point.sigma_action if self.action is None else _pick(self.action, rows)[:, updates + 1]
        return Decision(video, action, torch.zeros_like(rows, dtype=torch.bool))


def _pick(table: Tensor, rows: Tensor) -> Tensor:
    """Return the given rows of a table. A table with a single row stands for every row."""
    return table.expand(len(rows), *table.shape[1:]) if len(table) == 1 else table[rows]


@dataclass(frozen=True, eq=False)
class GridSchedule:
    """A schedule of given noise levels: the same for every row, or different levels for each row of the batch."""

    name: str
    video: Tensor  # float32 [B, n + 1, F], or [B, n + 1, 1] if all frames share a level
    action: Tensor | None  # float32 [B, n + 1]; None in a cascade
    updates: Tensor  # int64 [B], at most n
    action_grid: Tensor  # float32: the levels on which an action that is still noisy is denoised at the end
    unipc: bool = False  # move by UniPC instead of Euler's method; then all rows and frames share their levels
    video_steps: int = 0  # of the whole grid of the video, if the walk leaves it before its end

    @classmethod
    def cascade(cls, request: ScheduleRequest, levels: Tensor) -> Self:
        """Move all frames along `levels` [n + 1], then the action along the backbone's own grid."""
        spec = request.spec
        action_grid = shifted_grid(spec.action_updates, spec.action_shift)
        return cls(request.name, levels[None, :, None], None, torch.tensor([len(levels) - 1]), action_grid)

    @classmethod
    def joint(
        cls, request: ScheduleRequest, levels: Tensor, action_grid: Tensor, *, unipc: bool = False, video_steps: int = 0
    ) -> Self:
        """Move each frame along its column of `levels` [n + 1, F or 1], and the action along `action_grid` [n + 1]."""
        updates = torch.tensor([len(levels) - 1])
        return cls(request.name, levels[None], action_grid[None], updates, action_grid, unipc, video_steps)

    def check(self, spec: WAMSpec) -> None:
        """Raise ValueError if the backbone cannot be walked in this way, or has another number of frames."""
        ends_clean = self.action is not None and not self.action[:, -1].any()
        finishing = Want(0) if ends_clean else Want.MEMORY
        spec.require(self.name, Want.VIDEO_FLOW | Want.ACTION_FLOW | finishing, cascade=self.action is None)
        frames = self.video.shape[-1]
        if frames not in (1, spec.future_frames):
            raise ValueError(f"{self.name}: levels of {frames} future frames, the backbone has {spec.future_frames}")
        if not torch.equal(self.video, self.video[..., :1].expand_as(self.video)):
            warn_of_frames_never_seen(self.name, spec)

    def start(self, start: WalkStart) -> Course:
        if len(self.updates) not in (1, len(start.seeds)):
            raise ValueError(f"{self.name}: levels for {len(self.updates)} rows, but the batch has {len(start.seeds)}")
        action = None if self.action is None else self.action.to(start.device)
        course = GridCourse(
            self.video.to(start.device), action, self.updates.to(start.device), self.action_grid.to(start.device)
        )
        if self.unipc and action is not None:
            course.solver = UniPC(self.video[0, :, 0], action[0])
        return course


@dataclass(frozen=True)
class QuerySchedule:
    """Row q of `grids` belongs to query q of an episode, and its last row to every later query.

    A walk outside of an episode counts as a first query.
    """

    grids: GridSchedule

    @property
    def name(self) -> str:
        return self.grids.name

    @property
    def video_steps(self) -> int:
        """Those of the first query."""
        return self.grids.video_steps

    def check(self, spec: WAMSpec) -> None:
        self.grids.check(spec)

    def start(self, start: WalkStart) -> Course:
        grids = self.grids
        rows = torch.tensor(start.queries or [0] * len(start.seeds)).clamp(max=len(grids.updates) - 1)
        action = None if grids.action is None else grids.action[rows]
        return replace(grids, video=grids.video[rows], action=action, updates=grids.updates[rows]).start(start)


def by_query(name: str, parts: Sequence[Schedule]) -> QuerySchedule:
    """Return a schedule that walks query q of an episode under `parts[q]`, and every later query under the last part.

    Raises ValueError unless each part gives the same noise levels to all rows, and all are cascades or all are joint.
    """
    grids = [part for part in parts if isinstance(part, GridSchedule)]
    unfit = [part.name for part in parts if part not in grids]
    if unfit:
        raise ValueError(f"{name!r}: the levels of {unfit[0]} are not known before the walk. Join other schedules")
    actions = [grid.action[0] for grid in grids if grid.action is not None]
    if any(grid.unipc for grid in grids):
        raise ValueError(f"{name!r}: UniPC takes the same steps at every query. Join schedules without it")
    if actions and len(actions) < len(grids):
        raise ValueError(f"{name!r}: it mixes cascades and joint walks. Join schedules of one of these kinds")
    frames = max(grid.video.shape[-1] for grid in grids)
    return QuerySchedule(
        GridSchedule(
            name,
            video=pad_sequence([grid.video[0].expand(-1, frames) for grid in grids], batch_first=True),
            action=pad_sequence(actions, batch_first=True) if actions else None,
            updates=torch.cat([grid.updates for grid in grids]),
            action_grid=grids[0].action_grid,
            video_steps=grids[0].video_steps,
        )
    )


def joint_grids(request: ScheduleRequest) -> tuple[Tensor, Tensor]:
    """Return the grids of video and action, float32 [steps + 1]. The name or else the settings give the steps."""
    settings = request.settings_as(JointSettings)
    steps = int(request.argument) if request.argument else settings.steps
    return shifted_grid(steps, request.spec.video_shift), shifted_grid(steps, settings.action_shift)
