"""LeRobot v3.0 datasets. `dataset` reads them, `writer` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from envs.demonstrations.episodes import Cameras, Depths, Episode, EpisodeReference, Joints
from envs.demonstrations.formats.lerobot.dataset import NAME, TASKS_FILE, dataset_of, is_dataset, open_dataset


class LeRobotFormat:
    """See `envs.demonstrations.formats.Format`. A dataset is of one robot, so the embodiment does not matter."""

    name = NAME

    def recognises(self, root: Path) -> bool:
        return is_dataset(root)

    def references(
        self, root: Path, tasks: Sequence[str], modes: Sequence[str], embodiment: str
    ) -> list[EpisodeReference]:
        return open_dataset(root).references(tasks, modes)

    def read(self, reference: EpisodeReference) -> Episode:
        return dataset_of(reference.path).read(reference.row)

    def depths(self, reference: EpisodeReference) -> tuple[Depths, Cameras]:
        return dataset_of(reference.path).depths(reference.row)

    def joints(self, reference: EpisodeReference) -> Joints:
        return dataset_of(reference.path).joints(reference.row)

    def instructions(self, reference: EpisodeReference) -> tuple[str, ...]:
        return dataset_of(reference.path).instructions(reference.row)

    def frequency(self, reference: EpisodeReference) -> float | None:
        return dataset_of(reference.path).fps

    def files(self, reference: EpisodeReference) -> tuple[Path, ...]:
        return dataset_of(reference.path).files(reference.row)

    def advice(self, root: Path) -> str | None:
        names = open_dataset(root).task_names()
        held = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return (
            f"the dataset has the tasks {held}. Where these are instructions, say which episodes are of which task in "
            f'{root / TASKS_FILE}, as {{"click_bell": {{"clean": "0:50"}}}}'
        )


FORMAT = LeRobotFormat()
