"""The built-in suite as a simulator: one process plays episodes of any task and mode, one after another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from envs.simulator import ChunkReply, ExpertReply, ResetReply
from envs.tabletop.env import TabletopEnv
from envs.tabletop.recording import record_expert
from envs.tabletop.rendering import render_device


class TabletopSimulator:
    """See `envs.simulator.Simulator`. Sizes are in pixels, the rate is in Hz.

    Raises `NoVulkanDevice` where it should render and there is no graphics device.
    """

    def __init__(
        self, head_size: int, wrist_size: int, control_hz: int, render: bool = True, depth: bool = False
    ) -> None:
        if render:
            render_device()  # already here and not at the first reset: without it no seed can be played
        self._settings = (head_size, wrist_size, control_hz, render, depth)
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
        return record_expert(self._enter(task, mode), seed)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _enter(self, task: str, mode: str) -> TabletopEnv:
        self.close()
        self._env = TabletopEnv(task, mode, *self._settings)
        return self._env
