"""Recorded episodes that are no demonstrations: those of a disturbed expert and of a policy.

They lie beside the demonstrations, in the same HDF5 layout. Episode i was played in the scene of demonstration i.

    <root>/<task>/<mode>/failures/<kind>/played.json             how every scene ended; readers take no other episodes
                                        /data/episode<i>.hdf5    with the attribute `kind`
                                        /instructions/episode<i>.json
                                        /scene_info.json         what the expert drew, where there was an expert

`list_episodes` and all that is built on it never find these: a format looks for demonstrations at other depths of the
tree. A file that was moved there is refused, because its attribute says what it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from configs.failures import KINDS
from configs.schema import DemonstrationsConfig
from configs.stored import DamagedFile, read_json
from envs.demonstrations.episodes import SPLITS, EpisodeReference
from envs.demonstrations.formats import legacy
from envs.demonstrations.formats.legacy import Folder
from envs.demonstrations.splits import FRACTIONS, splits_of
from envs.demonstrations.units import Units
from envs.files import write_json
from envs.outcomes import Outcome
from envs.simulator import ExpertReply

FAILURES = "failures"
"""The folder, in that of a task and mode, with a folder of each kind."""

PLAYED_FILE = "played.json"
_FIX = "Delete its folder, and collect these episodes again."

Settings = dict[str, str | bool | int | float]
"""What the episodes of a folder depend on besides their scenes."""


class Played(BaseModel):
    """This is how one scene ended. There is no file of it if the simulator failed, or if nothing moved."""

    seed: int
    outcome: Outcome
    message: str = ""
    kept: bool  # whether there is a file of the episode


class _Record(BaseModel):
    """The content of `played.json`."""

    settings: Settings
    played: dict[int, Played]  # by the index of the scene's demonstration


class FailureFolder:
    """The episodes of one kind in the scenes of one task and mode."""

    def __init__(self, root: Path, task: str, mode: str, kind: str) -> None:
        """Raises `DamagedFile` if `played.json` is damaged."""
        demonstrations = Folder(root, task, mode)
        self.task, self.mode, self.kind = task, mode, kind
        self._folder = Folder(demonstrations.path, FAILURES, kind)
        self._record_path = self._folder.path / PLAYED_FILE
        self._stored = read_json(self._record_path, _Record, _FIX) if self._record_path.exists() else None
        self.played: dict[int, Played] = dict(self._stored.played) if self._stored else {}
        self._settings: Settings = self._stored.settings if self._stored else {}

    @property
    def name(self) -> str:
        return f"{self.task}/{self.mode}/{FAILURES}/{self.kind}"

    @property
    def path(self) -> Path:
        return self._folder.path

    @property
    def settings(self) -> Settings:
        """Return what its episodes depend on besides their scenes. It is empty if nothing else matters."""
        return dict(self._settings)

    def bind(self, settings: Settings) -> None:
        """Say what new episodes depend on. Raises ValueError if those that are there depend on something else."""
        if self._stored is not None and self._settings != settings:
            changed = sorted(
                key for key in self._settings.keys() | settings.keys() if self._settings.get(key) != settings.get(key)
            )
            raise ValueError(
                f"{self._folder.path} holds episodes with another {', '.join(changed)}: use the same settings, delete "
                "this folder, or choose another demonstrations.root"
            )
        self._settings = settings

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """The indices of the scenes with these seeds that have to be played. Damaged files count as not there."""
        return [index for index, seed in enumerate(seeds) if not self._is_settled(index, seed)]

    def add(self, index: int, seed: int, reply: ExpertReply) -> Played:
        """Keep an episode that was played, unless nothing moved in it. Files first: readers take what is recorded."""
        outcome = Outcome(reply.outcome)
        if len(reply.joints) < 2:
            return self.note(index, Played(seed=seed, outcome=outcome, message="nothing moved", kept=False))
        folder, path = self._folder, self._folder.episode_path(index)
        legacy.write_episode(path, reply.images, reply.joints, reply.depths, reply.cameras, self.kind)
        write_json(folder.instructions_path(index), {"seen": [reply.instruction], "unseen": []})
        if reply.style:
            scenes = Folder(folder.root, folder.task, folder.mode).scene_info  # not a cached one
            info = {"info": {"seed": seed, "style": reply.style}}
            ordered = {**scenes, f"episode_{index}": info}.items()
            write_json(folder.scene_info_path, dict(sorted(ordered, key=lambda item: int(item[0].split("_")[1]))))
        return self.note(index, Played(seed=seed, outcome=outcome, kept=True))

    def note(self, index: int, played: Played) -> Played:
        """Record how a scene ended."""
        self.played[index] = played
        ordered = {str(number): one.model_dump(mode="json") for number, one in sorted(self.played.items())}
        write_json(self._record_path, {"settings": self._settings, "played": ordered})
        return played

    def outcomes(self) -> dict[str, int]:
        """Return the number of scenes for each outcome."""
        return dict(Counter(str(one.outcome) for one in self.played.values()))

    def references(self) -> list[EpisodeReference]:
        """The episodes with a file, by index."""
        return [
            EpisodeReference(
                self._folder.episode_path(index),
                self.task,
                self.mode,
                index,
                one.seed,
                legacy.FORMAT.name,
                kind=self.kind,
                succeeded=one.outcome is Outcome.success,
            )
            for index, one in sorted(self.played.items())
            if one.kept
        ]

    def _is_settled(self, index: int, seed: int) -> bool:
        one = self.played.get(index)
        if one is None or one.seed != seed:
            return False
        try:
            if one.kept:
                legacy.FORMAT.check(self._folder.episode_path(index), self.kind)
        except DamagedFile:
            return False
        return True


def list_failures(
    root: str | Path,
    tasks: Sequence[str],
    modes: Sequence[str],
    split: str = "all",
    *,
    kinds: Sequence[str] = KINDS,
    fractions: tuple[float, float] = FRACTIONS,
) -> list[EpisodeReference]:
    """The episodes of these kinds, successes among them, by task, mode, kind and index; empty if there are none.

    An episode is in the split of the demonstration of its scene. Raises ValueError for an unknown split or kind, and
    `DamagedFile` for a damaged record.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join((*SPLITS, 'all'))}")
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"unknown kinds {', '.join(sorted(unknown))}: choose among {', '.join(KINDS)}")
    folders = [FailureFolder(Path(root), task, mode, kind) for task in tasks for mode in modes for kind in kinds]
    found = [reference for folder in folders for reference in folder.references()]
    return found if split == "all" else splits_of(root, found, fractions)[split]


def configured_failures(
    config: DemonstrationsConfig, tasks: Sequence[str], split: str, kinds: Sequence[str] = KINDS
) -> list[EpisodeReference]:
    """`list_failures` with the root, modes, fractions and units of `config`."""
    fractions = config.validation_fraction, config.test_fraction
    found = list_failures(config.root, tasks, config.modes, split, kinds=kinds, fractions=fractions)
    closed, opened = config.gripper_range
    return [replace(episode, units=Units(config.joints, (closed, opened))) for episode in found]


def scenes_of(root: Path, task: str, mode: str, wanted: int) -> list[int]:
    """The seeds of the first `wanted` demonstrations. Raises ValueError if there are fewer."""
    folder = Folder(root, task, mode)
    seeds = folder.seeds()[:wanted]
    if len(seeds) < wanted:
        raise ValueError(
            f"{folder.path} has {len(seeds)} demonstrations, but {wanted} scenes are to be played: collect the "
            "demonstrations first, with the same demonstrations.root"
        )
    return seeds
