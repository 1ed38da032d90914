"""An analytic stand-in for the backbone, with a known answer (tests only).

Its action error is a known function of where the walk stopped and how it came there. In *coarse* states it is flat. In
*fine* states it falls down to an interior optimum of sigma, rises again after it, and grows with the integration error:
the one active latent channel follows the flow `2 sigma`, so that Euler's error is the sum of the squared jumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from configs.schema import ActionErrorConfig, Config, EnvConfig, WAMConfig
from envs.suites import kinematics_of
from envs.tabletop.robot import HOME
from policies.backbones.door import Observation, Output, Point, WAMSpec, Want
from policies.backbones.flow import shifted_grid
from rl.experience.action_errors import ChunkErrors, action_errors
from rl.experience.segments import Segment
from rl.rewards.path import AnchorErrors, Calibration, PathConfig, calibrate, path_score

HORIZON, ACTION_DIM, FEATURE_DIM = 8, 14, 16
SPEC = WAMSpec(
    latent_channels=2,
    latent_frames=3,
    observed_frames=1,
    latent_grid=(1, 1),
    feature_dim=FEATURE_DIM,
    action_horizon=HORIZON,
    action_dim=ACTION_DIM,
    video_shift=5.0,
    action_shift=1.0,
    action_updates=1,
    reference_updates=25,
    action_reads="future_latents",
    video_reads_action=False,
    per_frame_sigma_trained=False,
    weights_hash="analytic",
)
ROBOT = kinematics_of(EnvConfig())
OPTIMUM = 0.4  # sigma at which a fine state's action is best
COARSE_ERROR, LEAST_ERROR, FALL, RISE, INTEGRATION = 0.5, 0.2, 3.0, 1.0, 1.0
OFFSET = np.tile([0.02, -0.01, 0.015, 0.01, 0.02, 0.01, 0.0], 2)  # joint error of a chunk's last step at error 1
MOTION = np.tile([0.03, 0.02, -0.02, 0.0, 0.01, 0.0, 0.0], 2)  # the demonstration's motion a step


def demonstration(joints: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The chunk [..., T, A] that an expert plays from joints [..., A]."""
    return joints[..., None, :] + np.arange(1, HORIZON + 1)[:, None] * MOTION


def action_error(fine: Tensor, sigma: Tensor, deviation: Tensor) -> Tensor:
    """The known error, from the level where the walk stopped and its integration error."""
    slope = torch.where(sigma > OPTIMUM, FALL, RISE)
    known = LEAST_ERROR + slope * (sigma - OPTIMUM) ** 2 + INTEGRATION * deviation.abs()
    return torch.where(fine, known, torch.full_like(known, COARSE_ERROR))


@dataclass
class AnalyticContext:
    joints: Tensor  # float64 [B, A]
    fine: Tensor  # bool [B]

    def __len__(self) -> int:
        return len(self.fine)

    def select(self, rows: Tensor) -> AnalyticContext:
        return AnalyticContext(self.joints[rows], self.fine[rows])


