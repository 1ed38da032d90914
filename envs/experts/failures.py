"""Collecting episodes of the disturbed expert in the scenes of the demonstrations, with parallel simulators.

Each scene is played once, whatever comes of it: what is collected does not depend on how many simulators there are, nor
on interruptions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.schema import DemonstrationsConfig, EnvConfig
from envs.demonstrations.failures import FailureFolder, Played, Settings, scenes_of
from envs.experts.collection import Progress, is_collected_elsewhere, settings_of
from envs.experts.seed_search import Result, SeedOrder, play_experts, why
from envs.files import FolderBusy, exclusive
from envs.outcomes import Outcome
from envs.simulator import ExpertReply, SimulatorSpec
from envs.suites import suite_of

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Report:
    """This says what is on disk after a collection of one kind, by the folder below the root."""

    outcomes: dict[str, dict[str, int]]  # how many scenes ended in which way
    written: int  # scenes that this call has settled
    complete: bool  # whether every scene was played


class Scenes:
    """The scenes of one task and mode, and which of them are still to be played."""

    def __init__(self, folder: FailureFolder, seeds: list[int]) -> None:
        self.folder, self.seeds = folder, seeds
        self.task, self.mode = folder.task, folder.mode
        self.missing = folder.missing(seeds)
        self._waiting = self.missing.copy()
        self._lost = SeedOrder(0, 0)

    @property
    def settled(self) -> int:
        return len(self.seeds) - len(self.missing)

    def take(self) -> int | None:
        """The seed of the next scene, or None."""
        if (lost := self._lost.retry()) is not None:
            return lost
        return self.seeds[self._waiting.pop(0)] if self._waiting else None

    def settle(self, seed: int, result: Result) -> Outcome | None:
        """Take what became of a scene: keep the episode, or note the fault. None: it will be played again."""
        if self._lost.is_lost(seed, result):
            return None
        index = self.seeds.index(seed)
        if isinstance(result, ExpertReply):
            self.folder.add(index, seed, result)
        else:
            outcome = Outcome(result.outcome)
            self.folder.note(index, Played(seed=seed, outcome=outcome, message=why(result), kept=False))
        self.missing.remove(index)
        return Outcome(result.outcome)


def collect_disturbed(
    config: DemonstrationsConfig,
    env: EnvConfig,
    on_progress: OnProgress = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
    spec: SimulatorSpec | None = None,
) -> Report:
    """Let the disturbed expert play in the scenes of the first `failures.disturbed` demonstrations.

    Episodes that are there already are kept. It ends early once `stop_requested` says so. Raises ValueError if there
    are too few demonstrations, if the folder holds episodes of other settings or cannot be written, or if the suite has
    no disturbed expert; `SimulatorUnavailable` without a working simulator.
    """
    own = config.failures
    simulator = spec or suite_of(env).disturbed_expert(env, own)
    settings: Settings = {**settings_of(env), "offset": own.offset, "noise": own.noise, "slip": own.slip}

    def play(queues: list[Scenes], counter: Counted) -> None:
        workers = min(config.workers, sum(len(queue.missing) for queue in queues))

        def settle(queue: Scenes, seed: int, result: Result) -> None:
            if (outcome := queue.settle(seed, result)) is not None:
                counter.advance(queues, queue, seed, outcome)

        play_experts(queues, simulator, env, workers, settle, stop_requested)

    look = partial(scenes_to_play, config, env, "disturbed", settings)
    return play_missing(look, play, Path(config.root), on_progress, stop_requested)


def play_missing(
    look: Callable[[], list[Scenes]],
    play: Callable[[list[Scenes], Counted], None],
    root: Path,
    on_progress: OnProgress,
    stop_requested: Callable[[], bool],
) -> Report:
    """Call `play` with the scenes that `look` finds, unless all were played. Nobody else collects below `root` then."""
    counter = Counted(on_progress)
    queues = look()
    if any(queue.missing for queue in queues):
        with contextlib.suppress(FolderBusy), exclusive(root, stop_requested):
            queues = look()  # another one may have collected meanwhile
            play(queues, counter)
    outcomes = {queue.folder.name: queue.folder.outcomes() for queue in queues}
    return Report(outcomes, counter.written, complete=not any(queue.missing for queue in queues))


def scenes_to_play(config: DemonstrationsConfig, env: EnvConfig, kind: str, settings: Settings) -> list[Scenes]:
    """The scenes of every task and mode. Raises ValueError where episodes of this kind may not be added."""
    root = Path(config.root)
    if is_collected_elsewhere(root):
        raise ValueError(
            f"{root} holds demonstrations not collected here, in whose scenes nothing can be played: choose another "
            f"demonstrations.root, or use demonstrations.failures.{kind}=0"
        )
    wanted = getattr(config.failures, kind)
    scenes = []
    for mode in config.modes:
        for task in env.tasks:
            folder = FailureFolder(root, task, mode, kind)
            folder.bind(settings)
            scenes.append(Scenes(folder, scenes_of(root, task, mode, wanted)))
    return scenes


class Counted:
    """Counts the scenes that a call settles, and tells how far it is."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.written = 0
        self._on_progress = on_progress

    def advance(self, queues: Iterable[Scenes], queue: Scenes, seed: int, outcome: Outcome) -> None:
        self.written += 1
        settled, wanted = sum(one.settled for one in queues), sum(len(one.seeds) for one in queues)
        self._on_progress(Progress(queue.task, queue.mode, seed, outcome, settled, wanted))
