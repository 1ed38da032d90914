"""The settings of dense rewards and of their discounted returns (WAV, section 4.2 and Appendix B)."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.failures import KINDS
from configs.fields import setting


@dataclass
class DenseWeights:
    """The weight of each reward term. P: those of Table 2. Terms of an arm are counted for both arms."""

    wrist_mse: float = setting(1 / 16)  # of each wrist camera
    wrist_ssim: float = setting(1 / 16)
    top_mse: float = setting(1 / 16)  # of the head camera
    top_ssim: float = setting(1 / 16)
    joint_proximity: float = setting(1 / 16)  # of each arm, like all that follow
    joint_velocity: float = setting(-1 / 16)
    joint_acceleration: float = setting(-1 / 16)
    action_velocity: float = setting(-0.1 / 16)
    action_acceleration: float = setting(-0.1 / 16)


@dataclass
class ReturnsConfig:
    """`launch.returns`, which computes the discounted returns of recorded episodes."""

    weights: DenseWeights = field(default_factory=DenseWeights)
    mse_scale: float = setting(0.01, above=0)  # P; for pictures from 0 to 255 (C)
    discount: float = setting(0.99, above=0, at_most=1)  # the paper gives none; C: that of the authors' code
    horizon: int = setting(36, at_least=1)  # rewards of a return; the paper gives none; C: that of the authors' code
    # C. The rewards after the end of an episode: `hold` repeats that of standing still at the end, `zero` has none.
    after_end: str = setting("hold", choices=("hold", "zero"))
    # C. The last frame with which an episode that failed is compared: that of the `demonstration` in the same scene, or
    # its `own`. An episode that succeeded is always compared with its own.
    failed_goal: str = setting("demonstration", choices=("demonstration", "own"))
    failures: list[str] = setting([*KINDS], choices=KINDS)  # the kinds besides demonstrations; each must be there
    folder: str = setting("", path=True)  # where the returns are stored; empty: in demonstrations.root
