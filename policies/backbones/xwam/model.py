"""The network of X-WAM (section 4.3): all modalities are tokens of one sequence that passes through the same blocks.

    [ video tokens of each camera | T actions | first state, S future states ]

A camera's tokens carry its view embedding; cameras share spatial positions. Action i lies at the time of latent frame
i / (T / F), state i at that of i / (S / F). Each token is modulated by its own noise level: 0 for the observed frame
and the first state, the video's for the future frames, the action's for actions and future states.

Shapes: B batch, C latent channels, F_all latent frames (the first one observed), F future ones, h x w cells of all
cameras, T actions, S future states, N numbers of an action or of a state, whichever has more, D width. The shorter ones
are filled up: what is in these further numbers is not read, and their flow is 0.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from diffusers.models import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from configs.pretraining import PretrainConfig
from policies.backbones import wan as driver
from policies.backbones.codecs import build_text_encoder
from policies.backbones.shapes import OBSERVED_FRAMES, View, latent_frames, views_of
from policies.backbones.wan import KeysValues
from policies.backbones.xwam.spec import latent_shape, numbers_of

NEW_WEIGHT_STD = 0.02


def coder(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Return a network of two layers between numbers of a robot and tokens."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(approximate="tanh"), nn.Linear(width, outputs))


class DepthBranch(nn.Module):
    """Copies of the last blocks for depth. They read the main blocks, which never read them (X-WAM 4.3.3)."""

    def __init__(self, blocks: Sequence[nn.Module], width: int, outputs: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in blocks)
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(width, outputs)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)


@dataclass
class Denoised:
    """The outputs of one forward."""

    video_flow: Tensor  # [B, C, F_all, h, w]; its observed frame has no meaning
    chunk_flow: Tensor  # [B, T + S, N]
    depth: Tensor | None  # [B, C, F_all, h, w], clean; None if it was not asked for
    hidden: Tensor  # [B, L, D], the video tokens of the future frames after the last block


class XWAM(nn.Module):
    """The trainable model that a checkpoint holds."""

    def __init__(
        self, config: PretrainConfig, action_dim: int, views: Sequence[View] = (), *, encodes_text: bool = True
    ) -> None:
        """`views` are the cameras' cells if they are not those of `views_of`. `action_dim` is that of joint targets.

        Without `encodes_text` it has no text encoder of its own: texts come as features.
        """
        super().__init__()
        video, self.design = config.video, config.xwam.depth
        self.frames, self.horizon, self.states = latent_frames(config), config.action_horizon, config.frames - 1
        channels, self.height, _ = latent_shape(config)
        self.views = tuple(views) or views_of(config)
        if encodes_text:
            self.text_encoder = build_text_encoder(video)
        self.video = driver.small_transformer(video, channels)
        width = video.heads * video.head_dim
        self.view_embedding = nn.Embedding(len(self.views) * (2 if self.design == "sequence" else 1), width)
        self.numbers = action, state = numbers_of(config, action_dim)
        self.action_encoder, self.action_decoder = coder(action, width, width), coder(width, width, action)
        self.state_encoder, self.state_decoder = coder(state, width, width), coder(width, width, state)
        self.depth: DepthBranch | None = None
        if self.design == "branch":
            last = driver.blocks_of(self.video)[-config.xwam.depth_layers :]
            self.depth = DepthBranch(last, width, channels * video.patch**2)
        self._start_new_weights()

    @cached_property
    def _layout(self) -> _Layout:
        """The places of the tokens. They are made when they are needed, since a model may be built without memory."""
        return _Layout.of(self, self.video.config["patch_size"][1], self.video.config["attention_head_dim"])

    def _start_new_weights(self) -> None:
        """Initialise what a video transformer does not have, as X-WAM does."""
        added: list[nn.Module] = [self.action_encoder, self.action_decoder, self.state_encoder, self.state_decoder]
        if self.depth is not None:
            added.append(self.depth.proj_out)
        for module in (part for one in added for part in one.modules() if isinstance(part, nn.Linear)):
            nn.init.normal_(module.weight, std=NEW_WEIGHT_STD)
            nn.init.zeros_(module.bias)
        nn.init.normal_(self.view_embedding.weight, std=NEW_WEIGHT_STD)

    def copy_last_blocks_to_depth(self) -> None:
        """Let the depth branch start from the weights that the last blocks have now."""
        if self.depth is not None:
            last = driver.blocks_of(self.video)[-len(self.depth.blocks) :]
            for own, block in zip(self.depth.blocks, last, strict=True):
                own.load_state_dict(block.state_dict())

    def text_tokens(self, text: Tensor) -> Tensor:
        """Return text features [B, S, text_dim] at the width of the blocks [B, S, D]."""
        return driver.text_tokens(self.video, text)

    def text_keys(self, tokens: Tensor) -> KeysValues:
        """Return the keys and values of the text for every main block."""
        return driver.text_keys_values(driver.blocks_of(self.video), tokens)

    def denoise(
        self,
        x: Tensor,
        sigma_video: Tensor,
        chunk: Tensor,
        sigma_action: Tensor,
        first_state: Tensor,
        text: Tensor,
        text_keys: KeysValues,
        *,
        depth: bool = False,
    ) -> Denoised:
        """Run one forward.

        `x` [B, C, F_all, h, w] at `sigma_video` [B, F]; `chunk` [B, T + S, N], the actions and the future states, at
        `sigma_action` [B]; `first_state` [B, numbers of a state] is clean; `text` [B, n, D] with its keys and values.
        Depth is computed only if it is asked for, and changes no other output.
        """
        layout = self._layout.to(x.device)
        tokens = torch.cat([self._embed_video(x), self._embed_chunk(chunk, first_state)], dim=1)
        clean = sigma_action.new_zeros(len(x), OBSERVED_FRAMES)
        levels = torch.cat([clean, sigma_video, sigma_action[:, None]], dim=1)
        embedding, modulation = driver.time_modulation(self.video.condition_embedder, levels, tokens.dtype)
        embedding, modulation = embedding[:, layout.level], modulation[:, layout.level]
        blocks, seen = driver.blocks_of(self.video), layout.video_tokens
        branch_at = len(blocks) - len(self.depth.blocks) if depth and self.depth is not None else len(blocks)
        depth_tokens, depth_text = tokens, text_keys
        for index, block in enumerate(blocks):
            if index == branch_at and self.depth is not None:
                depth_tokens = tokens[:, :seen]
                depth_text = driver.text_keys_values(self._depth_blocks(), text)
            tokens, own = driver.run_block(block, tokens, modulation, layout.rotary, text_keys[index])
            if index >= branch_at:
                depth_tokens, _ = driver.run_block(
                    self._depth_blocks()[index - branch_at],
                    depth_tokens,
                    modulation[:, :seen],
                    layout.rotary_of_video,
                    depth_text[index - branch_at],
                    past=own,
                )
        flow = self._read_video(self.video, tokens[:, :seen], embedding[:, :seen], x.shape)
        predicted = None
        if branch_at < len(blocks):
            predicted = self._read_video(self.depth, depth_tokens, embedding[:, :seen], x.shape)
        actions, states = tokens[:, seen:].split([self.horizon, 1 + self.states], dim=1)
        chunk_flow = self.chunk_of(self.action_decoder(actions), self.state_decoder(states[:, 1:]))
        return Denoised(flow, chunk_flow, predicted, tokens[:, :seen][:, layout.future])

    def _depth_blocks(self) -> Sequence[WanTransformerBlock]:
        assert self.depth is not None
        return cast(Sequence[WanTransformerBlock], self.depth.blocks)

    def _embed_video(self, x: Tensor) -> Tensor:
        """Return the tokens [B, L, D], camera by camera; of each camera: frames, rows and columns of patches."""
        parts = []
        for number, (view, first) in enumerate(self.token_groups()):
            cells = x[:, :, first:, view.rows, view.columns]
            tokens = self.video.patch_embedding(cells).flatten(2).transpose(1, 2)
            parts.append(tokens + self.view_embedding.weight[number])
        return torch.cat(parts, dim=1)

    def token_groups(self) -> list[tuple[View, int]]:
        """Return the rectangles that have tokens, and the first latent frame of each.

        Depth in the sequence has no observed frame: a robot may see no depth.
        """
        groups = [(view, 0) for view in self.views]
        if self.design == "sequence":
            below = self.height // 2
            groups += [(replace(view, top=view.top + below), OBSERVED_FRAMES) for view in self.views]
        return groups

    def _embed_chunk(self, chunk: Tensor, first_state: Tensor) -> Tensor:
        actions, states = self.parts_of(chunk)
        states = torch.cat([first_state[:, None], states], dim=1)
        return torch.cat([self.action_encoder(actions), self.state_encoder(states)], dim=1)

    def chunk_of(self, actions: Tensor, states: Tensor) -> Tensor:
        """Return one tensor [B, T + S, N] of actions and future states, filled up with 0."""
        width = max(self.numbers)
        return torch.cat([functional.pad(part, (0, width - part.shape[-1])) for part in (actions, states)], dim=1)

    def parts_of(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions [B, T, their numbers] and the future states [B, S, their numbers] of a chunk."""
        actions, states = chunk.split([self.horizon, self.states], dim=1)
        return actions[..., : self.numbers[0]], states[..., : self.numbers[1]]

    def _read_video(self, head: nn.Module | None, tokens: Tensor, embedding: Tensor, shape: torch.Size) -> Tensor:
        """Return latents [B, C, F_all, h, w] from the tokens of all cameras; 0 where no camera has tokens."""
        head = cast(WanTransformer3DModel, head)
        patches = driver.read_head(head.scale_shift_table, head.norm_out, head.proj_out, tokens, embedding)
        out = patches.new_zeros(shape)
        start = 0
        for view, first in self.token_groups():
            part = (len(out), shape[1], shape[2] - first, view.height, view.width)
            patch = self.video.config["patch_size"]
            count = part[2] * (view.height // patch[1]) * (view.width // patch[2])
            out[:, :, first:, view.rows, view.columns] = driver.unpatchify(
                patches[:, start : start + count], part, patch
            )
            start += count
        return out


@dataclass
class _Layout:
    """Where the tokens of a sequence are, and which noise level each has."""

    level: Tensor  # int64 [L]: 0 for the observed frame and the first state, f for latent frame f, F_all for the action
    future: Tensor  # bool [L of the video]: the tokens of future frames
    rotary: tuple[Tensor, Tensor]  # [1, L, 1, K] each
    video_tokens: int

    @property
    def rotary_of_video(self) -> tuple[Tensor, Tensor]:
        return self.rotary[0][:, : self.video_tokens], self.rotary[1][:, : self.video_tokens]

    @classmethod
    def of(cls, model: XWAM, patch: int, head_dim: int) -> _Layout:
        positions, levels = [], []
        for view, first in model.token_groups():
            times, rows, columns = (torch.arange(n) for n in (model.frames, view.height // patch, view.width // patch))
            grid = torch.cartesian_prod(times[first:], rows, columns)
            positions.append(grid.double())
            levels.append(grid[:, 0])
        video_tokens = sum(len(level) for level in levels)
        future = model.frames - OBSERVED_FRAMES
        for count, steps in ((model.horizon, model.horizon), (1 + model.states, model.states)):
            time = torch.arange(count, dtype=torch.float64) * future / steps
            positions.append(torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], dim=1))
            levels.append(torch.full((count,), model.frames))
        levels[-1][0] = 0  # the first state is clean
        level = torch.cat(levels)
        rotary = driver.rotary_tables(torch.cat(positions), head_dim)
        return cls(level, level[:video_tokens] >= OBSERVED_FRAMES, rotary, video_tokens)

    def to(self, device: torch.device) -> _Layout:
        if self.level.device != device:
            self.level, self.future = self.level.to(device), self.future.to(device)
            self.rotary = self.rotary[0].to(device), self.rotary[1].to(device)
        return self
