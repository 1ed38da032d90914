"""Collecting demonstrations of the scripted expert with parallel simulators.

Episode i of a task and mode is the i-th seed on which the expert succeeds, however many simulators there are. Every
file is written completely or not at all, so that an interrupted collection can go on where it was.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from configs.fetched import is_uri
from configs.schema import DemonstrationsConfig, EnvConfig
from configs.stored import DamagedFile, read_json
from envs.demonstrations import SPLITS, SPLITS_FILE, formats_of, read_splits, split_of
from envs.demonstrations.formats import legacy
from envs.demonstrations.formats.legacy import Folder
from envs.experts.seed_search import AHEAD, Result, SeedOrder, play_experts, succeeded, why
from envs.files import FolderBusy, exclusive, write_json, write_text
from envs.outcomes import Outcome
from envs.simulator import ExpertReply, SimulatorSpec, simulator_spec

MAX_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class Progress:
    """This says how far the collection is after a seed was settled."""

    task: str
    mode: str
    seed: int
    outcome: Outcome
    collected: int  # valid episodes on disk, of all tasks and modes
    wanted: int


@dataclass(frozen=True)
class Report:
    """This says what is on disk after a collection, by `task/mode`."""

    episodes: dict[str, int]
    failed: dict[str, dict[str, int]]  # how many seeds ended with which outcome
    written: int  # episodes that this call has written
    complete: bool  # whether every task and mode has as many episodes as are wanted


def collect(
    config: DemonstrationsConfig,
    env: EnvConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
    spec: SimulatorSpec | None = None,
) -> Report:
    """Collects `episodes_per_task` episodes for each task of `env` and mode of `config` in `config.root`.

    Valid episodes that are there already are kept, and nothing is written to a folder that has all of them. While
    another collection writes to the folder, this one waits for it. It ends early once `stop_requested` says so, which
    is asked at least every half second. Raises ValueError if the folder holds demonstrations of other settings or
    cannot be written, `SimulatorUnavailable` without a working simulator, and RuntimeError where an expert keeps
    failing.
    """
    root = Path(config.root)
    if is_collected_elsewhere(config.root):
        raise ValueError(f"{root} holds demonstrations not collected here: choose another demonstrations.root")
    work = _Collector(config, env, on_progress, stop_requested)
    if work.is_missing_something():
        with contextlib.suppress(FolderBusy), exclusive(root, stop_requested):
            work = _Collector(config, env, on_progress, stop_requested)  # another one may have collected meanwhile
            work.run(spec, env, config.workers)
    return work.report()


def is_collected_elsewhere(root: str | Path) -> bool:
    """Whether the folder holds demonstrations that a collection must not add to: all but its own ones."""
    if is_uri(str(root)):
        return True
    ours = (Path(root) / SPLITS_FILE).exists()
    return any(found is not legacy.FORMAT or not ours for found in formats_of(Path(root)))


class _Failure(BaseModel):
    """This is how a seed ended on which the expert did not succeed."""

    outcome: Outcome
    message: str


class _Record(BaseModel):
    """The content of `collection.json`."""

    settings: dict[str, str | bool | int]  # as `settings_of` gives them
    failed: dict[int, _Failure]


class _Catalogue:
    """The file `splits.json`, which says which seed belongs to which split."""

    def __init__(self, root: Path, config: DemonstrationsConfig) -> None:
        self._path = root / SPLITS_FILE
        self._fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
        self._content: dict[str, Any] = {"fractions": self._fractions, **{split: [] for split in SPLITS}}
        if (stored := read_splits(root)) is not None:
            self._content = stored.model_dump()
        if self._content["fractions"] != self._fractions:
            raise ValueError(
                f"{self._path} was made with the fractions {self._content['fractions']}, not {self._fractions}: "
                "set demonstrations.validation_fraction and test_fraction to those, or choose another root"
            )

    def lacks(self, seeds: Sequence[int]) -> bool:
        """Whether the file is missing, or one of the seeds is not in it."""
        return bool(self._new(seeds)) or not self._path.exists()

    def add(self, seeds: Sequence[int]) -> None:
        """Gives each seed that is not in the file yet its split."""
        if not self.lacks(seeds):
            return
        for seed in self._new(seeds):
            split = split_of(seed, self._fractions["validation"], self._fractions["test"])
            self._content[split] = sorted([*self._content[split], seed])
        write_json(self._path, self._content)

    def _new(self, seeds: Sequence[int]) -> set[int]:
        return set(seeds) - {seed for split in SPLITS for seed in self._content[split]}


class _TaskQueue:
    """The seeds of one task and mode: which ones are settled, which come next. All of this is also on disk."""

    def __init__(self, folder: Folder, config: DemonstrationsConfig, env: EnvConfig) -> None:
        self.folder, self.wanted = folder, config.episodes_per_task
        self.task, self.mode = folder.task, folder.mode
        self.name = f"{folder.task}/{folder.mode}"
        self.accepted = folder.seeds()
        self._record_path = folder.path / "collection.json"
        self._settings = settings_of(env)
        self.failed = self._read_failed()
        self._scene_info = dict(folder.scene_info)
        self._damaged = deque(index for index in range(len(self.accepted)) if not _is_valid(folder, index))
        self.repairs = {self.accepted[index]: index for index in self._damaged}
        self._order = SeedOrder(config.first_seed, AHEAD * config.workers)
        self._failures_in_a_row = 0

    @property
    def valid(self) -> int:
        """Return the number of accepted episodes whose files are undamaged."""
        return len(self.accepted) - len(self.repairs)

    def take(self) -> int | None:
        """The next seed to play, or None while those handed out may be enough."""
        if (lost := self._order.retry()) is not None:
            return lost
        if self._damaged:
            return self.accepted[self._damaged.popleft()]
        return self._order.take(self.wanted - len(self.accepted), {*self.accepted, *self.failed})

    def settle(self, seed: int, result: Result) -> Iterator[tuple[int, Outcome]]:
        """Takes a seed's result. Writes the seeds that are settled by it, and yields how they ended."""
        if self._order.is_lost(seed, result):
            return
        if seed in self.repairs:
            yield seed, self._repair(seed, result)
        else:
            for settled, final in self._order.settle(seed, result):
                yield settled, self._file(settled, final)

    def _repair(self, seed: int, result: Result) -> Outcome:
        if not isinstance(result, ExpertReply) or not succeeded(result):
            raise RuntimeError(
                f"{self.folder.episode_path(self.repairs[seed])} is damaged and its seed {seed} no longer succeeds "
                f"({why(result)}): delete {self.folder.path} and collect it anew"
            )
        self._write(self.repairs.pop(seed), seed, result)
        return Outcome.success

    def _file(self, seed: int, result: Result) -> Outcome:
        if isinstance(result, ExpertReply) and succeeded(result):
            self._failures_in_a_row = 0
            self._write(len(self.accepted), seed, result)
            self.accepted.append(seed)
            return Outcome.success
        outcome = Outcome(result.outcome)
        self.failed[seed] = _Failure(outcome=outcome, message=why(result))
        self._write_record()
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise RuntimeError(
                f"{self.name}: {self._failures_in_a_row} seeds in a row failed, the last ({seed}): {why(result)}"
            )
        return outcome

    def _write(self, index: int, seed: int, reply: ExpertReply) -> None:
        folder = self.folder
        legacy.write_episode(folder.episode_path(index), reply.images, reply.joints, reply.depths, reply.cameras)
        write_json(folder.instructions_path(index), {"seen": [reply.instruction], "unseen": []})
        info = {"seed": seed, "style": reply.style}
        self._scene_info[f"episode_{index}"] = {"cluttered_table_info": [], "texture_info": {}, "info": info}
        write_json(folder.path / "scene_info.json", self._scene_info)
        if not self._record_path.exists():
            self._write_record()

    def publish(self) -> None:
        """Writes the list of accepted seeds: readers take no other episodes."""
        write_text(self.folder.seeds_path, " ".join(map(str, self.accepted)) + "\n")

    def _write_record(self) -> None:
        failed = {str(seed): failure.model_dump(mode="json") for seed, failure in sorted(self.failed.items())}
        write_json(self._record_path, {"settings": self._settings, "failed": failed})

    def _read_failed(self) -> dict[int, _Failure]:
        if not self._record_path.exists():
            return {}
        record = read_json(self._record_path, _Record, "Delete it; failed seeds are tried again then.")
        settings = {"depth": False, **record.settings}  # records from before depth lack it
        if settings != self._settings:
            raise ValueError(
                f"{self.folder.path} holds demonstrations of {settings}, not {self._settings}: "
                "use the same env settings, or another demonstrations.root"
            )
        return record.failed


