"""The terms of the dense reward, and discounted returns: pure functions on arrays (WAV, section 4.2 and Appendix B).

N observations of an episode; A numbers of an arm: its joints in radians, and its gripper from 0 (closed) to 1 (open).
A term is a reward or a penalty without its weight. Differences are those between adjacent control steps, not divided by
time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def mean_squared_error(pictures: npt.NDArray[np.uint8], goal: npt.NDArray[np.uint8]) -> Array:
    """The mean over pixels and channels of the squared differences from 0 to 255, [N].

    `pictures` is uint8 [N, H, W, 3] and `goal` is uint8 [H, W, 3].
    """
    difference = pictures.astype(np.float64) - goal.astype(np.float64)
    return np.asarray(np.mean(np.square(difference), axis=(1, 2, 3)))


def mse_reward(errors: npt.ArrayLike, scale: float) -> Array:
    """c1 and c3 of Table 2 for mean squared errors: in (0, 1], and 1 for equal pictures. `scale` is 0.01 there."""
    return np.exp(-scale * np.asarray(errors, np.float64))


def ssim_reward(similarities: npt.ArrayLike) -> Array:
    """c2 and c4 of Table 2 for structural similarities in [-1, 1]: in [exp(-2), 1], and 1 for equal pictures."""
    return np.exp(np.asarray(similarities, np.float64) - 1.0)


def proximity_reward(states: npt.NDArray[Any], goal: npt.NDArray[Any]) -> Array:
    """c5 of Table 2, [N]: in (0, 1], and 1 at the goal. `states` is [N, A] and `goal` is [A]."""
    return np.exp(-np.linalg.norm(states.astype(np.float64) - goal.astype(np.float64), axis=1))


def speed(values: npt.NDArray[Any]) -> Array:
    """c6 and c8 of Table 2, [N]: the sum over A of the absolute first differences of [N, A]. The first row has 0."""
    return _summed(np.diff(values.astype(np.float64), axis=0), len(values))


def acceleration(values: npt.NDArray[Any]) -> Array:
    """c7 and c9 of Table 2, [N]: the sum over A of the absolute second differences of [N, A]. Two rows have 0."""
    return _summed(np.diff(values.astype(np.float64), n=2, axis=0), len(values))


def discounted_returns(rewards: npt.NDArray[Any], after: float, discount: float, horizon: int) -> Array:
    """The sum of the next `horizon` rewards from each step on, the i-th times `discount` to the power i, [N].

    `rewards` is [N]; every step after the last one has the reward `after`. This is the return of section 4.2 with
    H = horizon - 1, and that of Corollary A.3 with H = horizon.
    """
    extended = np.concatenate([rewards.astype(np.float64), np.full(horizon - 1, float(after))])
    powers = float(discount) ** np.arange(horizon)
    return np.asarray(np.correlate(extended, powers, mode="valid"))


def _summed(differences: Array, rows: int) -> Array:
    """The sum over the columns of absolute differences, [rows], after zeros for the first rows, which have none."""
    sums = np.abs(differences).sum(axis=1)
    return np.concatenate([np.zeros(rows - len(sums)), sums])
