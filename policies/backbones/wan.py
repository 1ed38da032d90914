"""A loop over the blocks of diffusers' `WanTransformer3DModel`.

The class only holds the weights, so that its state dict fits checkpoints of the Hub. The loop adds what its `forward`
lacks: a noise level for each latent frame, keys and values as inputs and outputs, and causality after the first frame.
Causality needs no mask tensor: observed frames attend to observed frames and future frames to everything, in two
attention calls without a mask.

Shapes: B batch, C channels, F latent frames, N tokens of a frame, L = F N, D width, H heads, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanTimeTextImageEmbedding,
    WanTransformerBlock,
)
from torch import Tensor, nn

from configs.pretraining import VideoExpertConfig
from policies.layers import TIME_SCALE

KeysValues = list[tuple[Tensor, ...]]
"""One pair (K, V) for each layer, each [B, L, H, K].

Where rows of a batch differ in length and padding is not read, a mask follows: bool [B, 1, 1, L], false for padding.
"""


def small_transformer(config: VideoExpertConfig, channels: int) -> WanTransformer3DModel:
    """Return an untrained video transformer of this size, for latents of so many channels."""
    return WanTransformer3DModel(
        patch_size=(1, config.patch, config.patch),
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=channels,
        out_channels=channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )


@dataclass
class BlockOutput:
    """The results of all blocks."""

    hidden: Tensor  # [B, L, D], after the last block
    time_embedding: Tensor  # [B, F, D], which modulates the output head
    keys_values: KeysValues


def text_tokens(model: WanTransformer3DModel, text: Tensor) -> Tensor:
    """Project text features [B, S, text_dim] to the width of the blocks [B, S, D]."""
    return model.condition_embedder.text_embedder(text)


def text_keys_values(blocks: Sequence[WanTransformerBlock], tokens: Tensor, mask: Tensor | None = None) -> KeysValues:
    """Return the cross-attention keys and values of every block, with the mask. They stay the same along a walk."""
    masks = () if mask is None else (mask,)
    return [(*_keys_values(block.attn2, tokens), *masks) for block in blocks]


def run_blocks(
    model: WanTransformer3DModel,
    x: Tensor,
    sigma: Tensor,
    text: KeysValues,
    *,
    first_frame: int = 0,
    past: KeysValues | None = None,
) -> BlockOutput:
    """Run latent frames x [B, C, f, h, w] at noise levels sigma [B, f] through all blocks.

    The frames attend to each other and to `past`, the keys and values of earlier frames. `first_frame` is the position
    of the first of them in time.
    """
    tokens = begin(model, x, sigma, first_frame)
    hidden = tokens.hidden
    keys_values: KeysValues = []
    for index, block in enumerate(blocks_of(model)):
        layer_past = past[index] if past else None
        hidden, own = run_block(block, hidden, tokens.modulation, tokens.rotary, text[index], layer_past)
        keys_values.append(own)
    return BlockOutput(hidden, tokens.time_embedding, keys_values)


@dataclass
class Tokens:
    """Tokens on their way through the blocks, with what stays the same in all of them."""

    hidden: Tensor  # [B, L, D]
    time_embedding: Tensor  # [B, f, D], of each noise level
    modulation: Tensor  # [B, L, 6, D]
    rotary: tuple[Tensor, Tensor]


def begin(model: WanTransformer3DModel, x: Tensor, sigma: Tensor, first_frame: int = 0) -> Tokens:
    """Return the tokens of latent frames x [B, C, f, h, w] at noise levels sigma [B, f], as `run_blocks` takes them."""
    hidden = model.patch_embedding(x).flatten(2).transpose(1, 2)
    time_embedding, modulation = time_modulation(model.condition_embedder, sigma, hidden.dtype)
    modulation = modulation.repeat_interleave(hidden.shape[1] // x.shape[2], dim=1)
    return Tokens(hidden, time_embedding, modulation, rotary_of_frames(model, x, first_frame))


def read_flow(model: WanTransformer3DModel, output: BlockOutput, latent_shape: torch.Size) -> Tensor:
    """Return the velocity [B, C, f, h, w] of the frames that `run_blocks` ran."""
    tokens_per_frame = output.hidden.shape[1] // latent_shape[2]
    embedding = output.time_embedding.repeat_interleave(tokens_per_frame, dim=1)
    patches = read_head(model.scale_shift_table, model.norm_out, model.proj_out, output.hidden, embedding)
    return unpatchify(patches, latent_shape, model.config["patch_size"])


def read_head(table: Tensor, norm: nn.Module, projection: nn.Module, hidden: Tensor, embedding: Tensor) -> Tensor:
    """Return the outputs [B, L, n] of a head for hidden states [B, L, D] with time embeddings [B, L, D]."""
    shift, scale = (table[:, None] + embedding[:, :, None]).unbind(2)
    out: Tensor = projection((norm(hidden.float()) * (1 + scale) + shift).type_as(hidden))
    return out


def unpatchify(patches: Tensor, latent_shape: torch.Size | tuple[int, ...], patch_size: tuple[int, int, int]) -> Tensor:
    """Return latents [B, C, f, h, w] from patches [B, L, n] in the order of time, height and width."""
    batch, _, frames, height, width = latent_shape
    p_t, p_h, p_w = patch_size
    patches = patches.reshape(batch, frames // p_t, height // p_h, width // p_w, p_t, p_h, p_w, -1)
    return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def blocks_of(model: WanTransformer3DModel) -> Sequence[WanTransformerBlock]:
    """Return the blocks of the model in their order."""
    return cast(Sequence[WanTransformerBlock], model.blocks)


def time_modulation(embedder: WanTimeTextImageEmbedding, sigma: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return time embedding [B, f, D] and block modulation [B, f, 6, D] of the noise levels sigma [B, f]."""
    batch, frames = sigma.shape
    frequencies = embedder.timesteps_proj((sigma * TIME_SCALE).flatten()).unflatten(0, (batch, frames))
    embedding = embedder.time_embedder(frequencies.to(embedder.time_embedder.linear_1.weight.dtype)).to(dtype)
    modulation = embedder.time_proj(embedder.act_fn(embedding)).unflatten(2, (6, -1))
    return embedding, modulation


