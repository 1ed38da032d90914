"""The names of a Wan transformer's tensors: in diffusers, and in the original code and most of its forks."""

from __future__ import annotations

_OF_A_BLOCK = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn1.norm_q": "self_attn.norm_q",
    "attn1.norm_k": "self_attn.norm_k",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.norm_q": "cross_attn.norm_q",
    "attn2.norm_k": "cross_attn.norm_k",
    "norm2": "norm3",  # the norm before the cross-attention; the original's norm2 has no weights
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
}
_OF_THE_MODEL = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
    "action_encoder": "action_encoder",
    "action_head": "head",
}


def original_wan_name(name: str) -> str:
    """Return the original name of a tensor that diffusers calls `name`. KeyError if it is no tensor of such a model.

    The tensors of `mixture.ActionExpert` are known too.
    """
    if name.startswith("blocks."):
        _, block, rest = name.split(".", 2)
        return f"blocks.{block}.{_renamed(rest, _OF_A_BLOCK)}"
    return _renamed(name, _OF_THE_MODEL)


def _renamed(name: str, names: dict[str, str]) -> str:
    if name in names:  # a parameter of the module itself
        return names[name]
    module, _, parameter = name.rpartition(".")
    return f"{names[module]}.{parameter}"