class _Collector:
    """Plays the seeds of all queues and reports how far they are."""

    def __init__(
        self,
        config: DemonstrationsConfig,
        env: EnvConfig,
        on_progress: Callable[[Progress], None],
        stop_requested: Callable[[], bool],
    ) -> None:
        """Looks at what is there, and changes nothing."""
        root = Path(config.root)
        self._catalogue = _Catalogue(root, config)
        self._queues = [
            _TaskQueue(Folder(root, task, mode), config, env) for mode in config.modes for task in env.tasks
        ]
        self._on_progress = on_progress
        self._stop_requested = stop_requested
        self.written = 0

    def open(self) -> int:
        """Return the number of episodes that are still to be collected."""
        return sum(max(0, queue.wanted - queue.valid) for queue in self._queues)

    def is_missing_something(self) -> bool:
        """Whether there is anything to write."""
        return self.open() > 0 or any(self._catalogue.lacks(queue.accepted) for queue in self._queues)

    def run(self, spec: SimulatorSpec | None, env: EnvConfig, workers: int) -> None:
        for queue in self._queues:
            self._catalogue.add(queue.accepted)
        if self.open():
            simulator = spec or simulator_spec(env)
            play_experts(self._queues, simulator, env, min(workers, self.open()), self._settle, self._stop_requested)

    def report(self) -> Report:
        queues = self._queues
        return Report(
            {queue.name: len(queue.accepted) for queue in queues},
            {queue.name: dict(Counter(failure.outcome.value for failure in queue.failed.values())) for queue in queues},
            self.written,
            complete=not self.open(),
        )

    def _settle(self, queue: _TaskQueue, seed: int, result: Result) -> None:
        for settled, outcome in queue.settle(seed, result):
            if outcome is Outcome.success:
                self.written += 1
                self._catalogue.add([settled])
                queue.publish()
            collected = sum(min(queue.valid, queue.wanted) for queue in self._queues)
            wanted = sum(queue.wanted for queue in self._queues)
            self._on_progress(Progress(queue.folder.task, queue.folder.mode, settled, outcome, collected, wanted))


def settings_of(env: EnvConfig) -> dict[str, str | bool | int]:
    """The settings that a collection may not mix."""
    sizes = {"head_size": env.head_size, "wrist_size": env.wrist_size, "control_hz": env.control_hz}
    return {"suite": env.suite, **sizes, "depth": env.depth}


def _is_valid(folder: Folder, index: int) -> bool:
    try:
        legacy.FORMAT.check(folder.episode_path(index))
    except DamagedFile:
        return False
    return True
