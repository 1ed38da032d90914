"""A World Action Model: a video expert, an action branch and a text encoder. Schedules walk on its frozen form.

Shapes: B batch, C latent channels, F latent frames (the first one observed), h x w grid, T actions, A action dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from configs.pretraining import PretrainConfig
from policies.backbones import wan as driver
from policies.backbones.codecs import LatentCodec, build_text_encoder, compose_canvas, encode_text, split_canvas
from policies.backbones.door import LATENT_READERS, Observation, Output, Point, Want
from policies.backbones.flow import standard_noise
from policies.backbones.robot import ACTION_DIM, absolute_actions, relative_actions
from policies.backbones.shapes import OBSERVED_FRAMES, latent_frames, latent_grid
from policies.backbones.small import small_spec
from policies.backbones.tiny.experts import ActionExpert, Reading
from policies.backbones.tiny.value import ValueExpert
from policies.backbones.tiny.value_reader import ValueReader, spec_with_reader
from policies.backbones.wan import KeysValues


@dataclass
class ActionStatistics:
    """Mean and standard deviation, float32 [A] each, of joints and of actions relative to the current arm joints."""

    joints_mean: Tensor
    joints_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def to(self, device: torch.device) -> ActionStatistics:
        return ActionStatistics(
            self.joints_mean.to(device),
            self.joints_std.to(device),
            self.action_mean.to(device),
            self.action_std.to(device),
        )

    def normalise_joints(self, joints: Tensor) -> Tensor:
        return (joints - self.joints_mean) / self.joints_std

    def normalise_actions(self, actions: Tensor, joints: Tensor) -> Tensor:
        return (relative_actions(actions, joints) - self.action_mean) / self.action_std

    def denormalise_actions(self, normalised: Tensor, joints: Tensor) -> Tensor:
        return absolute_actions(normalised * self.action_std + self.action_mean, joints)


class WorldActionModel(nn.Module):
    """The trainable model that Stage 1 optimises and a checkpoint holds."""

    def __init__(self, config: PretrainConfig, action_dim: int = ACTION_DIM) -> None:
        super().__init__()
        video = config.video
        self.text_encoder = build_text_encoder(video)
        self.joints_to_text = nn.Linear(action_dim, video.text_dim)
        self.video = driver.small_transformer(video, config.vae.z_dim)
        self.latent_frames = latent_frames(config)
        self.action = ActionExpert(
            config.action,
            latent_channels=config.vae.z_dim,
            latent_frames=self.latent_frames - (0 if config.action.reads == "all_latents" else OBSERVED_FRAMES),
            grid=latent_grid(config),
            horizon=config.action_horizon,
            action_dim=action_dim,
        )

    def condition(self, text: Tensor, joints: Tensor) -> KeysValues:
        """Return cross-attention keys and values from text features [B, S, text_dim] and normalised joints [B, A]."""
        proprioception = self.joints_to_text(joints)[:, None]
        tokens = driver.text_tokens(self.video, torch.cat([text, proprioception], dim=1))
        return driver.text_keys_values(driver.blocks_of(self.video), tokens)

    def observe(self, observed: Tensor, text: KeysValues) -> KeysValues:
        """Return keys and values of the clean observed frame [B, C, 1, h, w]. They do not depend on the noise."""
        sigma = observed.new_zeros(observed.shape[0], observed.shape[2])
        return driver.run_blocks(self.video, observed, sigma, text).keys_values

    def imagine(
        self, future: Tensor, sigma: Tensor, text: KeysValues, observed: KeysValues
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """Return velocity [B, C, F - 1, h, w], last hidden states [B, L, D], keys and values of the future frames."""
        output = driver.run_blocks(self.video, future, sigma, text, first_frame=OBSERVED_FRAMES, past=observed)
        return driver.read_flow(self.video, output, future.shape), output.hidden, output.keys_values

    def action_memory(self, x: Tensor, sigma: Tensor) -> KeysValues:
        """Return the memory of x [B, C, F, h, w] at future levels sigma [B, F - 1], for a branch that reads latents."""
        if self.action.reads == "all_latents":
            observed = sigma.new_zeros(sigma.shape[0], OBSERVED_FRAMES)
            return self.action.read_latents(x, torch.cat([observed, sigma], dim=1))
        return self.action.read_latents(x[:, :, OBSERVED_FRAMES:], sigma)


@dataclass
class FrozenContext:
    """The encoded observations of a batch, which stay the same along a walk."""

    observed: Tensor  # [B, C, 1, h, w]
    observed_keys: KeysValues
    text_keys: KeysValues
    joints: Tensor  # [B, A], in physical units
    value_noise: Tensor | None = None  # [B, V], if the action reads values

    def __len__(self) -> int:
        return self.observed.shape[0]

    def select(self, rows: Tensor) -> FrozenContext:
        return FrozenContext(
            self.observed[rows],
            driver.select_rows(self.observed_keys, rows),
            driver.select_rows(self.text_keys, rows),
            self.joints[rows],
            None if self.value_noise is None else self.value_noise[rows],
        )


@dataclass
class ActionMemory:
    """The part of the video that the action branch reads."""

    pairs: KeysValues  # a pair (K, V) for each layer; if the branch reads latents, the single pair (x, sigma)
    video: KeysValues = field(default_factory=list)  # what the value expert reads, if the action reads values
    read: KeysValues | None = None  # keys and values of the latent reader, computed at the first action step
    values: Tensor | None = None  # the value features [B, L, W], computed at the first action step


class FrozenWorldActionModel:
    """A `WorldActionModel` as a `FrozenWAM`: without gradients, with float32 latents and noise levels."""

    def __init__(
        self,
        model: WorldActionModel,
        codec: LatentCodec,
        statistics: ActionStatistics,
        config: PretrainConfig,
        weights_hash: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        value: ValueExpert | None = None,
        reader: ValueReader | None = None,
    ) -> None:
        """`reader` lets the action read what the value expert says. Without both, the action reads the video alone."""
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.codec = codec.to(self.device)
        self.statistics = statistics.to(self.device)
        self._autocast = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        self._text_features: dict[str, Tensor] = {}
        self.spec = small_spec(config, int(statistics.action_mean.shape[-1]), weights_hash, config.action.reads)
        self.value: ValueExpert | None = None
        self.reader: ValueReader | None = None
        if value is not None:
            self.value = value.eval().requires_grad_(False).to(self.device)
            self.spec = replace(self.spec, value=value.spec)
        if value is not None and reader is not None:
            self.reader = reader.eval().requires_grad_(False).to(self.device)
            self.spec = spec_with_reader(self.spec, reader.weights_hash)

    @torch.no_grad()
    def observe(
        self, observations: Sequence[Observation], instructions: Sequence[str], histories: Sequence[Any] = ()
    ) -> FrozenContext:
        canvas = np.stack([compose_canvas(o["head"], o["left_wrist"], o["right_wrist"]) for o in observations])
        joints = torch.from_numpy(np.stack([o["joints"] for o in observations]).astype(np.float32))
        return self.observe_latents(self.codec.encode(canvas[:, None]), joints.to(self.device), instructions)

    @torch.no_grad()
    def observe_latents(self, observed: Tensor, joints: Tensor, instructions: Sequence[str]) -> FrozenContext:
        """Do the same as `observe`, from latents [B, C, 1, h, w] that are already encoded."""
        for instruction in instructions:
            if instruction not in self._text_features:
                self._text_features[instruction] = encode_text(self.model.text_encoder, [instruction])[0]
        text = torch.stack([self._text_features[instruction] for instruction in instructions])
        with self._autocast:
            text_keys = self.model.condition(text, self.statistics.normalise_joints(joints))
            return FrozenContext(observed, self.model.observe(observed, text_keys), text_keys, joints)

    def initial_noise(self, context: FrozenContext, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        spec = self.spec
        latents = (spec.latent_channels, spec.future_frames, *spec.latent_grid)
        future, actions = standard_noise(seeds, latents, (spec.action_horizon, spec.action_dim))
        return torch.cat([context.observed, future.to(self.device)], dim=2), actions.to(self.device)

    @torch.no_grad()
    def forward(self, context: FrozenContext, point: Point, wants: Want, memory: ActionMemory | None = None) -> Output:
        """Run the backbone. The video is run only if its flow, its pooled feature or its keys are wanted."""
        output = Output()
        if memory is None:
            self._run_video(context, point, wants, output)
        else:
            output.memory = memory
        if Want.ACTION_FLOW in wants:
            joints = self.statistics.normalise_joints(context.joints)
            with self._autocast:
                read, reading = self._read(output.memory), self._reading(context, output.memory)
                flow = self.model.action(point.actions, point.sigma_action, joints, read, reading)
            output.action_flow = flow.float()
        return output

    def _run_video(self, context: FrozenContext, point: Point, wants: Want, output: Output) -> None:
        """Fill in flow, pooled feature and memory. The memory of a latent reader is (x, sigma) and costs no forward."""
        x, reads = point.x, self.model.action.reads
        if reads in LATENT_READERS:
            output.memory = ActionMemory([(x, point.sigma_video)])
            if self.reader is None and not wants & (Want.VIDEO_FLOW | Want.POOLED):
                return
        with self._autocast:
            flow, hidden, keys = self.model.imagine(
                x[:, :, OBSERVED_FRAMES:], point.sigma_video, context.text_keys, context.observed_keys
            )
        output.video_flow = torch.cat([torch.zeros_like(x[:, :, :OBSERVED_FRAMES]), flow.float()], dim=2)
        output.pooled = hidden.float().mean(dim=1)
        if reads == "future_keys":
            output.memory = ActionMemory(keys)
        elif reads == "all_keys":
            output.memory = ActionMemory(driver.join([context.observed_keys, keys], dim=1))
        if self.reader is not None:
            output.memory.video = driver.join([context.observed_keys, keys], dim=1)

    @torch.no_grad()
    def score(self, context: FrozenContext, point: Point, noises: Tensor) -> Tensor:
        """Predict returns, as `ValueWAM` describes. Raises ValueError if there is no value expert."""
        if self.value is None:
            raise ValueError(f"backbone {self.spec.weights_hash} has no value expert: set wam.value")
        with self._autocast:
            memory = self.value_memory(context, point)
            return self.value.predict(memory, noises)

    def value_memory(self, context: FrozenContext, point: Point) -> KeysValues:
        """Return the keys and values of all frames that the value expert reads. It costs one video forward."""
        future = point.x[:, :, OBSERVED_FRAMES:]
        keys = self.model.imagine(future, point.sigma_video, context.text_keys, context.observed_keys)[2]
        return driver.join([context.observed_keys, keys], dim=1)

    def select_memory(self, memory: ActionMemory, rows: Tensor) -> ActionMemory:
        return ActionMemory(driver.select_rows(memory.pairs, rows), driver.select_rows(memory.video, rows))

    def join_memories(self, memories: Sequence[ActionMemory]) -> ActionMemory:
        pairs, video = ([getattr(one, name) for one in memories] for name in ("pairs", "video"))
        return ActionMemory(driver.join(pairs, dim=0), driver.join(video, dim=0))

    def _read(self, memory: ActionMemory) -> KeysValues:
        """Return keys and values for the action blocks. Latents are read once, at the first action step."""
        if self.model.action.reads not in LATENT_READERS:
            return memory.pairs
        if memory.read is None:
            memory.read = self.model.action_memory(*memory.pairs[0])
        return memory.read

    def with_value_noise(self, context: FrozenContext, actions: Tensor, noises: Tensor) -> tuple[FrozenContext, Tensor]:
        return replace(context, value_noise=noises.to(self.device)), actions

    def _reading(self, context: FrozenContext, memory: ActionMemory) -> Reading | None:
        """Return what lets the action read values, or None. They are denoised once, at the first action step."""
        if self.reader is None or self.value is None:
            return None
        if memory.values is None:
            if context.value_noise is None:
                raise ValueError(
                    "the action reads values, but the context has no value noise: use policies.value_noise"
                )
            memory.values = self.value.features(memory.video, context.value_noise)
        return self.reader.reading(memory.values)

    def finish_actions(self, context: FrozenContext, actions: Tensor) -> npt.NDArray[np.float32]:
        chunk: npt.NDArray[np.float32] = self.statistics.denormalise_actions(actions, context.joints).cpu().numpy()
        return chunk

    @torch.no_grad()
    def imagined_pictures(self, latents: Tensor) -> dict[str, npt.NDArray[np.uint8]]:
        canvas = self.codec.decode(latents.to(self.device, torch.float32))[:, 1:]
        return split_canvas(canvas)
