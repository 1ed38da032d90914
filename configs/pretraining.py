"""The settings of pretraining: the autoencoder, the networks of a backbone, and how they are trained.

They are also stored with every checkpoint, and say which networks its weights belong to. This module imports nothing
heavy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from configs.fields import Problem, setting, without_effect

_OF_TINY = ("video_steps", "action_steps", "action.layers", "action.heads", "action.head_dim", "action.reads")
UNREAD = {
    "tiny": ("xwam", "mot"),
    "xwam": ("mot", *_OF_TINY, "action.hidden", "action.ffn_dim", "conditioning_shift", "clean_fraction"),
    "mot": ("xwam", *_OF_TINY),
}
"""The keys and sections of `pretrain` that a family does not read."""

PARTS = {"tiny": ("video", "action"), "xwam": ("joint",), "mot": ("joint",)}
"""The parts in which a family is trained."""


@dataclass
class VAEConfig:
    """A small AutoencoderKLWan. It compresses 16 x 16 x 4, as Wan2.2 does."""

    base_dim: int = 16
    z_dim: int = 48
    kl_weight: float = 1e-4
    episodes_per_task: int = setting(100, at_least=0)  # train on so many demonstrations of each task; 0: all
    steps: int = setting(4000, at_least=0)
    batch: int = setting(4, at_least=1)
    learning_rate: float = setting(2e-3, above=0)


@dataclass
class VideoExpertConfig:
    """A small WanTransformer3DModel."""

    layers: int = 5
    heads: int = 6
    head_dim: int = 32
    ffn_dim: int = 512
    patch: int = 1  # the spatial patch size on the latent grid
    text_dim: int = 64
    text_layers: int = 2
    freq_dim: int = 64


@dataclass
class ActionExpertConfig:
    """The action branch. `policies/backbones/tiny/experts.py` explains `reads`."""

    layers: int = 4
    hidden: int = 128
    heads: int = 4
    head_dim: int = 32
    ffn_dim: int = 384
    reads: str = setting("future_latents", choices=("future_latents", "all_latents", "future_keys", "all_keys"))
    steps: int = setting(3, at_least=1)  # Euler steps of the action flow


@dataclass
class XWAMConfig:
    """These settings belong to what the family `xwam` adds: states, actions and depth (X-WAM, section 4.3)."""

    steps: int = setting(6000, at_least=0)
    # P: branch. How depth is predicted: copies of the last blocks, further tokens, further channels, or not at all.
    depth: str = setting("branch", choices=("branch", "sequence", "channel", "none"))
    # P: end_effector. Whether joint targets are denoised, or motions of the tools, which become joint targets.
    actions: str = setting("joints", choices=("joints", "end_effector"))
    depth_layers: int = setting(2, at_least=1)  # the blocks of the branch; P: 10 of 30
    clean_action: float = setting(0.5, at_least=0, at_most=1)  # P: how often asynchronous noise has a clean action
    state_weight: float = setting(1.0, at_least=0)  # P: of each loss, beside 1 for the video
    action_weight: float = setting(1.0, at_least=0)
    depth_weight: float = setting(1.0, at_least=0)
    # The distances, in metres, between which inverse depth is stored as brightness: nearest and farthest.
    head_range: list[float] = setting([0.6, 1.8])
    wrist_range: list[float] = setting([0.05, 0.8])

    def conflicts(self) -> Iterator[Problem]:
        for name in ("head_range", "wrist_range"):
            values = getattr(self, name)
            if len(values) != 2 or not 0 < values[0] < values[1]:
                fix = "Use [<nearest>,<farthest>], such as [0.6,2]."
                yield Problem(name, f"{values} is no range of distances", fix)


@dataclass
class MoTConfig:
    """These settings belong to what the family `mot` adds: the published mixture of transformers at a small size.

    The video expert is that of `pretrain.video`. The action expert has as many layers and heads as it, and the widths
    `pretrain.action.hidden` and `pretrain.action.ffn_dim`.
    """

    steps: int = setting(3000, at_least=0)
    # What video the action learns to read (Fast-WAM). idm: another copy of the true future, clean in
    # `pretrain.clean_fraction` of the rows and noised to a level of its own in the others. joint: the very video that
    # is denoised along with it, at a level that is independent of the action's.
    variant: str = setting("idm", choices=("idm", "joint"))
    action_weight: float = setting(1.0, at_least=0)  # of the action's loss, beside 1 for the video's
    # Whether a `pretrain.start_from` of the family `tiny` gives its video expert too, as Fast-WAM starts from a video
    # model. If not, it gives the autoencoder alone.
    video_from_start: bool = True
    # Whether the action expert alone is trained, on a video expert that stays as it is. A step then takes a third of
    # the time. In Fast-WAM, both are trained.
    frozen_video: bool = False

    def conflicts(self) -> Iterator[Problem]:
        if self.frozen_video and not self.video_from_start:
            yield Problem("frozen_video", "there is no trained video expert to freeze", "Set video_from_start to true.")


@dataclass
class PretrainConfig:
    """Stage 0 (VAE) and Stage 1 (flow matching) of a small backbone."""

    family: str = setting("tiny", choices=("tiny", "xwam", "mot"))  # a folder of policies/backbones that can be trained
    xwam: XWAMConfig = field(default_factory=XWAMConfig)
    mot: MoTConfig = field(default_factory=MoTConfig)
    seed: int = 0
    vae: VAEConfig = field(default_factory=VAEConfig)
    video: VideoExpertConfig = field(default_factory=VideoExpertConfig)
    action: ActionExpertConfig = field(default_factory=ActionExpertConfig)
    head_size: int = 64  # pixels, a multiple of 64; the canvas is as wide, and 3/2 of it high
    action_horizon: int = setting(8, at_least=1)
    frames: int = 9  # 1 observation + action_horizon future frames
    video_shift: float = setting(5.0, above=0)
    action_shift: float = setting(1.0, above=0)
    reference_updates: int = 25  # the updates of the full walk, "fixed-full"
    conditioning_shift: float = setting(3.0, above=0)  # the shift of the noise on what the action reads
    clean_fraction: float = setting(0.3, at_least=0, at_most=1)  # the share of it that stays clean
    noise: str = setting("shared", choices=("shared", "independent", "synchronous", "asynchronous", "mixed"))
    video_steps: int = setting(8500, at_least=0)
    action_steps: int = setting(10000, at_least=0)
    batch: int = setting(48, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    ema_decay: float = setting(0.999, at_least=0, at_most=1)
    clip_stride: int = 2  # control steps between the starts of two training clips
    compile: bool = False  # torch.compile makes a step a third faster, and needs a C++ compiler
    torch_threads: int = 1  # use more only if the cores are idle, since waiting threads keep a core busy
    # The checkpoint folder from whose weights Stage 1 starts; empty: train from scratch.
    start_from: str = setting("", path=True)
    # The parts that are trained. They are independent, so that two machines may train one each.
    stages: list[str] = setting(["video", "action", "joint"], choices=("video", "action", "joint"))
    output: str = setting("runs/pretrain", path=True)

    def conflicts(self) -> Iterator[Problem]:
        yield from without_effect(self, UNREAD.get(self.family, ()), f"pretrain.family={self.family}")
        parts = PARTS.get(self.family, ())
        if parts and not set(parts) & set(self.stages):
            wrong = f"{self.stages} names no part of the family {self.family}"
            yield Problem("stages", wrong, f"Name some of: {', '.join(parts)}.")
        if self.family == "mot" and self.mot.frozen_video and not self.start_from:
            wrong = "there is no trained video expert to freeze"
            yield Problem("mot.frozen_video", wrong, "Name a checkpoint in pretrain.start_from.")
