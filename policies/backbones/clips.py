"""Training clips: windows of episodes as frames, joints, actions and instructions, which are then encoded as latents.

Shapes: N clips, C latent channels, F latent frames, T actions of a chunk, A action dimension.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from configs.stored import DamagedFile, parse_json


@dataclass
class RecordedEpisode:
    """One demonstration. A family adds the pictures that it encodes. The action of a step is the joints of the next."""

    joints: npt.NDArray[np.float32]  # [T + 1, A]
    instruction: str
    task: str

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """Return the indices of `length` frames from `start` on. Past the end, the last frame is repeated."""
        return np.minimum(np.arange(start, start + length), len(self.joints) - 1)


@dataclass
class Clips:
    """Encoded windows, one for each row."""

    latents: Tensor  # float16 [N, C, F, h, w]
    depth: Tensor  # float16 [N, C, F, h, w], the latents of inverse depth; [N, 0] if it was not encoded
    joints: Tensor  # float32 [N, A]
    actions: Tensor  # float32 [N, T, A], absolute
    instruction: Tensor  # int64 [N], index into `instructions`
    episode: Tensor  # int64 [N]
    start: Tensor  # int64 [N]
    instructions: list[str]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, size: int, generator: Generator) -> Clips:
        """Draw `size` random clips, with replacement."""
        return self.select(torch.randint(len(self), (size,), generator=generator))

    def select(self, rows: Tensor) -> Clips:
        """Return the clips at the indices `rows`, their latents in float32."""
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        columns |= {name: columns[name].float() for name in ("latents", "depth")}
        return Clips(**columns, instructions=self.instructions)

    def save(self, path: Path) -> None:
        tensors = {name: getattr(self, name).contiguous() for name in _COLUMNS}
        save_file(tensors, path, metadata={_TEXTS: json.dumps(self.instructions)})

    @classmethod
    def load(cls, path: Path) -> Clips:
        """Read the clips of a file. Raises `DamagedFile` if it is cut, or does not say which text each clip has."""
        try:
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                columns = {name: file.get_tensor(name) for name in _COLUMNS if name in names or name != "depth"}
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise DamagedFile(path, f"it does not hold clips ({error})", FIX) from error
        columns.setdefault("depth", torch.empty(len(columns["start"]), 0))  # older files have none
        rows = {column.shape[:1] for column in columns.values()}
        if len(rows) > 1 or not columns["start"].numel() or columns["instruction"].dtype != torch.int64:
            raise DamagedFile(path, f"its columns do not have the same rows ({sorted(rows)})", FIX)
        return cls(**columns, instructions=_stored_texts(path, metadata, columns["instruction"]))


FIX = "The demonstrations are encoded again."
_TEXTS, _JOINED_TEXTS = "instructions.json", "instructions"  # older files hold the texts joined by line breaks
_COLUMNS = ("latents", "depth", "joints", "actions", "instruction", "episode", "start")


def _stored_texts(path: Path, metadata: Mapping[str, str], index: Tensor) -> list[str]:
    """Return the texts to which `index` refers. Raises `DamagedFile` if there are others.

    Every text is used. So texts that an older version joined are taken only if they are as many as are used: otherwise
    one of them has a line break of its own, and nothing says where it ends.
    """
    if _TEXTS in metadata:
        texts = parse_json(path, metadata[_TEXTS], list[str], FIX)
    else:
        texts = metadata.get(_JOINED_TEXTS, "").split("\n")
    if int(index.min()) < 0 or int(index.max()) + 1 != len(texts):
        reason = f"it holds {len(texts)} instructions, and its clips refer to {int(index.max()) + 1}"
        raise DamagedFile(path, reason, FIX)
    return texts


def encode_episodes(
    encode: Callable[[Any, npt.NDArray[np.int64]], tuple[Tensor, Tensor]],
    episodes: Sequence[RecordedEpisode],
    frames: int,
    horizon: int,
    stride: int,
    progress: Callable[[int, int], None],
) -> Clips:
    """Encode all windows of all episodes, one at every `stride` control steps. `progress` gets done and total.

    `encode` gets an episode and the indices of frames [N, frames]. It returns the latents of pictures and of depth.
    """
    instructions = sorted({episode.instruction for episode in episodes})
    encoded: list[dict[str, Tensor]] = []
    for number, episode in enumerate(episodes):
        starts = np.arange(0, len(episode.joints) - 1, stride)
        windows = np.stack([episode.window(start, frames) for start in starts])
        chunks = np.stack([episode.window(start + 1, horizon) for start in starts])
        latents, depth = encode(episode, windows)
        encoded.append(
            {
                "latents": latents.half(),
                "depth": depth.half(),
                "joints": torch.from_numpy(episode.joints[starts]),
                "actions": torch.from_numpy(episode.joints[chunks]),
                "instruction": torch.full((len(starts),), instructions.index(episode.instruction)),
                "episode": torch.full((len(starts),), number),
                "start": torch.from_numpy(starts),
            }
        )
        progress(number + 1, len(episodes))
    columns = {name: torch.cat([rows[name] for rows in encoded]) for name in _COLUMNS}
    return Clips(**columns, instructions=instructions)
