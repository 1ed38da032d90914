"""Futures with their true returns: what a value expert learns from, and what it is measured on.

A future is a window of a recorded episode, encoded as a clip. Its returns are those of its first H observations. Where
the policy was asked for a chunk, the noise of its walk is known, so that the future which it imagined there, and
then acted on, can be imagined again. What came of it is what was recorded.

Shapes: N futures, M of them imagined by the policy, H returns of a prediction.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs.pretraining import PretrainConfig
from configs.schema import Config
from configs.stored import DamagedFile, read_text, set_aside
from envs.demonstrations import EpisodeReference, configured_episodes, dataset_hash, read_episode
from envs.demonstrations.failures import FailureFolder
from envs.files import replaced_atomically, write_text
from policies.backbones.checkpoint_files import read_config, resolve_checkpoint
from policies.backbones.clips import FIX, Clips, RecordedEpisode, encode_episodes
from policies.backbones.stages import Recording, Trainable, trainable
from policies.backbones.tiny.model import FrozenContext, FrozenWorldActionModel
from policies.catalogue import build_schedule
from policies.walk import walk
from rl.experience.closed_loop import query_noise_seed
from rl.returns.computing import EpisodeReturns, configured_returns

POLICY = "policy"  # the kind of the episodes that the backbone played itself
WALKED_TOGETHER = 64  # rows

OnProgress = Callable[[int, int], None]
"""Called with the number of encoded episodes, and that of all."""


@dataclass
class Futures:
    """The futures of a split, one a row, by episode and start."""

    clips: Clips
    returns: Tensor  # float32 [N, H], in the units of the dense reward
    succeeded: Tensor  # bool [N]: whether its episode did
    asked: Tensor  # int64 [M]: the rows at which the policy was asked
    noise_seeds: list[int]  # of the policy's walks there
    imagined: Tensor  # float32 [M, C, F_all, h, w]: the clean latents that these walks ended with

    def __len__(self) -> int:
        return len(self.clips)


def load_futures(
    config: Config, wam: FrozenWorldActionModel, split: str, on_progress: OnProgress = lambda done, total: None
) -> Futures:
    """Read the futures of a split, demonstrations and failures. The first call encodes them below `value.output`.

    Raises ValueError, with the command to run, if returns are missing, or if the policy's episodes cannot be imagined
    again; `DamagedFile` for damaged episodes.
    """
    episodes = configured_returns(config, split)
    repeatable = _repeatable(config, wam)
    references = [one.reference for one in episodes]
    clips = _clips(config, wam, f"clips_{split}", references, _identity(wam, episodes, config), on_progress)
    horizon = config.value.expert.horizon
    places = clips.start[:, None] + torch.arange(horizon)
    returns = torch.stack(
        [
            torch.from_numpy(episodes[number].returns)[row.clamp_max(len(episodes[number].returns) - 1)]
            for number, row in zip(clips.episode.tolist(), places, strict=True)
        ]
    )
    succeeded = torch.tensor([episodes[number].reference.succeeded for number in clips.episode.tolist()])
    asked, seeds = _asked(clips, episodes, wam.spec.action_horizon, repeatable)
    imagined = _imagined(config, wam, clips, asked, seeds)
    return Futures(clips, returns, succeeded, asked, seeds, imagined)


def load_demonstrations(
    config: Config, wam: FrozenWorldActionModel, split: str, on_progress: OnProgress = lambda done, total: None
) -> Clips:
    """Read the clips of a split's demonstrations. The first call encodes them below `value.output`.

    Raises ValueError if the split has none, and `DamagedFile` for damaged episodes.
    """
    references = configured_episodes(config.demonstrations, config.env.tasks, split)
    identity = f"{wam.spec.weights_hash}/{config.value.clip_stride}/{dataset_hash(references)}"
    return _clips(config, wam, f"demonstrations_{split}", references, identity, on_progress)


def context_of(wam: FrozenWorldActionModel, clips: Clips) -> FrozenContext:
    """Encode the observations with which clips start."""
    texts = [clips.instructions[index] for index in clips.instruction.tolist()]
    return wam.observe_latents(clips.latents[:, :, : wam.spec.observed_frames], clips.joints, texts)


def _clips(
    config: Config,
    wam: FrozenWorldActionModel,
    name: str,
    references: Sequence[EpisodeReference],
    wanted: str,
    on_progress: OnProgress,
) -> Clips:
    """Return the clips of these episodes. Those in the file `name` are taken if their identity is the `wanted` one."""
    path = Path(config.value.output) / f"{name}.safetensors"
    source = path.with_suffix(".txt")
    if path.exists() and source.exists() and read_text(source, FIX).strip() == wanted:
        try:
            return Clips.load(path)
        except DamagedFile as damaged:
            set_aside(damaged)
    settings = read_config(resolve_checkpoint(config.wam.checkpoint))
    family = trainable(settings.family)
    recorded = [_recorded(family, settings, one) for one in references]
    encode = family.encode(wam.codec, settings)
    clips = encode_episodes(
        encode, recorded, settings.frames, settings.action_horizon, config.value.clip_stride, on_progress
    )
    source.unlink(missing_ok=True)
    with replaced_atomically(path) as temporary:
        clips.save(temporary)
    write_text(source, wanted + "\n")
    return clips


def _recorded(family: Trainable, settings: PretrainConfig, one: EpisodeReference) -> RecordedEpisode:
    episode = read_episode(one)
    recording = Recording(episode.images, {}, episode.joints, episode.instruction, one.task)
    return family.record(settings, recording)


def _identity(wam: FrozenWorldActionModel, episodes: Sequence[EpisodeReturns], config: Config) -> str:
    """Return a string that changes whenever the clips would be others."""
    total = hashlib.sha256(f"{wam.spec.weights_hash}/{config.value.clip_stride}\n".encode())
    for one in episodes:
        reference = one.reference
        total.update(f"{reference.task}/{reference.mode}/{reference.kind}/{reference.index}/{reference.seed}".encode())
        total.update(one.components.tobytes())
    return total.hexdigest()


def _repeatable(config: Config, wam: FrozenWorldActionModel) -> set[tuple[str, str]]:
    """Return the tasks and modes whose policy's walks can be walked again: this backbone's, under the same schedule.

    Raises ValueError for any other if imagined futures are asked for: it would have imagined something else.
    """
    found = set()
    own = {"backbone": wam.spec.weights_hash, "schedule": config.demonstrations.failures.schedule}
    for task, mode in itertools.product(config.env.tasks, config.demonstrations.modes):
        folder = FailureFolder(Path(config.demonstrations.root), task, mode, POLICY)
        then = {key: folder.settings.get(key) for key in own}
        if then == own:
            found.add((task, mode))
        elif folder.settings and POLICY in config.returns.failures and config.value.imagined_fraction:
            raise ValueError(
                f"{folder.path} was played with {then}, not {own}, so that its futures cannot be imagined again: use "
                "the same backbone and demonstrations.failures.schedule, or value.imagined_fraction=0"
            )
    return found


def _asked(
    clips: Clips, episodes: Sequence[EpisodeReturns], every: int, repeatable: Collection[tuple[str, str]]
) -> tuple[Tensor, list[int]]:
    """Return the rows at which a repeatable policy was asked, one every `every` steps, and the noise seeds there."""
    rows, seeds = [], []
    for row, (number, start) in enumerate(zip(clips.episode.tolist(), clips.start.tolist(), strict=True)):
        one = episodes[number].reference
        if one.kind == POLICY and (one.task, one.mode) in repeatable and one.seed is not None and start % every == 0:
            rows.append(row)
            seeds.append(query_noise_seed(one.seed, start // every))
    return torch.tensor(rows, dtype=torch.int64), seeds


def _imagined(config: Config, wam: FrozenWorldActionModel, clips: Clips, asked: Tensor, seeds: Sequence[int]) -> Tensor:
    """Walk again as the policy did, from the same observations and noises. Returns the clean latents [M, ...]."""
    schedule = build_schedule(config.demonstrations.failures.schedule, wam.spec, config.schedule)
    found = [torch.empty(0, *clips.latents.shape[1:])]
    for start in range(0, len(seeds), WALKED_TOGETHER):
        chosen = clips.select(asked[start : start + WALKED_TOGETHER])
        found.append(walk(wam, context_of(wam, chosen), schedule, seeds[start : start + WALKED_TOGETHER]).end.x)
    return torch.cat(found)
