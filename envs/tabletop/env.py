"""The tabletop suite as a Gymnasium environment.

An episode depends on (task, mode, seed) alone, and its physics does not depend on rendering. The observed joints are
the drive targets: `joints[t + 1]` is the action of step t, clipped to the limits of the joints and of their speed.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from envs.outcomes import Outcome, SimulationFault
from envs.simulator import CAMERAS, Observation, checked_actions
from envs.tabletop.expert import Script
from envs.tabletop.randomization import MODES, sample_look, stream
from envs.tabletop.robot import (
    ARM_ACTION,
    ARM_JOINTS,
    JOINT_SPEED_LIMIT,
    LOWER,
    SIDES,
    UPPER,
    Array,
    Side,
)
from envs.tabletop.scene import PHYSICS_HZ, Scene
from envs.tabletop.start import draw_start
from envs.tabletop.task import Task
from envs.tabletop.tasks import load_task

ACTION_LOW = np.tile(np.append(LOWER, 0.0), 2).astype(np.float32)
ACTION_HIGH = np.tile(np.append(UPPER, 1.0), 2).astype(np.float32)
_ARM_COLUMNS = np.tile(np.arange(ARM_ACTION) < ARM_JOINTS, 2)


class TabletopEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """One task. An observation has three pictures (uint8) and the joints (float32 [14]).

    An action is absolute joint targets [6 left joints, gripper, 6 right joints, gripper]. On success the reward is 1
    and the episode is `terminated`; at the task's step limit it is `truncated`. With `render=False` the pictures are
    black and no graphics device is needed. With `depth` an observation also has the depth pictures and the cameras that
    `envs.simulator.Observation` describes. `info` holds instruction, success, steps and outcome (None before the end).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        mode: str = "clean",
        head_size: int = 64,
        wrist_size: int = 32,
        control_hz: int = 10,
        render: bool = True,
        depth: bool = False,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
        if PHYSICS_HZ % control_hz:
            raise ValueError(f"control_hz={control_hz} must divide the physics rate of {PHYSICS_HZ} Hz")
        if depth and not render:
            raise ValueError("depth pictures have to be rendered: use render=True, or depth=False")
        self.task_name, self.mode, self.control_hz = task, mode, control_hz
        self._task_class = load_task(task)
        self.step_limit = round(self._task_class.step_limit_s * control_hz)
        self._sizes = dict(zip(CAMERAS, (head_size, wrist_size, wrist_size), strict=True))
        self._rendered, self._depth = render, depth
        pictures = {name: gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8) for name, size in self._sizes.items()}
        joints = gymnasium.spaces.Box(ACTION_LOW, ACTION_HIGH, dtype=np.float32)
        measurements = self._measurement_spaces() if depth else {}
        self.observation_space = gymnasium.spaces.Dict({**pictures, **measurements, "joints": joints})
        self.action_space = gymnasium.spaces.Box(ACTION_LOW, ACTION_HIGH, dtype=np.float32)
        self._scene: Scene | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Builds the scene of a seed, which is drawn if it is None. Raises `InfeasibleSeed`."""
        super().reset(seed=seed)
        self.seed = int(self.np_random.integers(2**31)) if seed is None else seed
        scene_rng, style_rng = self._stream("scene"), self._stream("style")
        self._scene = None  # gives up the old scene before the new one is built
        self._scene = Scene(
            sample_look(self.mode, self._stream("look")),
            render=self._rendered,
            head_size=self._sizes["head"],
            wrist_size=self._sizes["left_wrist"],
        )
        self.task: Task = self._task_class(self.mode, self._task_class.draw_style(style_rng), scene_rng)
        self.task.build(self._scene)
        start = draw_start(self._stream("start"), self.task.working_arms, self.task.away)
        self.task.continue_from(start)
        self.instruction = self.task.instruction(style_rng)
        self._target = start.targets.astype(np.float32)
        for side, target in self._by_arm(self._target):
            self._scene.arms[side].place(target)
        self._steps, self.success = 0, False
        return self.observe(), self._info()

    def step(self, action: npt.ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step of 1 / control_hz seconds. ValueError for a wrong shape or a value that is not finite."""
        reward, terminated, truncated = self._advance(checked_actions(np.asarray(action)[None])[0])
        return self.observe(), reward, terminated, truncated, self._info()

    def step_chunk(
        self, actions: npt.ArrayLike, record: bool = False
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes actions [T, 14] until success or the step limit, and renders once, at the end.

        `info["executed"]` says how many were taken. With `record` it renders after each action, and `info["frames"]`
        holds the pictures of each camera, uint8 [executed, H, W, 3].
        """
        reward, terminated, truncated, observations = 0.0, False, False, []
        executed = 0
        for action in checked_actions(actions):
            reward, terminated, truncated = self._advance(action)
            executed += 1
            if record:
                observations.append(self.observe())
            if terminated or truncated:
                break
        info = {**self._info(), "executed": executed}
        if record:
            info["frames"] = {name: np.stack([frame[name] for frame in observations]) for name in CAMERAS}
        return observations[-1] if record else self.observe(), reward, terminated, truncated, info

    def observe(self) -> Observation:
        """The current observation; renders."""
        pictures = self._pictures()
        measurements = self.scene.measurements() if self._depth else {}
        return {**pictures, **measurements, "joints": self._target.copy()}

    def render(self) -> npt.NDArray[np.uint8]:  # type: ignore[override]
        """The head camera's picture, uint8 [H, W, 3]."""
        return self._pictures()["head"]

    def close(self) -> None:
        """Gives up the current scene."""
        self._scene = None

    def script(self) -> Script:
        """The expert's motions in this episode, which begin where the arms are now."""
        pace = self.task.style.pace
        return Script(self.scene, self._target, pace=pace, control_hz=self.control_hz, seed=self.seed)

    @property
    def scene(self) -> Scene:
        """The current scene. Raises RuntimeError before the first reset."""
        if self._scene is None:
            raise RuntimeError("call reset before anything else")
        return self._scene

    @property
    def style(self) -> dict[str, str | float | bool]:
        """What the expert drew from the seed, as JSON values."""
        return self.task.style.record()

    def _advance(self, action: npt.NDArray[np.float32]) -> tuple[float, bool, bool]:
        scene, start = self.scene, self._target
        self._target = self._reachable(action)
        substeps = PHYSICS_HZ // self.control_hz
        progress = (np.arange(1, substeps + 1) / substeps).astype(np.float32)[:, None]
        targets = self._by_arm(start + (self._target - start) * progress)
        velocities = self._by_arm((self._target - start) * self.control_hz)
        drives = [scene.arms[side].drive(to, speed) for (side, to), (_, speed) in zip(targets, velocities, strict=True)]
        for _ in zip(*drives, strict=True):
            scene.step()
        if not scene.is_finite():
            raise SimulationFault(f"{self.task_name} seed {self.seed}: positions are no longer finite")
        self._steps += 1
        succeeded = self.task.succeeded()
        reward = float(succeeded and not self.success)
        self.success |= succeeded
        return reward, self.success, not self.success and self._steps >= self.step_limit

    def _reachable(self, action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        reach = np.where(_ARM_COLUMNS, JOINT_SPEED_LIMIT / self.control_hz, 1.0).astype(np.float32)
        limited = np.clip(action, self._target - reach, self._target + reach)
        return np.clip(limited, ACTION_LOW, ACTION_HIGH)

    def _pictures(self) -> Observation:
        if self._rendered:
            return dict(self.scene.images())
        return {name: np.zeros((size, size, 3), np.uint8) for name, size in self._sizes.items()}

    def _measurement_spaces(self) -> dict[str, gymnasium.spaces.Box]:
        spaces = {}
        for name, size in self._sizes.items():
            spaces[f"{name}_depth"] = gymnasium.spaces.Box(0.0, np.inf, (size, size), np.float32)
            spaces[f"{name}_intrinsics"] = gymnasium.spaces.Box(0.0, np.inf, (3, 3), np.float32)
            spaces[f"{name}_pose"] = gymnasium.spaces.Box(-np.inf, np.inf, (4, 4), np.float32)
        return spaces

    def _info(self) -> dict[str, Any]:
        outcome = Outcome.success if self.success else Outcome.step_limit if self._steps >= self.step_limit else None
        return {"instruction": self.instruction, "success": self.success, "outcome": outcome, "steps": self._steps}

    def _stream(self, name: str) -> np.random.Generator:
        return stream(self.task_name, self.mode, self.seed, name)

    @staticmethod
    def _by_arm(values: Array) -> list[tuple[Side, Array]]:
        return list(zip(SIDES, np.split(values, 2, axis=-1), strict=True))
