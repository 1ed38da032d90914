"""An analytic backbone for per-frame schedules, with a known answer (tests only).

Its chunk tells which noise was left on each future frame when the action was last read. What a scene wants is visible
in the observed latent frame. So the best success of any gate, of any shared and of any fixed per-frame schedule can be
computed. The shared schedule leaves 0.2 on both frames; scales in [0.5, 1.5] reach everything from 0 to 0.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from configs.schema import Config, GroupsConfig, WAMConfig
from policies.backbones.door import Observation, Output, Point, WAMSpec, Want
from policies.schedules.noisegate import NoiseGateSettings
from rl.method import choose
from rl.objectives.grpo import GRPOConfig
from tests.gated_simulator import KINDS, MARK, WANTED, kind_of, tolerance_of

STEPS = 5
SPEC = WAMSpec(
    latent_channels=4,
    latent_frames=3,
    observed_frames=1,
    latent_grid=(2, 2),
    feature_dim=4,
    action_horizon=4,
    action_dim=14,
    video_shift=1.0,
    action_shift=1.0,
    action_updates=1,
    reference_updates=STEPS,
    action_reads="future_latents",
    video_reads_action=False,
    per_frame_sigma_trained=True,
    weights_hash="gated",
)
REACHABLE = np.linspace(0.0, 0.6, 61)

FloatArray = npt.NDArray[np.float64]


@dataclass
class GatedContext:
    joints: Tensor  # float32 [B, A]

    def __len__(self) -> int:
        return len(self.joints)

    def select(self, rows: Tensor) -> GatedContext:
        return GatedContext(self.joints[rows])


class GatedWAM:
    """A `FrozenWAM`; its memory is the noise level of each future frame."""

    def __init__(self, spec: WAMSpec = SPEC) -> None:
        self.spec = spec

    def observe(
        self, observations: Sequence[Observation], instructions: Sequence[str], histories: Sequence[Any] = ()
    ) -> GatedContext:
        return GatedContext(torch.from_numpy(np.stack([observation["joints"] for observation in observations])))

    def initial_noise(self, context: GatedContext, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        channels, (height, width) = self.spec.latent_channels, self.spec.latent_grid
        observed = torch.zeros(len(context), channels, 1, height, width)
        observed[:, 0] = (context.joints[:, 0] / MARK)[:, None, None, None]
        observed[:, 1:] = context.joints[:, 1:channels, None, None, None]
        shape = (channels, self.spec.future_frames, height, width)
        future = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return torch.cat([observed, future], dim=2), torch.zeros(len(context), self.spec.action_horizon, 14)

    def forward(self, context: GatedContext, point: Point, wants: Want, memory: Tensor | None = None) -> Output:
        flow = point.x.clone()
        flow[:, :, : self.spec.observed_frames] = 0
        memory = point.sigma_video if memory is None else memory
        target = torch.zeros_like(point.actions)  # the one chunk that the memory stands for
        target[..., : memory.shape[1]] = memory[:, None]
        action_flow = (point.actions - target) / point.sigma_action[:, None, None]
        return Output(flow, point.x.mean(dim=(2, 3, 4)), memory, action_flow)

    def select_memory(self, memory: Tensor, rows: Tensor) -> Tensor:
        return memory[rows]

    def join_memories(self, memories: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(memories))

    def finish_actions(self, context: GatedContext, actions: Tensor) -> npt.NDArray[np.float32]:
        return (context.joints[:, None] + actions).numpy()

    def imagined_pictures(self, latents: Tensor) -> dict[str, npt.NDArray[np.uint8]]:
        return {"head": np.full((len(latents), SPEC.action_horizon, 8, 8, 3), 128, dtype=np.uint8)}


def describe(config: WAMConfig) -> WAMSpec:
    """With `load`, what makes this module a family that `wam.backbone` may name."""
    return SPEC


def load(config: WAMConfig) -> GatedWAM:
    return GatedWAM()


def gated_settings(runners: int = 0, iterations: int = 4, seed: int = 42) -> Config:
    """A small gate from the usual start. `runners=0` keeps everything but the simulators in the test's process."""
    settings = choose("noisegate", "groups")
    settings.wam.backbone = "tests.gated_task"
    settings.env.simulator, settings.env.tasks = "tests.gated_simulator:gated_spec", ["gated"]
    settings.schedule = NoiseGateSettings(
        steps=STEPS, channels=[8, 8], width=16, layers=1, heads=2, sigma_width=8, actor_width=16
    )
    settings.rollout.runners, settings.rollout.episodes_per_runner = runners, 2
    settings.rollout.restart_deadline_s = 60.0
    settings.collector = GroupsConfig(size=4, per_iteration=4)
    settings.objective = GRPOConfig(learning_rate=3e-3, minibatch_decisions=64)
    settings.validation.every = settings.validation.episodes_per_task = 0
    settings.run.seed, settings.run.iterations, settings.run.checkpoint_every = seed, iterations, 2
    return settings


def succeeds(seeds: Sequence[int], left: FloatArray) -> npt.NDArray[np.bool_]:
    """[..., N]: whether noise levels `left` [..., N or 1, F] solve the scenes `seeds` [N]."""
    wanted = WANTED[[kind_of(seed) for seed in seeds]]
    error: FloatArray = np.abs(left - wanted).sum(axis=-1)
    return error <= np.array([tolerance_of(seed) for seed in seeds]) + 1e-6


def best_success(seeds: Sequence[int]) -> float:
    """Of any gate: the best levels for the scenes of each kind."""
    kinds = [[seed for seed in seeds if kind_of(seed) == kind] for kind in range(KINDS)]
    return float(sum(best_fixed_success(part) * len(part) for part in kinds) / len(seeds))


def best_fixed_success(seeds: Sequence[int]) -> float:
    """Of any levels that do not look at the scene."""
    levels = np.stack(np.meshgrid(REACHABLE, REACHABLE), axis=-1).reshape(-1, 1, 2)
    return float(succeeds(seeds, levels).mean(axis=1).max())


def best_shared_success(seeds: Sequence[int]) -> float:
    """Of any level shared by the frames."""
    levels = np.repeat(REACHABLE[:, None, None], 2, axis=-1)
    return float(succeeds(seeds, levels).mean(axis=1).max())
