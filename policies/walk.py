"""The walk: a batch of rows from noise to actions under a schedule, each row as long as its schedule wants (SANTS 3.1).

Rows that stop leave the batch; what the action branch reads of them is joined into one action batch at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policies.schedules.base import Course, Decision, Schedule
from policies.schedules.fixed import GridSchedule
from policies.wam.interface import Context, FrozenWAM, euler_update, shifted_grid

FloatArray = npt.NDArray[np.float32]


@dataclass
class WalkRecord:
    """One row's walk: enough to plot, replay and score it."""

    schedule: str
    noise_seed: int
    sigmas: FloatArray  # [updates + 1], from 1 down to where it stopped
    forwards: int  # one an update, one for a decided stop; one for a forced stop only if memory needs it
    forced: bool  # stopped without being asked: at the end of its grid, the terminal level or the cap
    actions: FloatArray  # [T, A]
    trace: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # [decisions, ...] each

    @property
    def updates(self) -> int:
        return len(self.sigmas) - 1

    @property
    def final_sigma(self) -> float:
        return float(self.sigmas[-1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values and arrays, for `from_dict`, `np.savez` or JSON."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WalkRecord:
        return cls(**values)

    def plot(self, axis: Any) -> None:
        """Draw noise level against update on a matplotlib axis."""
        axis.plot(range(len(self.sigmas)), self.sigmas, marker="o", label=self.schedule)
        axis.set(xlabel="update", ylabel="sigma_video", ylim=(-0.02, 1.02))


@dataclass
class WalkBatch:
    """The records of a batch, in the order of its rows."""

    records: list[WalkRecord]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def actions(self) -> FloatArray:
        """[B, T, A]"""
        return np.stack([record.actions for record in self.records])

    @property
    def updates(self) -> npt.NDArray[np.int64]:
        return np.array([record.updates for record in self.records])

    @property
    def forwards(self) -> npt.NDArray[np.int64]:
        return np.array([record.forwards for record in self.records])


@dataclass
class _Ledger:
    """What a walk leaves behind, step by step, until it is cut into one record a row."""

    memories: list[Any] = field(default_factory=list)
    stopped: list[Tensor] = field(default_factory=list)
    walking: list[Tensor] = field(default_factory=list)
    sigmas: list[Tensor] = field(default_factory=list)
    decided: list[Tensor] = field(default_factory=list)
    traces: list[Mapping[str, Tensor]] = field(default_factory=list)
    forced: list[Tensor] = field(default_factory=list)

    def move(self, rows: Tensor, sigma: Tensor) -> None:
        self.walking.append(rows)
        self.sigmas.append(sigma)

    def decide(self, rows: Tensor, decision: Decision) -> None:
        self.decided.append(rows)
        self.traces.append(decision.trace)

    def stop(self, rows: Tensor, memory: Any, forced: bool) -> None:
        self.stopped.append(rows)
        self.memories.append(memory)
        self.forced.append(torch.full_like(rows, forced, dtype=torch.bool))


@torch.no_grad()
def walk(
    wam: FrozenWAM,
    context: Context,
    schedule: Schedule,
    noise_seeds: Sequence[int],
    decision_seeds: Sequence[int] | None = None,
    *,
    deterministic: bool = True,
) -> WalkBatch:
    """Walk every row of `context` to an action chunk.

    Row i depends on (context row i, noise_seeds[i], decision_seeds[i]) alone. `decision_seeds` (default: the noise
    seeds) feed the schedule's own draws and matter only when not `deterministic`.
    Raises ValueError for a schedule that does not fit the backbone, FloatingPointError for non-finite actions.
    """
    schedule.check(wam.spec)
    _check_rows(context, noise_seeds)
    x, action_noise = wam.initial_noise(context, noise_seeds)
    course = schedule.start(noise_seeds if decision_seeds is None else decision_seeds, deterministic, x.device)
    ledger = _descend(wam, context, x, course)
    actions = _decode(wam, context, action_noise, ledger)
    return WalkBatch(_records(schedule.name, noise_seeds, actions, ledger, wam.spec.memory_needs_forward))


def _check_rows(context: Context, noise_seeds: Sequence[int]) -> None:
    if len(context) != len(noise_seeds):
        raise ValueError(f"{len(noise_seeds)} noise seeds for {len(context)} observations: give one each")


def _descend(wam: FrozenWAM, context: Context, x: Tensor, course: Course) -> _Ledger:
    ledger = _Ledger()
    rows = torch.arange(len(context), device=x.device)
    sigma = torch.ones(len(context), device=x.device)
    updates = 0
    while True:
        ledger.move(rows, sigma)
        ended = course.ended(rows, sigma, updates)
        if ended.any():
            context, x, sigma, rows = _retire_forced(wam, ledger, context, x, sigma, rows, ended)
        if len(rows) == 0:
            return ledger
        output = wam.video_forward(context, x, sigma)
        decision = course.decide(rows, output.pooled, sigma, updates)
        ledger.decide(rows, decision)
        flow, sigma_next = output.flow, decision.sigma_next
        if decision.stop.any():
            stopped, kept = decision.stop.nonzero()[:, 0], (~decision.stop).nonzero()[:, 0]
            ledger.stop(rows[stopped], wam.select_memory(output.memory, stopped), forced=False)
            if len(kept) == 0:
                return ledger
            context, x, sigma, rows = context.select(kept), x[kept], sigma[kept], rows[kept]
            flow, sigma_next = flow[kept], sigma_next[kept]
        x = euler_update(x, flow, sigma, sigma_next, wam.spec.observed_frames)
        sigma, updates = sigma_next, updates + 1


def _retire_forced(
    wam: FrozenWAM, ledger: _Ledger, context: Context, x: Tensor, sigma: Tensor, rows: Tensor, ended: Tensor
) -> tuple[Context, Tensor, Tensor, Tensor]:
    """Take the memories of rows that must stop, and return the others."""
    if ended.all():
        ledger.stop(rows, wam.action_memory(context, x, sigma), forced=True)
        return context, x[:0], sigma[:0], rows[:0]
    gone, kept = ended.nonzero()[:, 0], (~ended).nonzero()[:, 0]
    ledger.stop(rows[gone], wam.action_memory(context.select(gone), x[gone], sigma[gone]), forced=True)
    return context.select(kept), x[kept], sigma[kept], rows[kept]


def _decode(wam: FrozenWAM, context: Context, action_noise: Tensor, ledger: _Ledger) -> FloatArray:
    """One action batch for all rows, in their own order."""
    order = torch.cat(ledger.stopped)
    if len(ledger.memories) == 1:
        memory = ledger.memories[0]
    else:
        memory = wam.select_memory(wam.join_memories(ledger.memories), order.argsort())
    actions = wam.decode_actions(context, memory, action_noise)
    broken = np.flatnonzero(~np.isfinite(actions).all(axis=(1, 2)))
    if len(broken):
        raise FloatingPointError(f"the backbone decoded non-finite actions in rows {broken.tolist()}")
    return actions


def _records(
    schedule: str, noise_seeds: Sequence[int], actions: FloatArray, ledger: _Ledger, memory_needs_forward: bool
) -> list[WalkRecord]:
    rows = len(noise_seeds)
    sigmas = _by_row(ledger.sigmas, ledger.walking, rows)
    keys = ledger.traces[0].keys() if ledger.traces else ()
    traces = {key: _by_row([trace[key] for trace in ledger.traces], ledger.decided, rows) for key in keys}
    forced = torch.cat(ledger.forced)[torch.cat(ledger.stopped).argsort()].tolist()
    return [
        WalkRecord(
            schedule=schedule,
            noise_seed=int(noise_seeds[row]),
            sigmas=sigmas[row],
            forwards=len(sigmas[row]) - int(forced[row] and not memory_needs_forward),
            forced=forced[row],
            actions=actions[row],
            trace={key: values[row] for key, values in traces.items()},
        )
        for row in range(rows)
    ]


def _by_row(values: Sequence[Tensor], rows: Sequence[Tensor], count: int) -> list[npt.NDArray[Any]]:
    """Regroup values collected step by step ([b_k, ...] of rows[k]) into one array a row."""
    owner = torch.cat(list(rows))
    order = owner.argsort(stable=True)
    ends = [0, *torch.bincount(owner, minlength=count).cumsum(0).tolist()]
    flat = torch.cat(list(values))[order].cpu().numpy()
    return [flat[start:end] for start, end in pairwise(ends)]


def replay(wam: FrozenWAM, context: Context, records: Sequence[WalkRecord]) -> WalkBatch:
    """Walk the recorded noise levels again, from the recorded seeds; the actions come out the same."""
    schedule = GridSchedule("replay", tuple(tuple(record.sigmas.tolist()) for record in records))
    return walk(wam, context, schedule, [record.noise_seed for record in records])


@torch.no_grad()
def anchor_walk(wam: FrozenWAM, context: Context, noise_seeds: Sequence[int], depths: Sequence[int]) -> FloatArray:
    """Actions at several depths of one reference walk, float32 [len(depths), B, T, A].

    `depths` are updates of the full reference grid, in any order: a shallow walk is a prefix of the full one.
    """
    _check_rows(context, noise_seeds)
    grid = shifted_grid(wam.spec.reference_updates, wam.spec.video_shift)
    if not depths or min(depths) < 0 or max(depths) >= len(grid):
        raise ValueError(f"depths {list(depths)}: give at least one, from 0 to {len(grid) - 1} reference updates")
    x, action_noise = wam.initial_noise(context, noise_seeds)
    decoded: dict[int, FloatArray] = {}
    for updates in range(max(depths)):
        sigma, sigma_next = (grid[step].expand(len(context)).to(x.device) for step in (updates, updates + 1))
        output = wam.video_forward(context, x, sigma)
        if updates in depths:
            decoded[updates] = wam.decode_actions(context, output.memory, action_noise)
        x = euler_update(x, output.flow, sigma, sigma_next, wam.spec.observed_frames)
    last = grid[max(depths)].expand(len(context)).to(x.device)
    decoded[max(depths)] = wam.decode_actions(context, wam.action_memory(context, x, last), action_noise)
    return np.stack([decoded[depth] for depth in depths])
