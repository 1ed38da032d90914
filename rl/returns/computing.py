"""Computing the returns of recorded episodes once, and reading them.

An episode that succeeded is compared with its own last frame, as in the paper, which knows only successes. One that
failed has no last frame of a success. It is compared with that of the demonstration in the same scene, so that both
see the same objects, and its own end, whatever it is, is worth only what it has in common with the task done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs.returns import ReturnsConfig
from configs.schema import Config
from configs.stored import DamagedFile, set_aside
from envs.demonstrations import EpisodeReference, Units, configured_episodes, read_episode
from envs.demonstrations.episodes import CorruptDemonstration
from envs.demonstrations.failures import configured_failures
from envs.demonstrations.formats import known_formats
from envs.files import exclusive
from rl.returns.dense import Goal, components
from rl.returns.stored import (
    VERSION,
    Rows,
    StoredEpisode,
    read_returns,
    returns_file,
    scoring_settings,
    write_returns,
)

OnProgress = Callable[[int, int], None]
"""Called with the number of episodes whose returns are there, and that of all."""

COMPUTE = "run `python -m launch.returns` with the same settings"


@dataclass(frozen=True)
class EpisodeReturns:
    """The dense rewards and the returns of the N = T + 1 observations of an episode."""

    reference: EpisodeReference
    rewards: npt.NDArray[np.float32]  # [N]
    returns: npt.NDArray[np.float32]  # [N]
    components: npt.NDArray[np.float32]  # [N, 16], without weights: `rl.returns.dense.COLUMNS`


@dataclass(frozen=True)
class Computed:
    """What is stored after a call, and how many episodes of it were computed by that call."""

    returns: list[EpisodeReturns]  # by task, mode, kind and index
    now: int


@dataclass(frozen=True)
class Job:
    """An episode, and the one whose last frame it is compared with."""

    reference: EpisodeReference
    goal: EpisodeReference
    key: str

    @property
    def name(self) -> tuple[str, int]:
        """What tells it from the other episodes of its task and mode."""
        return self.reference.kind, self.reference.index


def compute_returns(config: Config, on_progress: OnProgress = lambda done, total: None) -> Computed:
    """Compute and store the returns of demonstrations and of `returns.failures`. Return all of them.

    Those whose files and settings are the same as when they were stored are kept. Where only weights, discount, horizon
    or `after_end` have changed, no picture is read. Raises ValueError if there are no demonstrations, or no episodes of
    a kind that is named; `DamagedFile` for a damaged episode. A damaged file of returns is set aside.
    """
    jobs = _jobs(config, "all")
    total, done, computed = sum(map(len, jobs.values())), 0, 0
    folder = returns_folder(config)
    if all(_fits(returns_file(folder, *name), of_task, config.returns) for name, of_task in jobs.items()):
        on_progress(total, total)
        return Computed(_stored(config, jobs), 0)  # without a lock: the folder may be read-only
    with exclusive(folder):
        for (task, mode), of_task in jobs.items():
            path = returns_file(folder, task, mode)
            known, settings = _known(path)
            missing = [job for job in of_task if not _is_known(job, known)]
            for job in missing:
                known[job.name] = _computed(job, config.returns)
                computed += 1
                on_progress(done + computed, total)
            if missing or settings != scoring_settings(config.returns):
                write_returns(path, [known[name] for name in sorted(known)], config.returns)
            done += len(of_task) - len(missing)
            on_progress(done + computed, total)
    return Computed(_stored(config, jobs), computed)


def configured_returns(config: Config, split: str = "all") -> list[EpisodeReturns]:
    """The stored returns of a split's demonstrations and `returns.failures`, by task, mode, kind and index.

    Raises ValueError, with the command to run, if they were not computed, or not from these files and settings, and if
    the split has no demonstrations; `DamagedFile` if a file of them is damaged.
    """
    return _stored(config, _jobs(config, split))


def _stored(config: Config, jobs: Mapping[tuple[str, str], Sequence[Job]]) -> list[EpisodeReturns]:
    """Read the returns of these episodes. Raises as `configured_returns` does."""
    found: list[EpisodeReturns] = []
    for (task, mode), of_task in jobs.items():
        path = returns_file(returns_folder(config), task, mode)
        stored = read_returns(path)
        if stored is None:
            raise ValueError(f"{path} is missing: {COMPUTE}")
        if stored.settings != scoring_settings(config.returns):
            raise ValueError(f"{path} was computed with other settings of `returns`: {COMPUTE}")
        rows = stored.rows_of()
        for job in of_task:
            episode, place = rows.get(job.name, (None, slice(0)))
            if episode is None or episode.key != job.key:
                reason = "has no returns of" if episode is None else "was computed from other files or settings than"
                raise ValueError(f"{path} {reason} {job.reference.path}: {COMPUTE}")
            columns = (stored.tensors[name][place] for name in ("rewards", "returns", "components"))
            found.append(EpisodeReturns(job.reference, *columns))
    return found


def returns_folder(config: Config) -> Path:
    """Where the returns are stored: beside the demonstrations unless `returns.folder` says otherwise."""
    return Path(config.returns.folder) if config.returns.folder else Path(config.demonstrations.root) / "returns"


def _jobs(config: Config, split: str) -> dict[tuple[str, str], list[Job]]:
    """The episodes of a split by task and mode. Goals may be in any split, since they are of the same scene."""
    own, tasks = config.demonstrations, config.env.tasks
    every = configured_episodes(own, tasks, "all")
    chosen = every if split == "all" else configured_episodes(own, tasks, split)
    kinds = list(dict.fromkeys(config.returns.failures))
    failures = configured_failures(own, tasks, split, kinds)
    _check_kinds(config, configured_failures(own, tasks, "all", kinds), kinds)
    goals = {(one.task, one.mode, one.index): one for one in every}
    digest = lru_cache(maxsize=None)(_digest)  # a file may hold many episodes
    jobs: dict[tuple[str, str], list[Job]] = {(task, mode): [] for task in tasks for mode in own.modes}
    for one in [*chosen, *failures]:
        if one.index >= own.episodes_per_task:
            continue
        goal = _goal_of(one, goals, config.returns)
        key = _key_of(one, goal, config.returns, digest)
        jobs[one.task, one.mode].append(Job(one, goal, key))
    return {name: of_task for name, of_task in jobs.items() if of_task}


def _check_kinds(config: Config, failures: Sequence[EpisodeReference], kinds: Collection[str]) -> None:
    """Raise ValueError if a task has no episode of a kind in one of the modes."""
    found = {(one.task, one.mode, one.kind) for one in failures}
    for kind in kinds:
        modes = config.demonstrations.modes
        missing = [f"{task} ({mode})" for task in config.env.tasks for mode in modes if (task, mode, kind) not in found]
        if missing:
            raise ValueError(
                f"no episodes of the kind {kind} of {', '.join(missing)} in {config.demonstrations.root}: run "
                f'`make demos ARGS="demonstrations.failures.{kind}=20"`, or leave {kind} out of returns.failures'
            )


def _goal_of(
    one: EpisodeReference, demonstrations: Mapping[tuple[str, str, int], EpisodeReference], settings: ReturnsConfig
) -> EpisodeReference:
    """The episode whose last frame `one` is compared with. Raises ValueError if its demonstration is not there."""
    if one.succeeded or settings.failed_goal == "own":
        return one
    demonstration = demonstrations.get((one.task, one.mode, one.index))
    if demonstration is None or demonstration.seed != one.seed:
        raise ValueError(
            f"{one.path} failed, and there is no demonstration in its scene (seed {one.seed}) to compare it with: "
            "collect the demonstrations again, or use returns.failed_goal=own"
        )
    return demonstration


def _key_of(
    one: EpisodeReference, goal: EpisodeReference, settings: ReturnsConfig, digest: Callable[[Path], bytes]
) -> str:
    """A hash of all that the components of an episode depend on. Where the files are does not matter."""
    total = hashlib.sha256(f"{VERSION}/{settings.mse_scale!r}\n".encode())
    for episode in (one, goal):
        units = "" if episode.units in (None, Units()) else f"{episode.units}"
        total.update(f"{episode.kind}/{episode.index}/{episode.row}/{episode.succeeded}/{units}\n".encode())
        for path in known_formats()[episode.format].files(episode):
            try:
                total.update(digest(path))
            except OSError as error:
                raise CorruptDemonstration(path, f"it cannot be read ({error.strerror})") from error
    return total.hexdigest()


def _digest(path: Path) -> bytes:
    """Hash a whole file. Whatever changes in an episode, its returns are computed again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _fits(path: Path, jobs: Sequence[Job], settings: ReturnsConfig) -> bool:
    """Whether a file has the returns of all these episodes."""
    try:
        stored = read_returns(path)
    except DamagedFile:
        return False
    if stored is None or stored.settings != scoring_settings(settings):
        return False
    known = {name: one.key for name, (one, _) in stored.rows_of().items()}
    return all(known.get(job.name) == job.key for job in jobs)


def _known(path: Path) -> tuple[dict[tuple[str, int], Rows], dict[str, object]]:
    """The components that are stored, by kind and index, and the settings of what was computed from them."""
    try:
        stored = read_returns(path)
    except DamagedFile as damaged:
        set_aside(damaged)
        stored = None
    return ({}, {}) if stored is None else (stored.components(), stored.settings)


def _is_known(job: Job, known: Mapping[tuple[str, int], Rows]) -> bool:
    return job.name in known and known[job.name][0].key == job.key


def _computed(job: Job, settings: ReturnsConfig) -> Rows:
    """Compute the components of an episode."""
    episode = read_episode(job.reference)
    goal = Goal.of(episode if job.goal == job.reference else read_episode(job.goal))
    try:
        rows = components(episode, goal, settings.mse_scale)
    except ValueError as error:
        raise ValueError(f"{job.reference.path} cannot be compared with the end of {job.goal.path}: {error}") from error
    one = job.reference
    named = f"{job.goal.kind}/{job.goal.index}"
    return StoredEpisode(one.kind, one.index, one.seed, one.succeeded, named, job.key, len(rows)), rows
