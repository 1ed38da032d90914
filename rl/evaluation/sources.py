"""The schedules of a comparison by name, with their trained weights if they learn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.planning import NO_PLANNER, PlanConfig, split_planner
from configs.schema import ScheduleConfig
from policies.backbones.door import WAMSpec
from policies.catalogue import behind_planner, build_schedule, learned_kind, learned_schedules
from policies.exported import DESCRIPTION_FILE, load_schedule
from policies.learning import LearnedSchedule
from policies.schedule import Schedule
from rl.runs.checkpoints import MANIFEST, Checkpoint, CheckpointError, CheckpointStore, read_checkpoint


@dataclass(frozen=True)
class ScheduleSource:
    """The source of the schedule in one row of a comparison."""

    name: str  # the name of the row: `schedule[+planner]`, or `schedule[+planner]@name` on another backbone
    checkpoint: Path | None = None  # the folder of trained weights: a run's checkpoint or an exported schedule
    backbone: str = ""  # the checkpoint of another backbone; empty: the backbone of the settings

    @property
    def schedule(self) -> str:
        """The name of the schedule, without those of planner and backbone."""
        return split_planner(self.name.partition("@")[0])[0]

    @property
    def planner(self) -> str:
        """The name of the planner; `none` if there is none."""
        return split_planner(self.name.partition("@")[0])[1]

    def load(self, spec: WAMSpec, settings: ScheduleConfig, plan: PlanConfig | None = None) -> Schedule:
        """Load the schedule, behind its planner with the settings `plan`.

        Raises ValueError for an unknown name, a damaged checkpoint or another backbone.
        """
        schedule = behind_planner(self._load_alone(spec, settings), self.planner, plan)
        if self.planner != NO_PLANNER:
            schedule.check(spec)
        return schedule

    def _load_alone(self, spec: WAMSpec, settings: ScheduleConfig) -> Schedule:
        if self.checkpoint is None:
            return build_schedule(self.schedule, spec, settings)
        try:
            if is_exported(self.checkpoint):
                schedule = load_schedule(self.checkpoint)
            else:
                schedule = schedule_of(read_checkpoint(self.checkpoint), spec)
            schedule.check(spec)
        except CheckpointError:
            raise
        except ValueError as error:
            raise ValueError(f"{self.name} of {self.checkpoint}: {error}") from error
        return schedule

    def describe(self) -> dict[str, object]:
        """Return JSON values that identify the weights, by a hash of the file that lists the hashes of all files."""
        if self.checkpoint is None:
            return {"trained": False}
        path = self.checkpoint / (DESCRIPTION_FILE if is_exported(self.checkpoint) else MANIFEST)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: {self.checkpoint} is no checkpoint and no exported schedule.")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"trained": True, "checkpoint": str(self.checkpoint), "sha256": digest}


def is_exported(directory: Path) -> bool:
    """Whether the directory holds an exported schedule."""
    return (directory / DESCRIPTION_FILE).is_file()


def schedule_of(checkpoint: Checkpoint, spec: WAMSpec) -> LearnedSchedule[Any, Any]:
    """Return the trained schedule of a checkpoint, with the settings under which it was trained."""
    stored = checkpoint.config["schedule"]
    kind = learned_kind(stored["name"])
    settings = kind.settings(**stored)
    policy = kind.new_policy(spec, settings)
    try:
        policy.load_state_dict(checkpoint.scheduler)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this backbone: {error}") from error
    return kind.schedule(policy.eval().requires_grad_(False), settings, checkpoint.backbone_hash)


def weights_in(folder: Path) -> Path | None:
    """Return the folder itself if it holds weights, otherwise the best or else the newest checkpoint of a run."""
    if is_exported(folder) or (folder / MANIFEST).is_file():
        return folder
    store = CheckpointStore(folder)
    latest = store.latest_valid()
    return store.best_path or (latest.path if latest else None)


def sources_of(
    names: list[str], trained: Mapping[str, Path], backbones: Mapping[str, str] | None = None
) -> list[ScheduleSource]:
    """Return a source for each row, with the weights in `trained`. Raise ValueError for learned rows without any."""
    rows = [ScheduleSource(name) for name in names]
    learned = learned_schedules()
    missing = [row.schedule for row in rows if row.schedule in learned and row.schedule not in trained]
    if missing:
        raise ValueError(
            f"No trained schedule for {', '.join(missing)}: train first, name its folder in "
            f"evaluation.trained.{missing[0]}, or leave it out of evaluation.schedules."
        )
    return [
        replace(
            row,
            checkpoint=trained.get(row.schedule),
            backbone=(backbones or {})[row.name.partition("@")[2]] if "@" in row.name else "",
        )
        for row in rows
    ]
