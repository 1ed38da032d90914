"""The suite behind the simulator protocol: one process plays any task and mode, one episode after another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from envs.simulator import ChunkReply, ExpertReply, ResetReply
from envs.tabletop.collect import record_expert
from envs.tabletop.env import TabletopEnv
from envs.tabletop.rendering import render_device


class TabletopSimulator:
    """See `envs.simulator.Simulator`. Sizes in pixels, rate in Hz. Raises `NoVulkanDevice` if it is to render."""

    def __init__(self, head_size: int, wrist_size: int, control_hz: int, render: bool = True) -> None:
        if render:
            render_device()  # here, not at the first reset: this process is no use, and no seed is to blame
        self._sizes = (head_size, wrist_size, control_hz, render)
        self._env: TabletopEnv | None = None

    def reset(self, *, task: str, mode: str, seed: int) -> ResetReply:
        observation, info = self._enter(task, mode).reset(seed=seed)
        return ResetReply(observation, info["instruction"])

    def step_chunk(self, actions: npt.NDArray[np.float32], record: bool) -> ChunkReply:
        assert self._env is not None, "the owner resets first"
        observation, _, terminated, truncated, info = self._env.step_chunk(actions, record)
        frames = info["frames"]["head"] if record else None
        return ChunkReply(observation, info["executed"], info["success"], terminated or truncated, frames)

    def demonstrate(self, *, task: str, mode: str, seed: int) -> ExpertReply:
        episode = record_expert(self._enter(task, mode), seed)
        return ExpertReply(episode.images, episode.joints, episode.instruction, episode.outcome, episode.style)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _enter(self, task: str, mode: str) -> TabletopEnv:
        self.close()
        self._env = TabletopEnv(task, mode, *self._sizes)
        return self._env
