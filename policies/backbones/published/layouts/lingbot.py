"""LingBot-VA: Wan2.2-TI2V-5B whose blocks run the tokens of video and of action, post-trained for a benchmark.

Its repository has the folders of a diffusers pipeline, of which `transformer` holds these weights. The quantiles of the
actions are in no file there: they are written in its code (docs/backbones.md).
"""

from __future__ import annotations

from dataclasses import replace

from policies.backbones.published.canvases import side_by_side, wrists_above_head
from policies.backbones.published.layout import LAYOUTS, ActionNumbers, Grids, Layout, Size, Source

FULL = Size(
    layers=30, heads=24, head_dim=128, ffn_dim=14336, freq_dim=256, text_dim=4096, text_length=512,
    views=wrists_above_head(16, 20), encoded="apart", frames=3, horizon=32,
)  # fmt: skip
TINY = Size(
    layers=2, heads=2, head_dim=24, ffn_dim=96, freq_dim=32, text_dim=32, text_length=8,
    views=wrists_above_head(4, 4), encoded="apart", frames=3, horizon=8,
)  # fmt: skip
NETWORK_DIM = 30  # the numbers of an action for all its robots together
TWO_TOOLS = (*range(7), 28, *range(7, 14), 29)  # pose and gripper of the left tool, then of the right one
LIBERO_CAMERAS = ("head", "right_wrist")
_NAMES = {
    "video.patch_embedding": "patch_embedding_mlp",
    "video": "",
    "action_encoder": "action_embedder",
    "action_times": "condition_embedder_action",
    "action_head": "action_proj_out",
}


def checkpoint_name(name: str) -> str:
    """Return the name in a checkpoint of a tensor of `SharedBlocks`. KeyError if it is no tensor of such a model."""
    for ours, theirs in _NAMES.items():
        if name.startswith(f"{ours}."):
            return f"{theirs}.{name.removeprefix(f'{ours}.')}".removeprefix(".")
    raise KeyError(name)


NOTES = (
    "its video is guided: a video forward runs the network twice, and one that only gives the memory runs it once",
    "a query reads the frames and actions of its episode before it: an episode holds 0.2 GB for each chunk of 32 "
    "actions (bfloat16, with guidance), and its simulator renders eight times a chunk",
    "its action learned from clean video or, half of the time, from levels up to 0.83: a walk of 25 updates is below "
    "that after 13, and the action never saw a video that is denoised less",
)
ROBOTWIN = Layout(
    key="lingbot-va",
    title="LingBot-VA with shared blocks, RoboTwin 2.0, three cameras",
    family="policies.backbones.published.shared_blocks",
    source=Source("robbyant/lingbot-va-posttrain-robotwin", ("transformer/*",), 10.2, "Apache-2.0 (its code)"),
    template="{instruction}",
    text_encoder="Wan-AI/Wan2.2-TI2V-5B",
    numbers=ActionNumbers(
        "tool_motions", action_dim=16, state_dim=0, normalisation="quantiles",
        network_dim=NETWORK_DIM, places=TWO_TOOLS,
    ),
    grids=Grids(video_shift=5.0, action_shift=1.0, action_updates=50, reference_updates=25),
    sizes={"full": FULL, "tiny": TINY},
    checkpoint_name=checkpoint_name,
    per_frame_sigma_trained=True,
    history_chunks=35,
    guidance=5.0,
    ignored=("condition_embedder_action.text_embedder.",),
    notes=(*NOTES, "a query predicts two future frames and 32 actions, as its own later chunks do; its first has half"),
)  # fmt: skip
LIBERO = replace(
    ROBOTWIN,
    key="lingbot-va-libero",
    title="LingBot-VA with shared blocks, LIBERO-Long, two cameras",
    source=replace(ROBOTWIN.source, hub="robbyant/lingbot-va-posttrain-libero-long"),
    numbers=ActionNumbers("tool_deltas", 7, 0, "quantiles", network_dim=NETWORK_DIM),
    grids=Grids(video_shift=5.0, action_shift=0.05, action_updates=50, reference_updates=20),
    history_chunks=19,
    sizes={
        "full": replace(FULL, views=side_by_side(LIBERO_CAMERAS, 8, 8), frames=4, horizon=12),
        "tiny": replace(TINY, views=side_by_side(LIBERO_CAMERAS, 4, 4), frames=4, horizon=12),
    },
    notes=NOTES,
)

for layout in (ROBOTWIN, LIBERO):
    LAYOUTS.add(layout.key, layout)
