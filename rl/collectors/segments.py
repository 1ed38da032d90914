"""Paths that start at the states of demonstrations (SANTS 3.3). Simulators are used only for validation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from configs.fields import free_keys, leaves
from configs.schema import Config, SegmentsConfig
from policies.learning import Charts
from rl.collector import COLLECTORS, Collector, Experience
from rl.experience.records import (
    AnchorKey,
    AnchorRequest,
    PathOutcome,
    PathRequest,
    PathTask,
    Reply,
    mix_seed,
    split_evenly,
)
from rl.experience.rollouts import ANCHOR_ERRORS, FloatArray, Rollouts, concatenate
from rl.experience.segments import ROOT_KEY, SegmentListing, is_changed, same_segments, segment_order, spread_indices
from rl.experience.stopping import over_stops
from rl.reward import Need, Rewards
from rl.runs.checkpoints import Checkpoint
from rl.runs.metrics import outcome_metrics, path_metrics

if TYPE_CHECKING:
    from rl.engine.rllib import Engine

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_NOISE, _DECISIONS = 1, 2  # the streams of random numbers for initial noise and for decisions


@COLLECTORS.register("segments")
class SegmentCollector(Collector[SegmentsConfig]):
    """Walks paths from segments in shuffled rounds. If a reward needs anchors, those of a segment are walked once."""

    settings_type = SegmentsConfig
    offers = frozenset({Need.DEMONSTRATIONS, Need.ANCHORS})
    charts: ClassVar[Charts] = {
        "1 learning": {
            "return": ["Multiline", ["reward/return", "reward/baseline"]],
            "updates per path": ["Margin", ["path/updates", "path/updates_p05", "path/updates_p95"]],
            "validation return and updates": ["Multiline", ["validation/return", "validation/updates"]],
        },
        "2 policy": {"where paths stop": ["Multiline", ["path/final_sigma"]]},
    }

    def __init__(self, engine: Engine, settings: SegmentsConfig, rewards: Rewards) -> None:
        """Raises ValueError if a split has no segments, or if the runners see different segments."""
        super().__init__(engine, settings, rewards)
        self.anchors: dict[AnchorKey, FloatArray] = {}  # errors [4] with the columns ANCHOR_ERRORS
        validated = bool(engine.settings.validation.every and settings.validation_paths)
        splits = {settings.split, *(("validation",) if validated else ())}
        listed = {split: self._list_segments(split) for split in sorted(splits)}
        wanted = {"validation": settings.validation_paths, settings.split: settings.max_segments}
        self._segments = {split: spread_indices(found.count, wanted[split]) for split, found in listed.items()}
        self.identities = {split: found.identity for split, found in listed.items()}

    def collect(self) -> Experience:
        self.calibrate()
        paths = self.settings.paths_per_iteration
        every = self.settings.stops == "all"
        tasks = self.tasks(self.engine.iteration * paths, paths)
        rollouts, replies = self._walk(tasks, self.settings.split, prefixes=every)
        metrics = outcome_metrics("path", rollouts.outcomes)
        completed = rollouts.where([outcome == PathOutcome.completed for outcome in rollouts.outcomes])
        if every and len(completed):
            completed = over_stops(completed)
        return Experience(completed, replies, metrics | (path_metrics("path", completed) if len(completed) else {}))

    def tasks(self, cursor: int, paths: int) -> list[PathTask]:
        """Return the tasks of `paths` paths from position `cursor` of the run on. Seed and cursor determine them."""
        segments, seed = self._segments[self.settings.split], self.engine.settings.run.seed
        each = self.settings.paths_per_segment
        order = segment_order(len(segments), seed, cursor // each, paths // each)
        visits = [(visit, index) for visit, index in enumerate(order, start=cursor // each) for _ in range(each)]
        return [
            self._task(
                self.settings.split, segments[index], visit // len(segments), mix_seed(seed, _DECISIONS, position)
            )
            for position, (visit, index) in enumerate(visits, start=cursor)
        ]

    def _task(self, split: str, segment: int, number: int, path_seed: int = 0) -> PathTask:
        """Return the task of one path. `number` is the round through the split; noise seeds take turns by it."""
        turn = number % self.settings.noise_seeds
        noise_seed = mix_seed(self.engine.settings.run.seed, _NOISE, SPLITS.index(split), segment, turn)
        return PathTask(segment, noise_seed, path_seed)

    def _walk(
        self, tasks: Sequence[PathTask], split: str, *, deterministic: bool = False, prefixes: bool = False
    ) -> tuple[Rollouts, list[Reply]]:
        """Walk the paths of all tasks. A path whose anchors could not be walked is marked as not finite."""
        shares = split_evenly(tasks, self.engine.slots)
        if self.engine.schedule.follows_reference:  # a runner stores reference walks, so it keeps its segments
            slots = self.engine.slots
            shares = [[task for task in tasks if task.segment % slots == slot] for slot in range(slots)]
            shares = [share for share in shares if share]
            tasks = [task for share in shares for task in share]
        anchored = self.rewards.anchored is not None
        unknown = frozenset(task.anchor_key for task in tasks if anchored and task.anchor_key not in self.anchors)
        requests = [
            PathRequest(tuple(part), split, unknown & {task.anchor_key for task in part}, deterministic, prefixes)
            for part in shares
        ]
        replies = self.engine.ask(requests)
        self._learn_anchors(replies)
        rollouts = concatenate([reply.paths for reply in replies if reply.paths is not None])
        if anchored:
            none = np.full(len(ANCHOR_ERRORS), np.nan)
            rollouts.anchors = np.stack([self.anchors.get(task.anchor_key, none) for task in tasks])
            for row in np.flatnonzero(np.isnan(rollouts.anchors).any(axis=1)):
                if rollouts.outcomes[row] == PathOutcome.completed:
                    rollouts.outcomes[row] = str(PathOutcome.not_finite)
        return rollouts, replies

    def calibrate(self) -> None:
        """Calibrate the reward that needs anchors on segments spread over the training split, once in a run."""
        reward = self.rewards.anchored
        if reward is None or not reward.calibration_segments:
            return
        segments = self._segments[self.settings.split]
        chosen = spread_indices(len(segments), reward.calibration_segments)
        tasks = [self._task(self.settings.split, segments[index], 0) for index in chosen]
        unknown = [task for task in tasks if task.anchor_key not in self.anchors]
        size = max(1, self.settings.paths_per_iteration // self.engine.slots)
        chunks = [unknown[start : start + size] for start in range(0, len(unknown), size)]
        self._learn_anchors(self.engine.ask([AnchorRequest(tuple(chunk), self.settings.split) for chunk in chunks]))
        known = [self.anchors[task.anchor_key] for task in tasks if task.anchor_key in self.anchors]
        if not known:
            reasons = [failure.message for failure in self.engine.recent_failures[:1]]
            raise RuntimeError(f"No anchor could be walked: {reasons}")
        reward.calibrate(np.stack(known))

    def _learn_anchors(self, replies: Iterable[Reply]) -> None:
        new = (item for reply in replies for item in reply.anchors.items())
        self.anchors.update({key: errors for key, errors in new if np.isfinite(errors).all()})

    def _list_segments(self, split: str) -> SegmentListing:
        group = self.engine.env_runner_group
        found: list[SegmentListing] = group.foreach_env_runner(lambda runner: runner.list_segments(split))
        first = found[0]
        other = next((one for one in found if one != first), first)
        if missing := next((one for one in (first, other) if not one.count), None):
            where = "" if other == first else f" (on node {missing.node})"
            raise ValueError(f"{missing.reason or f'There are no {split} segments.'}{where}")
        if other != first:
            raise ValueError(
                f"The {split} demonstrations on node {other.node} are not those on node {first.node}: {other.count} "
                f"segments and {first.count}, or other content. Copy one to all nodes, or name it by a URI."
            )
        return first

    def validate(self) -> dict[str, float]:
        """Walk deterministic paths on held-out segments, and score them with the full cost."""
        if not self.settings.validation_paths:
            return {}
        self.calibrate()
        tasks = [self._task("validation", segment, 0) for segment in self._segments["validation"]]
        rollouts, _ = self._walk(tasks, "validation", deterministic=True)
        paths = rollouts.where([outcome == PathOutcome.completed for outcome in rollouts.outcomes])
        if not len(paths):
            return {}
        scores = self.rewards.score(paths, progress=1.0)
        shown = {name.removeprefix("reward/"): value for name, value in scores.means(paths.weights).items()}
        return shown | path_metrics("", paths)

    def tensors(self) -> dict[str, Tensor]:
        keys = sorted(self.anchors)
        return {
            "keys": torch.tensor(keys, dtype=torch.int64).reshape(len(keys), 2),
            "errors": torch.tensor(np.array([self.anchors[key] for key in keys])).reshape(-1, len(ANCHOR_ERRORS)),
        }

    def state(self) -> dict[str, Any]:
        return {"demonstrations": self.identities, "measured_under": measured_under(self.engine.settings)}

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Restore anchors only if reward settings and segments are unchanged."""
        changed = self._changed_measurement(checkpoint)
        if changed:
            logger.warning("Anchors, calibration and baseline are measured again because these changed: %s", changed)
            return False
        self.anchors = _unpack_anchors(checkpoint.anchors)
        return True

    def inherit(self, checkpoint: Checkpoint) -> None:
        same = checkpoint.backbone_hash == self.engine.wam_spec.weights_hash
        if same and checkpoint.anchors and not self._changed_measurement(checkpoint):
            self.anchors = _unpack_anchors(checkpoint.anchors)

    def _changed_measurement(self, checkpoint: Checkpoint) -> str:
        """Name the settings and splits that changed since a checkpoint's anchors were measured; empty: none did."""
        state = checkpoint.state["collector"]
        then, now = state.get("measured_under", {}), measured_under(self.engine.settings)
        changed = {key for key in then.keys() | now.keys() if then.get(key) != now.get(key)}
        known = state.get("demonstrations", {})
        if same_segments(known, self.identities):
            changed -= {ROOT_KEY}
        others = [split for split, own in self.identities.items() if is_changed(known.get(split, own), own)]
        return ", ".join([*sorted(changed), *(f"{split} demonstrations" for split in others)])


def measured_under(settings: Config) -> dict[str, object]:
    """Return every setting that segments, actions and their errors depend on, as JSON values."""
    sections = ("env", "demonstrations", "wam", "action_error")
    free = set(free_keys(settings))
    found = {
        f"{section}.{key}": value
        for section in sections
        for key, value in leaves(getattr(settings, section))
        if f"{section}.{key}" not in free
    }
    collector = settings.collector
    assert isinstance(collector, SegmentsConfig)
    found |= {"collector.split": collector.split, "collector.max_segments": collector.max_segments}
    return found | {f"reward.path.{key}": value for key, value in leaves(settings.reward.get("path", {}))}


def _unpack_anchors(tensors: Mapping[str, Tensor]) -> dict[AnchorKey, FloatArray]:
    keys, errors = tensors["keys"].tolist(), tensors["errors"].numpy()
    return {(segment, noise_seed): row for (segment, noise_seed), row in zip(keys, errors, strict=True)}
