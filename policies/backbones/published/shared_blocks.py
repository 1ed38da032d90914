"""One set of Wan's blocks for video and action, with an own way in and out for each (LingBot-VA).

A chunk is the observed latent frame and the future ones, and as many actions for each frame. The frames attend to each
other and never to actions, so that the keys and values of the video are computed once for all steps of the actions. The
actions attend to each other and to the video. Those of the observed frame lie before the query and are always 0.

From the second query of an episode on, both read what came before instead of the observed frame: the keys and values of
all frames and actions since the episode began, clean and as they really were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor, nn

from policies.backbones import wan as driver
from policies.backbones.door import History, Observation, Output, Point, Want
from policies.backbones.published.action_spaces import ToolPosesFromFirst
from policies.backbones.published.frozen import FrozenCascade
from policies.backbones.published.history import Before, EpisodeMemory, Reading, Rotary, known_tokens, padded
from policies.backbones.published.layout import EMPTY_TEXT, ActionNumbers, Layout, Size
from policies.backbones.published.mixture import video_expert
from policies.backbones.published.pictures import Pictures as EpisodePictures
from policies.backbones.shapes import OBSERVED_FRAMES
from policies.backbones.wan import KeysValues

MOST_ACTION = 1.5  # normalised actions of a history are kept within it, as its trainer keeps those that it shows


class Patches(nn.Linear):
    """A patch embedding whose weights [D, C p p] are stored as those of a linear layer."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__(channels * patch * patch, width)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, D, f, h / p, w / p] of latents [B, C, f, h, w]."""
        kernel = self.weight.view(len(self.weight), x.shape[1], 1, self.patch, self.patch)
        return functional.conv3d(x, kernel, self.bias, stride=(1, self.patch, self.patch))