class AnalyticWAM:
    """A `FrozenWAM`; counts the rows of its video forwards."""

    def __init__(self, spec: WAMSpec = SPEC) -> None:
        self.spec = spec
        self.forward_rows = 0
        generator = torch.Generator().manual_seed(0)
        self._kinds = torch.randn(2, spec.feature_dim, generator=generator)
        self._nuisance = 0.3 * torch.randn(spec.action_dim, spec.feature_dim, generator=generator)

    def observe(
        self, observations: Sequence[Observation], instructions: Sequence[str], histories: Sequence[Any] = ()
    ) -> AnalyticContext:
        joints = np.stack([observation["joints"] for observation in observations]).astype(np.float64)
        return AnalyticContext(torch.from_numpy(joints), torch.tensor(["fine" in text for text in instructions]))

    def initial_noise(self, context: AnalyticContext, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        latents = [torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.cat([torch.zeros(len(seeds), 2, 1, 1, 1), torch.stack(latents)], dim=2)
        x[:, 0] = 0.0
        return x, torch.zeros(len(seeds), HORIZON, ACTION_DIM)

    def forward(self, context: AnalyticContext, point: Point, wants: Want, memory: Tensor | None = None) -> Output:
        output = Output(memory=memory)
        if memory is None:
            if wants & ~Want.MEMORY or self.spec.memory_needs_forward:
                self.forward_rows += len(context)
            levels = point.sigma_video
            output.video_flow = torch.zeros_like(point.x)
            output.video_flow[:, 0, 1:] = 2 * levels[:, :, None, None]
            output.video_flow[:, 1, 1:] = point.x[:, 1, 1:]
            output.pooled = self._kinds[context.fine.long()] + context.joints.float() @ self._nuisance
            first = levels[:, 0]  # the memory is the first future frame's level and its integration error
            output.memory = torch.stack([first, point.x[:, 0, 1, 0, 0] - (first**2 - 1)], dim=1)
        if Want.ACTION_FLOW in wants:
            output.action_flow = self._action_flow(context, output.memory, point)
        return output

    def select_memory(self, memory: Tensor, rows: Tensor) -> Tensor:
        return memory[rows]

    def join_memories(self, memories: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(memories))

    def _action_flow(self, context: AnalyticContext, memory: Tensor, point: Point) -> Tensor:
        """Straight to the one chunk that the memory stands for; in float64, so that it arrives there exactly."""
        error = action_error(context.fine, memory[:, 0], memory[:, 1])
        target = torch.from_numpy(erroneous_chunk(context.joints.numpy(), error.double().numpy()))
        return (point.actions - target) / point.sigma_action[:, None, None].double()

    def finish_actions(self, context: AnalyticContext, actions: Tensor) -> npt.NDArray[np.float32]:
        return actions.numpy().astype(np.float32)

    def imagined_pictures(self, latents: Tensor) -> dict[str, npt.NDArray[np.uint8]]:
        return {"head": np.full((len(latents), HORIZON, 8, 8, 3), 128, dtype=np.uint8)}


def erroneous_chunk(joints: npt.NDArray[np.float64], error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The demonstration with a joint error growing along the chunk, [..., T, A]."""
    growth = np.arange(1, HORIZON + 1)[:, None] / HORIZON
    return demonstration(joints) + error[..., None, None] * growth * OFFSET


def describe(config: WAMConfig) -> WAMSpec:
    """With `load`, what makes this module a family that `wam.backbone` may name."""
    return SPEC


def load(config: WAMConfig) -> AnalyticWAM:
    return AnalyticWAM()


def make_segments(count: int, seed: int = 0) -> list[Segment]:
    """Every other one fine, around the home pose."""
    random = np.random.default_rng(seed)
    segments = []
    for index in range(count):
        arm = np.append(HOME, 1.0)
        joints = np.tile(arm, 2) + np.append(random.normal(0, 0.1, 6), 0.0)[np.arange(14) % 7]
        joints = joints.astype(np.float32)
        segments.append(
            Segment(
                observation={"joints": joints},
                instruction="a fine move" if index % 2 else "a coarse move",
                chunk=demonstration(joints.astype(np.float64)).astype(np.float32),
                weight=np.ones(HORIZON, dtype=np.float32),
                task="fine" if index % 2 else "coarse",
                episode=f"analytic-{index}",
                start=0,
            )
        )
    return segments


def load_segments(config: Config, split: str, horizon: int) -> list[Segment]:
    """What `demonstrations.segments` may name."""
    return make_segments(64, seed=("train", "validation", "test").index(split))


def chunk_error(segment: Segment, error: float) -> ChunkErrors:
    """The reward's errors of a chunk with this known action error."""
    joints = segment.observation["joints"].astype(np.float64)
    return action_errors(
        erroneous_chunk(joints, np.float64(error)), segment.chunk, segment.weight, ROBOT, ActionErrorConfig()
    )


def anchor_errors(segment: Segment, config: PathConfig) -> AnchorErrors:
    """Known in closed form: both anchors walk the reference grid."""
    grid = shifted_grid(SPEC.reference_updates, SPEC.video_shift).double()
    fine = torch.tensor("fine" in segment.instruction)

    def at(depth: int) -> ChunkErrors:
        deviation = (grid[: depth + 1].diff() ** 2).sum()
        return chunk_error(segment, float(action_error(fine, grid[depth], deviation)))

    return AnchorErrors(at(config.shallow_updates), at(SPEC.reference_updates))


def anchors_of(segments: Sequence[Segment], config: PathConfig) -> AnchorErrors:
    """The anchor errors of many segments, as arrays."""
    anchors = [anchor_errors(segment, config) for segment in segments]

    def stacked(name: str) -> ChunkErrors:
        errors = [getattr(anchor, name) for anchor in anchors]
        return ChunkErrors(*(np.array([getattr(e, kind) for e in errors]) for kind in ("sequence", "difference")))

    return AnchorErrors(stacked("shallow"), stacked("full"))


def calibration_of(segments: Sequence[Segment], config: PathConfig) -> Calibration:
    return calibrate(anchors_of(segments, config), config)


@dataclass(frozen=True)
class Best:
    """The best that any walk can do on a segment."""

    path_return: float
    updates: int
    sigma: float


def best_walk(segment: Segment, calibration: Calibration, config: PathConfig, cost: float) -> Best:
    """Search over stop level and number of updates, where a full walk costs `cost`.

    For both given, equal jumps have the least integration error.
    """
    fine = torch.tensor("fine" in segment.instruction)
    anchors = anchor_errors(segment, config)
    sigma = torch.linspace(0, 0.99, 496, dtype=torch.float64)
    found = []
    for updates in range(1, 13):
        error = action_error(fine, sigma, (1 - sigma) ** 2 / updates)
        index = int(error.argmin()) if fine else 0
        path = chunk_error(segment, float(error[index]))
        quality = path_score(path, anchors, calibration, config).quality
        path_return = float(quality) - cost * updates / SPEC.reference_updates
        found.append(Best(path_return, updates, float(sigma[index])))
    return max(found, key=lambda best: best.path_return)
