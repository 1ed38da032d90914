"""Training clips: windows of episodes, as frames, joints, actions and instructions; then as latents.

Shapes: N clips, C latent channels, F latent frames, T actions of a chunk, A action dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from policies.wam.codecs import LatentCodec


@dataclass
class EpisodeFrames:
    """One demonstration: canvas frames uint8 [T + 1, H, W, 3], joints float32 [T + 1, A] (actions are the next joints)."""

    canvas: npt.NDArray[np.uint8]
    joints: npt.NDArray[np.float32]
    instruction: str
    task: str

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """Indices start .. start + length; past the end the last frame is held."""
        return np.minimum(np.arange(start, start + length), len(self.joints) - 1)


@dataclass
class Clips:
    """Encoded windows. `latents` float16 [N, C, F, h, w]; `joints` [N, A]; `actions` [N, T, A] absolute; row ids int64 [N]."""

    latents: Tensor
    joints: Tensor
    actions: Tensor
    instruction: Tensor
    episode: Tensor
    start: Tensor
    instructions: list[str]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, size: int, generator: Generator) -> Clips:
        return self.select(torch.randint(len(self), (size,), generator=generator))

    def select(self, rows: Tensor) -> Clips:
        columns = (self.latents, self.joints, self.actions, self.instruction, self.episode, self.start)
        latents, *others = (column[rows] for column in columns)
        return Clips(latents.float(), *others, self.instructions)

    def texts(self) -> list[str]:
        return [self.instructions[index] for index in self.instruction.tolist()]

    def save(self, path: Path) -> None:
        tensors = {name: getattr(self, name).contiguous() for name in _COLUMNS}
        save_file(tensors, path, metadata={"instructions": "\n".join(self.instructions)})

    @classmethod
    def load(cls, path: Path) -> Clips:
        with safe_open(path, framework="pt") as file:
            columns = [file.get_tensor(name) for name in _COLUMNS]
            return cls(*columns, file.metadata()["instructions"].split("\n"))


_COLUMNS = ("latents", "joints", "actions", "instruction", "episode", "start")


def encode_episodes(
    codec: LatentCodec,
    episodes: Sequence[EpisodeFrames],
    frames: int,
    horizon: int,
    stride: int,
    progress: Callable[[int, int], None],
) -> Clips:
    """All windows of all episodes, every `stride` steps."""
    instructions = sorted({episode.instruction for episode in episodes})
    columns: list[list[Tensor]] = [[] for _ in _COLUMNS]
    for number, episode in enumerate(episodes):
        starts = np.arange(0, len(episode.joints) - 1, stride)
        windows = np.stack([episode.window(start, frames) for start in starts])
        chunks = np.stack([episode.window(start + 1, horizon) for start in starts])
        count = len(starts)
        columns[0].append(codec.encode(episode.canvas[windows]).half())
        columns[1].append(torch.from_numpy(episode.joints[starts]))
        columns[2].append(torch.from_numpy(episode.joints[chunks]))
        columns[3].append(torch.full((count,), instructions.index(episode.instruction)))
        columns[4].append(torch.full((count,), number))
        columns[5].append(torch.from_numpy(starts))
        progress(number + 1, len(episodes))
    return Clips(*(torch.cat(column) for column in columns), instructions)