def rotary_of_frames(model: WanTransformer3DModel, x: Tensor, first_frame: int) -> tuple[Tensor, Tensor]:
    """Return the rotary tables [1, L, 1, K] of the frames x [B, C, f, h, w], of which the first is `first_frame`."""
    frames = x.shape[2]
    extended = x.new_empty(1, 1, first_frame + frames, *x.shape[3:])
    cos, sin = model.rope(extended)
    per_frame = cos.shape[1] // (first_frame + frames)
    return cos[:, first_frame * per_frame :], sin[:, first_frame * per_frame :]


def rotary_tables(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return the rotary tables [1, L, 1, K] of tokens at any positions [L, 3] in time, height and width, or [L, 1].

    At whole numbers they equal those of `WanTransformer3DModel`. An action may lie between two latent frames.
    """
    spatial = 2 * (head_dim // 6)
    sizes = (head_dim,) if positions.shape[1] == 1 else (head_dim - 2 * spatial, spatial, spatial)
    angles = [
        torch.outer(column, 10000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size))
        for column, size in zip(positions.double().T, sizes, strict=True)
    ]
    table = torch.cat(angles, dim=-1).repeat_interleave(2, dim=-1)[None, :, None]
    return table.cos().float(), table.sin().float()


def run_block(
    block: WanTransformerBlock,
    hidden: Tensor,
    modulation: Tensor,
    rotary: tuple[Tensor, Tensor],
    text: tuple[Tensor, ...],
    past: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one block over hidden states [B, L, D] with modulation [B, L, 6, D]. Returns them, and keys and values.

    The tokens attend to each other, to the keys and values `past`, and to the text's keys and values of this layer. A
    mask of `past` is one of all its keys and of those of the tokens, which follow.
    """
    asked = ask(block, hidden, modulation, rotary)
    key, value = asked.key, asked.value
    if past is None:
        attended = attend(asked.query, key, value)
    else:
        keys, values = torch.cat([past[0], key], dim=1), torch.cat([past[1], value], dim=1)
        attended = attend(asked.query, keys, values, *past[2:])
    return go_on(block, hidden, asked, attended, text), (key, value)


@dataclass
class Asked:
    """A block before its self-attention: rotated queries and keys, values [B, L, H, K], and its modulation."""

    query: Tensor
    key: Tensor
    value: Tensor
    table: Tensor  # float32 [B, L, 6, D]


def ask(block: WanTransformerBlock, hidden: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor]) -> Asked:
    """Return what tokens [B, L, D] ask and answer in the self-attention of a block."""
    table = block.scale_shift_table[:, None] + modulation.float()
    shift, scale = table[:, :, 0], table[:, :, 1]
    normed = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    query = _rotate(_heads(block.attn1, block.attn1.norm_q(block.attn1.to_q(normed))), rotary)
    return Asked(query, *_keys_values(block.attn1, normed, rotary), table)


def go_on(
    block: WanTransformerBlock, hidden: Tensor, asked: Asked, attended: Tensor, text: tuple[Tensor, ...]
) -> Tensor:
    """Return the tokens [B, L, D] after a block, from those before it and what they attended to [B, L, H K]."""
    gate, ffn_shift, ffn_scale, ffn_gate = asked.table[:, :, 2:].unbind(2)
    hidden = (hidden.float() + block.attn1.to_out[0](attended) * gate).type_as(hidden)

    normed = block.norm2(hidden.float()).type_as(hidden)
    query = _heads(block.attn2, block.attn2.norm_q(block.attn2.to_q(normed)))
    hidden = hidden + block.attn2.to_out[0](attend(query, *text))

    normed = (block.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
    return (hidden.float() + block.ffn(normed).float() * ffn_gate).type_as(hidden)


def _keys_values(
    attention: WanAttention, tokens: Tensor, rotary: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    key = _heads(attention, attention.norm_k(attention.to_k(tokens)))
    value = _heads(attention, attention.to_v(tokens))
    return (key if rotary is None else _rotate(key, rotary)), value


def _heads(attention: WanAttention, projected: Tensor) -> Tensor:
    return projected.unflatten(2, (attention.heads, -1))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from queries [B, L, H, K] to keys and values [B, S, H, K]. Returns [B, L, H K].

    Where `mask`, bool [B, 1, 1, S], is false, a key is not read.
    """
    dtype = query.dtype
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.to(dtype).transpose(1, 2), value.to(dtype).transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2).flatten(2)


def select_rows(keys_values: KeysValues, rows: Tensor) -> KeysValues:
    """Return the rows of the batch at the int64 indices [b]."""
    return [tuple(part[rows] for part in layer) for layer in keys_values]


def join(parts: Sequence[KeysValues], dim: int) -> KeysValues:
    """Concatenate keys and values layer by layer, along dimension `dim`: 0 is the batch, 1 are the tokens."""
    layers = zip(*parts, strict=True)
    return [
        (torch.cat([key for key, _ in layer], dim), torch.cat([value for _, value in layer], dim)) for layer in layers
    ]


def _rotate(tokens: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
    even, odd = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(tokens)