class SharedBlocks(nn.Module):
    """A Wan transformer whose blocks also run the tokens of actions."""

    def __init__(self, size: Size, numbers: ActionNumbers, guidance: float = 1.0) -> None:
        super().__init__()
        self.video = video_expert(size)
        self.video.register_module("patch_embedding", Patches(size.channels, size.width, size.patch))
        self.frames, self.head_dim = size.frames, size.head_dim
        self.actions_of_a_frame = size.horizon // (size.frames - OBSERVED_FRAMES)
        self.action_dim, self.numbers = numbers.action_dim, numbers.network_dim or numbers.action_dim
        self.places = list(numbers.places or range(numbers.action_dim))
        self.guidance = guidance
        self.action_encoder = nn.Linear(self.numbers, size.width)
        self.action_times = WanTimeTextImageEmbedding(size.width, size.freq_dim, 6 * size.width, size.text_dim)
        self.action_times.register_module("text_embedder", None)  # texts are read by that of the video
        self.action_head = nn.Linear(size.width, self.numbers)

    def text_keys(self, text: Tensor) -> KeysValues:
        """Return the cross-attention keys and values of text features [B, S, text_dim] for every block."""
        return driver.text_keys_values(driver.blocks_of(self.video), driver.text_tokens(self.video, text))

    def imagine(
        self, x: Tensor, sigma: Tensor, text: KeysValues, before: Before | None = None, run: int = 0
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """Return velocity [B, C, F_all, h, w], last hidden states of the future [B, L, D], and keys and values.

        `x` [B, C, F_all, h, w] has the clean observed frame first; `sigma` [B, F] are the levels of the others. The
        observed frame attends to the future too, so that its keys, which are among those returned, change along a walk.
        A row that has something before it reads that, its `run` with the instruction or without, and no observed frame.
        """
        skipped = before.skipped if before else 0
        x, levels = x[:, :, skipped:], _after_observed(sigma)[:, skipped:]
        tokens = driver.begin(self.video, x, levels)
        count = tokens.hidden.shape[1]
        observed = count // x.shape[2] * (OBSERVED_FRAMES - skipped)
        past, rotary = None, tokens.rotary
        if before:
            past, rotary = Reading(before, run, [before.read(count, observed)]), before.video_rotary
        hidden, keys_values = self._run(tokens.hidden, tokens.modulation, rotary, text, past)
        flow = driver.read_flow(self.video, driver.BlockOutput(hidden, tokens.time_embedding, keys_values), x.shape)
        return functional.pad(flow, (0, 0, 0, 0, skipped, 0)), hidden[:, observed:], keys_values

    def action(
        self, actions: Tensor, sigma: Tensor, text: KeysValues, video: KeysValues, before: Before | None = None
    ) -> Tensor:
        """Return the velocity [B, T, A] of future actions [B, T, A] at noise levels [B].

        `video` holds the keys and values that `imagine` returned with the same `before`.
        """
        frames = self.frames - (before.skipped if before else 0)
        now = frames - (self.frames - OBSERVED_FRAMES)  # the observed frames that are run
        observed = self.actions_of_a_frame * now
        chunk = functional.pad(actions, (0, 0, observed, 0))
        levels = _after_observed(sigma[:, None].expand(-1, self.frames - OBSERVED_FRAMES))[:, -frames:]
        past: KeysValues | Reading = video
        rotary = _rotary(0, frames, self.actions_of_a_frame, self.head_dim, actions.device)
        if before:
            seen = video[0][0].shape[1]
            read = [before.read(seen, seen // frames * now), before.read(chunk.shape[1], observed)]
            past, rotary = Reading(before, 0, read, video), before.action_rotary
        hidden, embedding, _ = self._run_actions(chunk, levels, rotary, text, past)
        flow = driver.read_head(self.video.scale_shift_table, self.video.norm_out, self.action_head, hidden, embedding)
        return flow[:, observed:, self.places]

    def keep(
        self, latents: Tensor, actions: Tensor, text: KeysValues, past: KeysValues | None, first: int
    ) -> KeysValues:
        """Return the keys and values [1, L, H, K] of clean frames [1, C, f, h, w], then of their actions [1, N, A].

        They read `past`, which those before them left. `first` is the position in time of the first frame.
        """
        levels = torch.zeros(1, latents.shape[2], device=latents.device)
        tokens = driver.begin(self.video, latents, levels, first)
        _, video = self._run(tokens.hidden, tokens.modulation, tokens.rotary, text, past)
        rotary = _rotary(first, latents.shape[2], self.actions_of_a_frame, self.head_dim, latents.device)
        read = driver.join([past, video], dim=1) if past else video
        return driver.join([video, self._run_actions(actions, levels, rotary, text, read)[2]], dim=1)

    def before(self, memories: Sequence[EpisodeMemory | None], observed: Tensor, joints: Tensor) -> Before | None:
        """Put the memories of a batch together. None if no row has one.

        `observed` [B, C, 1, h, w] and `joints` [B, A] are those of the observations.
        """
        if not any(memories):
            return None
        skipped = 0 if not all(memories) else OBSERVED_FRAMES
        frames = self.frames - skipped
        video, action = [], []
        for memory in memories:
            first = (memory.frames - OBSERVED_FRAMES if memory else 0) + skipped
            video.append(driver.rotary_of_frames(self.video, observed.expand(-1, -1, frames, -1, -1), first))
            action.append(_rotary(first, frames, self.actions_of_a_frame, self.head_dim, observed.device))
        return Before(
            [padded(memories, run) for run in range(1 if self.guidance == 1 else 2)],
            None,
            known_tokens(memories, observed.device),
            torch.tensor([memory is None for memory in memories], device=observed.device),
            torch.stack([memory.joints if memory else own for memory, own in zip(memories, joints, strict=True)]),
            (torch.cat([cos for cos, _ in video]), torch.cat([sin for _, sin in video])),
            (torch.cat([cos for cos, _ in action]), torch.cat([sin for _, sin in action])),
            skipped,
        )

    def _run(
        self, hidden: Tensor, modulation: Tensor, rotary: Rotary, text: KeysValues, past: KeysValues | Reading | None
    ) -> tuple[Tensor, KeysValues]:
        """Run tokens through all blocks. Returns their last hidden states, and their keys and values."""
        keys_values: KeysValues = []
        for index, block in enumerate(driver.blocks_of(self.video)):
            layer_past = None if past is None else past[index]
            hidden, own = driver.run_block(block, hidden, modulation, rotary, text[index], layer_past)
            keys_values.append(own)
        return hidden, keys_values

    def _run_actions(
        self, actions: Tensor, levels: Tensor, rotary: Rotary, text: KeysValues, past: KeysValues | Reading
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """Run actions [B, N, A] of frames at noise levels [B, f]. Returns what `_run` does, with time embeddings."""
        chunk = actions.new_zeros(*actions.shape[:2], self.numbers)
        chunk[..., self.places] = actions
        hidden = self.action_encoder(chunk)
        embedding, modulation = driver.time_modulation(self.action_times, levels, hidden.dtype)
        embedding, modulation = (part.repeat_interleave(self.actions_of_a_frame, 1) for part in (embedding, modulation))
        hidden, keys_values = self._run(hidden, modulation, rotary, text, past)
        return hidden, embedding, keys_values


def _after_observed(sigma: Tensor) -> Tensor:
    """Return levels [B, F_all] of levels [B, F] of the future: the observed frame is clean."""
    return torch.cat([sigma.new_zeros(len(sigma), OBSERVED_FRAMES), sigma], dim=1)


@lru_cache(maxsize=128)
def _rotary(first: int, frames: int, each: int, head_dim: int, device: torch.device) -> Rotary:
    """Return the rotary tables of actions, which lie at even distances behind their frame, and beside its picture."""
    behind = torch.arange(1, each + 1, dtype=torch.float64, device="cpu") / (each + 1)
    times = (torch.arange(first, first + frames, device="cpu")[:, None] + behind).flatten()
    cos, sin = driver.rotary_tables(torch.stack([times, -torch.ones_like(times), -torch.ones_like(times)], 1), head_dim)
    return cos.to(device), sin.to(device)


@dataclass
class SharedContext:
    """The encoded observations of a batch, which stay the same along a walk."""

    observed: Tensor  # float32 [B, C, 1, h, w]
    text: KeysValues
    joints: Tensor  # float32 [B, A], in physical units
    memories: tuple[EpisodeMemory | None, ...] = ()  # of each row; empty: every row is the first query of an episode
    before: Before | None = None  # what they hold, put together

    def __len__(self) -> int:
        return len(self.observed)

    def select(self, rows: Tensor) -> SharedContext:
        return SharedContext(
            self.observed[rows],
            driver.select_rows(self.text, rows),
            self.joints[rows],
            tuple(self.memories[row] for row in rows.tolist()) if self.memories else (),
            self.before.select(rows) if self.before else None,
        )

    def history(self, row: int) -> EpisodeMemory | None:
        """See `policies.backbones.door.RememberingContext`."""
        return self.memories[row] if self.memories else None


class FrozenSharedBlocks(FrozenCascade):
    """See `policies.backbones.door.FrozenWAM`. A memory holds the keys and values of a chunk's frames at their levels.

    With guidance, a forward that gives the video's velocity runs the network twice, with the instruction and with an
    empty text. What the action reads, and the pooled feature, are those of the run with the instruction.

    What came before a query is in the `EpisodeMemory` of its episode. Nothing of an episode is kept here.
    """

    model: SharedBlocks
    pictures: EpisodePictures

    def __init__(self, model: SharedBlocks, *parts: Any) -> None:
        """Raise ValueError if guidance needs the features of the empty text, and they were not encoded."""
        super().__init__(model, *parts)
        with torch.no_grad():
            self._no_text = self._text_keys([EMPTY_TEXT]) if model.guidance != 1 else []

    @torch.no_grad()
    def observe(
        self, observations: Sequence[Observation], instructions: Sequence[str], histories: Sequence[History] = ()
    ) -> SharedContext:
        context: SharedContext = super().observe(observations, instructions)
        rows = [driver.select_rows(context.text, torch.tensor([row])) for row in range(len(histories))]
        return self.after(context, [self._memory(*pair) for pair in zip(histories, rows, strict=True)])

    @torch.no_grad()
    def observe_latents(self, observed: Tensor, joints: Tensor, instructions: Sequence[str]) -> SharedContext:
        return SharedContext(observed, self._text_keys(instructions), joints)

    def after(self, context: SharedContext, memories: Sequence[EpisodeMemory | None]) -> SharedContext:
        """Return the context whose rows read what their episodes hold."""
        before = self.model.before(memories, context.observed, context.joints)
        return replace(context, memories=tuple(memories), before=before)

    @torch.no_grad()
    def remember(
        self, memory: EpisodeMemory, latents: Tensor, actions: Tensor, instruction: KeysValues
    ) -> EpisodeMemory:
        """Return the memory after clean frames float32 [1, C, f, h, w] and their normalised actions [1, N, A].

        The first frame of an episode has actions too: zeros. `instruction` holds the keys and values of its text.
        """
        frames, actions = latents.to(self.dtype), actions.to(self.dtype)
        chunk = tuple(
            self.model.keep(frames, actions, text, memory.keys_values(run), memory.frames)
            for run, text in enumerate([instruction, self._no_text] if self._no_text else [instruction])
        )
        return memory.then(chunk, latents.shape[2], self.spec.history_chunks)

    def _memory(self, history: History, instruction: KeysValues) -> EpisodeMemory | None:
        """Return what an episode holds after the chunks of its history; None if there was none.

        Raises ValueError for a chunk of another length.
        """
        memory: EpisodeMemory | None = history.kept
        for chunk in history.chunks:
            if len(chunk.actions) != self.spec.action_horizon:
                raise ValueError(
                    f"a chunk of a history has {len(chunk.actions)} actions, those of backbone "
                    f"{self.spec.weights_hash} have {self.spec.action_horizon}: give it whole chunks"
                )
            latents, streams = [], memory.streams if memory else None
            if memory is None:
                memory = EpisodeMemory((), 0, {}, self._tensor(history.first["joints"]))
                first, streams = self.pictures.encode_on({name: part[None] for name, part in history.first.items()})
                latents.append(first)
            seen, streams = self.pictures.encode_on(chunk.observations, streams)
            physical = self.space.actions(self._tensor(chunk.actions)[None], memory.joints[None], self.arms)
            numbers = self.normalisation.actions.normalise(physical).clamp(-MOST_ACTION, MOST_ACTION)
            numbers = functional.pad(numbers, (0, 0, len(latents) * self.model.actions_of_a_frame, 0))
            memory = replace(
                self.remember(memory, torch.cat([*latents, seen], dim=2), numbers, instruction), streams=streams
            )
        return memory

    def _tensor(self, numbers: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(numbers, dtype=np.float32)).to(self.device)

    def _text_keys(self, instructions: Sequence[str]) -> KeysValues:
        return self.model.text_keys(self.texts.features(instructions).to(self.device, self.dtype))

    def _run_video(self, context: SharedContext, point: Point, wants: Want, output: Output) -> None:
        x, sigma = point.x.to(self.dtype), point.sigma_video
        flow, hidden, output.memory = self.model.imagine(x, sigma, context.text, context.before)
        flow = flow.float()
        if self._no_text and Want.VIDEO_FLOW in wants:
            no_text: KeysValues = [tuple(part.expand(len(x), -1, -1, -1) for part in layer) for layer in self._no_text]
            free = self.model.imagine(x, sigma, no_text, context.before, run=1)[0].float()
            flow = free + self.model.guidance * (flow - free)
        flow[:, :, :OBSERVED_FRAMES] = 0
        output.video_flow, output.pooled = flow, hidden.float().mean(dim=1)

    def _action_flow(self, context: SharedContext, point: Point, memory: KeysValues) -> Tensor:
        actions = point.actions.to(self.dtype)
        return self.model.action(actions, point.sigma_action, context.text, memory, context.before)

    def finish_actions(self, context: SharedContext, actions: Tensor) -> npt.NDArray[np.float32]:
        """Do what the door says. Poses are relative to those at the first frame of an episode."""
        if context.before is None:
            return super().finish_actions(context, actions)
        physical = self.normalisation.actions.denormalise(actions.float())
        space = cast(ToolPosesFromFirst, self.space)
        targets = space.targets(physical, context.joints, self.arms, context.before.joints)
        chunk: npt.NDArray[np.float32] = targets.cpu().numpy()
        return chunk


FROZEN = FrozenSharedBlocks


def build(layout: Layout, size: Size) -> SharedBlocks:
    """Return the networks of a layout with random weights."""
    return SharedBlocks(size, layout.numbers, layout.guidance)
