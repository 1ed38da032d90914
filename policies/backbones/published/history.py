"""What a query reads of its episode: the keys and values of the frames and actions before it (LingBot-VA).

An `EpisodeMemory` belongs to one episode and never changes: every chunk makes a new one. `Before` puts those of the
rows of a batch together, which may have seen more or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from policies.backbones import wan as driver
from policies.backbones.published.pictures import Streams
from policies.backbones.wan import KeysValues

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class EpisodeMemory:
    """The chunks of one episode that its next query reads."""

    chunks: tuple[tuple[KeysValues, ...], ...]  # oldest first; each [1, L, H, K] with the instruction, then without
    frames: int  # the latent frames of the episode, those of dropped chunks included
    streams: Streams  # the state of the autoencoder after the last picture
    joints: Tensor  # float32 [A], those at the first frame

    def keys_values(self, run: int) -> KeysValues | None:
        """Return those of all chunks [1, S, H, K], with the instruction (run 0) or without (1). None: no chunk."""
        return driver.join([chunk[run] for chunk in self.chunks], dim=1) if self.chunks else None

    def then(self, chunk: tuple[KeysValues, ...], frames: int, window: int) -> EpisodeMemory:
        """Return the memory after one more chunk of so many frames. It holds the newest `window` chunks."""
        return replace(self, chunks=(*self.chunks, chunk)[-window:], frames=self.frames + frames)


@dataclass
class Before:
    """The memories of a batch. A row without one is the first query of its episode, and reads its observed frame."""

    runs: list[KeysValues]  # with the instruction and, with guidance, without: [U, S, H, K] in each layer
    rows: Tensor | None  # int64 [B]: which of these U each row reads; None: they are the rows
    known: Tensor  # bool [B, S]: false for the padding of rows that have seen less
    begins: Tensor  # bool [B]: whether the row has no memory
    joints: Tensor  # float32 [B, A], those at the first frame of the episode
    video_rotary: Rotary  # [B, L, 1, K], of the frames of a chunk that are run
    action_rotary: Rotary
    skipped: int  # how many observed frames of a chunk are not run, since no row reads them

    def select(self, rows: Tensor) -> Before:
        """Return the rows at the int64 indices [b]. The keys and values, which are large, are not copied."""
        return Before(
            self.runs,
            rows if self.rows is None else self.rows[rows],
            self.known[rows],
            self.begins[rows],
            self.joints[rows],
            (self.video_rotary[0][rows], self.video_rotary[1][rows]),
            (self.action_rotary[0][rows], self.action_rotary[1][rows]),
            self.skipped,
        )

    def read(self, tokens: int, observed: int) -> Tensor:
        """Return bool [B, tokens]: whether those of a chunk are read, of which the first are of the observed frame."""
        return self.begins[:, None] | (torch.arange(tokens, device=self.begins.device) >= observed)


@dataclass(frozen=True)
class Reading:
    """The keys and values that the tokens of a chunk read besides their own. A layer's are put together when asked for.

    Those of all layers and rows at once would be as large as the histories themselves.
    """

    before: Before
    run: int
    read: Sequence[Tensor]  # bool [B, L], one after another: which of the chunk's keys are read
    chunk: KeysValues | None = None  # those of the chunk which it reads, behind what came before

    def __getitem__(self, layer: int) -> tuple[Tensor, ...]:
        pair, rows = self.before.runs[self.run][layer], self.before.rows
        key, value = pair if rows is None else (part[rows] for part in pair)
        if self.chunk is not None:
            key, value = (torch.cat(parts, dim=1) for parts in zip((key, value), self.chunk[layer], strict=True))
        return key, value, torch.cat([self.before.known, *self.read], dim=1)[:, None, None]


def padded(memories: Sequence[EpisodeMemory | None], run: int) -> KeysValues:
    """Return the keys and values of all rows [B, S, H, K], with zeros behind those of rows that have seen less."""
    rows = [memory.keys_values(run) if memory else None for memory in memories]
    none = [tuple(part[:, :0] for part in layer) for layer in next(row for row in rows if row)]
    layers = zip(*(row or none for row in rows), strict=True)
    return [
        tuple(pad_sequence([part[0] for part in parts], batch_first=True) for parts in zip(*layer, strict=True))
        for layer in layers
    ]


def known_tokens(memories: Sequence[EpisodeMemory | None], device: torch.device) -> Tensor:
    """Return bool [B, S]: true where a row has a token, false in its padding."""
    counts = [sum(chunk[0][0][0].shape[1] for chunk in memory.chunks) if memory else 0 for memory in memories]
    return torch.arange(max(counts), device=device) < torch.tensor(counts, device=device)[:, None]
