"""Paths of one runner: read segments, encode the observations, walk, and compare the actions with demonstrations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from configs.schema import ActionErrorConfig
from envs.kinematics import Kinematics
from policies.backbones.door import Context, FrozenWAM
from policies.backbones.flow import shifted_grid
from policies.learning import LearnedSchedule
from policies.reference import StoredWalk, reference_walk, serve_walks, store_walks
from policies.schedule import Schedule
from policies.trace import Trace
from policies.walk import walk
from policies.walk_record import Float32Array
from rl.experience.records import AnchorKey, Failure, PathOutcome, PathTask, failed_paths
from rl.experience.references import ReferencePlan, References, nearest_errors
from rl.experience.rollouts import FloatArray, Rollouts
from rl.experience.segments import Segment, SegmentSource, observe_segments


@dataclass(frozen=True)
class _Walked:
    """One path, walked by the backbone or served from a stored reference walk."""

    actions: Float32Array  # [T, A]
    trace: Trace | None
    levels: Float32Array  # [updates + 1, F]
    updates: int
    forwards: int
    prefixes: Float32Array | None = None  # [decisions, T, A], see `WalkRecord`


class PathSampler:
    """Walks paths on one backbone. A fault of a single segment masks its row and raises no exception."""

    def __init__(
        self,
        wam: FrozenWAM,
        errors: ActionErrorConfig,
        robot: Kinematics,
        anchor_depths: Sequence[int] = (),
        references: References | None = None,
    ) -> None:
        """`anchor_depths` are the depths of the two anchors, in updates of the reference grid; empty: no anchors.

        `references` are what chunks are compared with; None: demonstrations alone.
        """
        self.wam, self.robot = wam, robot
        self._errors, self._depths = errors, anchor_depths
        self._references = references or References(wam, ReferencePlan(), Path())
        self._stored: dict[AnchorKey, StoredWalk] = {}

    def sample(
        self,
        source: SegmentSource,
        tasks: Sequence[PathTask],
        without_anchors: Collection[AnchorKey],
        schedule: Schedule,
        deterministic: bool,
        prefixes: bool = False,
    ) -> tuple[Rollouts, dict[AnchorKey, FloatArray], list[Failure]]:
        """Return the paths in the order of `tasks`, the errors [4] of newly walked anchors, and the failures.

        Anchors are walked only for the keys in `without_anchors`, because the driver knows the others. If `prefixes`,
        no path stops before its end, and the errors are measured at every decision where it could have.
        """
        segments, readable, failures = read_segments(source, tasks)
        paths = failed_paths(tasks, PathOutcome.data_fault)
        if not readable:
            return paths, {}, failures
        read = [tasks[row] for row in readable]
        missing = {task.anchor_key: row for row, task in enumerate(read) if task.anchor_key in without_anchors}
        served = isinstance(schedule, LearnedSchedule) and schedule.follows_reference
        stored = served and all(task.anchor_key in self._stored for task in read)
        known = stored and self._references.knows(segments)
        context = None if known else self._observe(segments, read)  # stored walks need no backbone
        walked = (self._serve if served else self._walk)(read, context, schedule, deterministic, prefixes)
        references = self._references.of(segments, context)
        anchors: dict[AnchorKey, FloatArray] = {}
        if missing:
            rows = list(missing.values())
            own = None if context is None else context.select(torch.tensor(rows))
            chosen = [segments[row] for row in rows]
            anchors = self._walk_anchors(chosen, [read[row] for row in rows], own, references[rows])
        errors = self._measure(walked, segments, references)
        if prefixes:
            paths.prefix_errors = np.concatenate([own[:-1] for own in errors])
        drawn = [one.trace for one in walked if one.trace is not None]
        paths.trace = type(drawn[0]).join(drawn) if drawn else None
        all_finite = paths.trace is None or paths.trace.finite  # one look at all, instead of one at each
        paths.lengths[readable] = [0 if one.trace is None else len(one.trace) for one in walked]
        paths.queries = np.zeros(paths.lengths.sum(), dtype=np.int64)
        paths.updates[readable] = [one.updates for one in walked]
        paths.forwards[readable] = [one.forwards for one in walked]
        paths.errors[readable] = [own[-1] for own in errors]
        for row, segment, one, error in zip(readable, segments, walked, errors, strict=True):
            paths.levels[row] = one.levels
            numbers = {"an action": bool(np.isfinite(one.actions).all()), "an error": bool(np.isfinite(error).all())}
            numbers["a decision"] = all_finite or one.trace is None or one.trace.finite
            wrong = [name for name, finite in numbers.items() if not finite]
            paths.outcomes[row] = str(PathOutcome.not_finite if wrong else PathOutcome.completed)
            if wrong:
                reason = f"{segment.task} {tasks[row]}: {wrong[0]} is NaN or infinite"
                failures.append(Failure(PathOutcome.not_finite, reason))
        return paths, anchors, failures

    def _observe(self, segments: Sequence[Segment], tasks: Sequence[PathTask]) -> Context:
        """Encode the observation of each segment once, and give it to all of its paths."""
        rows = {task.segment: row for row, task in enumerate(tasks)}
        numbers = {segment: number for number, segment in enumerate(rows)}
        context = observe_segments(self.wam, [segments[row] for row in rows.values()])
        return context.select(torch.tensor([numbers[task.segment] for task in tasks]))

    def _measure(
        self, walked: Sequence[_Walked], segments: Sequence[Segment], references: Float32Array
    ) -> list[FloatArray]:
        """Return the errors [P, 2] of the chunks of each path: of every prefix, if there are some, and of its end."""
        chunks = [
            np.concatenate([*([] if one.prefixes is None else [one.prefixes]), one.actions[None]]) for one in walked
        ]
        longest = max(map(len, chunks))
        padded = np.stack([np.concatenate([own, own[-1:].repeat(longest - len(own), axis=0)]) for own in chunks])
        measured = self._nearest(padded, segments, references)
        return [own[: len(chunk)] for own, chunk in zip(measured, chunks, strict=True)]

    def _walk(
        self,
        tasks: Sequence[PathTask],
        context: Context | None,
        schedule: Schedule,
        deterministic: bool,
        prefixes: bool,
    ) -> list[_Walked]:
        assert context is not None
        noise_seeds, path_seeds = [task.noise_seed for task in tasks], [task.path_seed for task in tasks]
        walked = walk(
            self.wam,
            context,
            schedule,
            noise_seeds,
            path_seeds,
            deterministic=deterministic,
            allow_not_finite=True,
            prefixes=prefixes,
            starts=[task.anchor_key for task in tasks],
        )
        return [
            _Walked(one.actions, one.trace, one.sigma_video, one.updates, one.all_forwards, one.prefixes)
            for one in walked.records
        ]

    def _serve(
        self,
        tasks: Sequence[PathTask],
        context: Context | None,
        schedule: Schedule,
        deterministic: bool,
        prefixes: bool,
    ) -> list[_Walked]:
        """Do the same for a schedule that follows the reference walk. Each reference walk is walked once and stored."""
        missing = {task.anchor_key: row for row, task in enumerate(tasks) if task.anchor_key not in self._stored}
        if missing:
            assert context is not None
            chosen = context.select(torch.tensor(list(missing.values())))
            walks = store_walks(self.wam, chosen, [noise_seed for _, noise_seed in missing])
            self._stored.update(zip(missing, walks, strict=True))
        spec, stored = self.wam.spec, [self._stored[task.anchor_key] for task in tasks]
        seeds = [task.path_seed for task in tasks]
        grid = shifted_grid(spec.reference_updates, spec.video_shift).numpy()
        served = serve_walks(spec, stored, schedule, seeds, deterministic=deterministic, may_stop=not prefixes)
        return [
            _Walked(
                actions=one.actions[where.updates],
                trace=where.trace,
                levels=grid[: where.updates + 1, None].repeat(spec.future_frames, axis=1),
                updates=where.updates,
                forwards=where.updates + int(where.decided or spec.memory_needs_forward),
                prefixes=one.actions[: where.updates] if prefixes else None,
            )
            for one, where in zip(stored, served, strict=True)
        ]

    def anchors(
        self, source: SegmentSource, tasks: Sequence[PathTask]
    ) -> tuple[dict[AnchorKey, FloatArray], list[Failure]]:
        """Walk the anchors of the segments that can be read. Returns their errors [4] and the failures."""
        segments, readable, failures = read_segments(source, tasks)
        if not readable:
            return {}, failures
        context = observe_segments(self.wam, segments)
        references = self._references.of(segments, context)
        return self._walk_anchors(segments, [tasks[row] for row in readable], context, references), failures

    def errors(self, actions: npt.NDArray[np.float32], segments: Sequence[Segment]) -> FloatArray:
        """Return the sequence and difference errors, float64 [N, 2], of chunks [N, T, A] against demonstrations."""
        chunks = np.stack([segment.chunk for segment in segments])
        return self._nearest(actions[:, None], segments, chunks[:, None])[:, 0]

    def _nearest(self, actions: Float32Array, segments: Sequence[Segment], references: Float32Array) -> FloatArray:
        """Return the errors [N, P, 2] of P chunks a segment, [N, P, T, A], against the nearest reference."""
        valid = np.stack([segment.weight for segment in segments])
        return nearest_errors(actions, references, valid, self.robot, self._errors)

    def _walk_anchors(
        self,
        segments: Sequence[Segment],
        tasks: Sequence[PathTask],
        context: Context | None,
        references: Float32Array,
    ) -> dict[AnchorKey, FloatArray]:
        """Return the errors [4] of the two anchors of each task, with the columns ANCHOR_ERRORS.

        The anchors come from stored reference walks if all of these exist.
        """
        if all(task.anchor_key in self._stored for task in tasks):
            stored = [self._stored[task.anchor_key].actions for task in tasks]
            actions = np.stack([[one[depth] for one in stored] for depth in self._depths])
        else:
            assert context is not None
            actions = reference_walk(self.wam, context, [task.noise_seed for task in tasks], self._depths)
        errors = self._nearest(np.moveaxis(actions, 0, 1), segments, references).reshape(len(tasks), -1)
        return {task.anchor_key: errors[row] for row, task in enumerate(tasks)}


def read_segments(source: SegmentSource, tasks: Sequence[PathTask]) -> tuple[list[Segment], list[int], list[Failure]]:
    """Return the segments that can be read, their positions in `tasks`, and a failure for each of the others."""
    segments, readable, failures = [], [], []
    for row, task in enumerate(tasks):
        try:
            segments.append(source[task.segment])
            readable.append(row)
        except (OSError, ValueError, KeyError) as error:
            failures.append(Failure(PathOutcome.data_fault, f"segment {task.segment}: {error}"))
    return segments, readable, failures
