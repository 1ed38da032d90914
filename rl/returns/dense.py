"""The dense reward of an episode: the 16 numbers of Table 2 for each observation, and their weighted sum (WAV)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.returns import DenseWeights, ReturnsConfig
from envs.demonstrations import Episode
from rl.evaluation.futures.metrics import ssim
from rl.returns import terms
from rl.returns.terms import Array

ARMS = ("left", "right")

COLUMNS = (
    *(f"wrist_mse_{arm}" for arm in ARMS),
    *(f"wrist_ssim_{arm}" for arm in ARMS),
    "top_mse",
    "top_ssim",
    *(f"joint_proximity_{arm}" for arm in ARMS),
    *(f"joint_velocity_{arm}" for arm in ARMS),
    *(f"joint_acceleration_{arm}" for arm in ARMS),
    *(f"action_velocity_{arm}" for arm in ARMS),
    *(f"action_acceleration_{arm}" for arm in ARMS),
)
"""The names of the 16 numbers. Each is a weight's name in `DenseWeights`, with the arm if there is one for each arm."""

MOTION = tuple(name.startswith(("joint_velocity", "joint_acceleration", "action_")) for name in COLUMNS)
"""Which of the columns are about motion: 0 for a robot that stands still."""


@dataclass(frozen=True)
class Goal:
    """The last observation of an episode, with which other observations are compared."""

    images: Mapping[str, npt.NDArray[np.uint8]]  # [H, W, 3] of each camera
    joints: npt.NDArray[np.float32]  # [A], of both arms

    @classmethod
    def of(cls, episode: Episode) -> Goal:
        return cls({name: pictures[-1] for name, pictures in episode.images.items()}, episode.joints[-1])


@dataclass(frozen=True)
class Scored:
    """Rewards and returns, float32 [N] each."""

    rewards: npt.NDArray[np.float32]
    returns: npt.NDArray[np.float32]


def components(episode: Episode, goal: Goal, mse_scale: float) -> npt.NDArray[np.float32]:
    """The numbers of Table 2 for each of the N = T + 1 observations, without weights: float32 [N, 16], see `COLUMNS`.

    The state of an arm is its row of `joints`, the gripper included: what recordings hold are drive targets and no
    measured angles. Action t is row t + 1; at the last observation the last action is held. Raises ValueError if the
    goal has pictures or joints of other sizes, or if the numbers of a row cannot be halved into two arms.
    """
    joints = episode.joints
    if joints.shape[1:] != goal.joints.shape or len(goal.joints) % 2:
        raise ValueError(
            f"an episode with {joints.shape[1]} joints and grippers cannot be compared with a last frame of "
            f"{len(goal.joints)}: both need the same two equal arms"
        )
    found: dict[str, Array] = {}
    for name, column in {"head": "top_{}", "left_wrist": "wrist_{}_left", "right_wrist": "wrist_{}_right"}.items():
        pictures, last = episode.images[name], goal.images[name]
        if pictures.shape[1:] != last.shape:
            raise ValueError(f"its {name} pictures are {pictures.shape[1:]}, those of the last frame {last.shape}")
        errors = terms.mean_squared_error(pictures, last)
        found[column.format("mse")] = terms.mse_reward(errors, mse_scale)
        similarities = ssim(pictures, np.repeat(last[None], len(pictures), axis=0))
        found[column.format("ssim")] = terms.ssim_reward(np.clip(similarities, -1.0, 1.0))
    actions = np.concatenate([joints[1:], joints[-1:]])
    halves = (np.split(values, 2, axis=-1) for values in (joints, actions, goal.joints))
    for arm, state, action, last in zip(ARMS, *halves, strict=True):
        found[f"joint_proximity_{arm}"] = terms.proximity_reward(state, last)
        found[f"joint_velocity_{arm}"] = terms.speed(state)
        found[f"joint_acceleration_{arm}"] = terms.acceleration(state)
        found[f"action_velocity_{arm}"] = terms.speed(action)
        found[f"action_acceleration_{arm}"] = terms.acceleration(action)
    return np.stack([found[name] for name in COLUMNS], axis=1).astype(np.float32)


def weights_of(weights: DenseWeights) -> Array:
    """The weight of each of the `COLUMNS`, [16]."""
    return np.array([getattr(weights, name.removesuffix("_left").removesuffix("_right")) for name in COLUMNS])


def scored(rows: npt.NDArray[np.float32], settings: ReturnsConfig) -> Scored:
    """Rewards and returns for the components [N, 16] of an episode.

    After the end, with `after_end=hold`, the robot stands still where it is: the rewards go on as at the last
    observation, without its motion. So an episode that ended well keeps its value, and one that was cut off while it
    failed does not lose less by being shorter. With `zero` there are no rewards after the end.
    """
    weights = weights_of(settings.weights)
    rewards = rows.astype(np.float64) @ weights
    still = float(np.where(MOTION, 0.0, rows[-1]) @ weights)
    after = still if settings.after_end == "hold" else 0.0
    returns = terms.discounted_returns(rewards, after, settings.discount, settings.horizon)
    return Scored(rewards.astype(np.float32), returns.astype(np.float32))
