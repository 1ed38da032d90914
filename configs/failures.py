"""The settings of episodes that are no demonstrations: those of a disturbed expert and those of a policy."""

from __future__ import annotations

from dataclasses import dataclass

from configs.fields import setting

EXPERT = "expert"
"""The kind of a demonstration."""

KINDS = ("disturbed", "policy")
"""The kinds of such episodes. Each is the name of a field of `FailuresConfig`, and of a folder on disk."""


@dataclass
class FailuresConfig:
    """These settings say how many episodes besides demonstrations are kept, and how the expert is disturbed.

    They are played in the scenes of the first demonstrations of each task and mode, one episode a scene and kind.
    """

    disturbed: int = setting(0, at_least=0)  # the scenes in which the disturbed expert plays
    policy: int = setting(0, at_least=0)  # the scenes in which the backbone plays under `schedule`
    schedule: str = "fixed-5"  # a schedule without training
    # C: on the built-in tasks, the expert fails in five of six scenes with these.
    offset: float = setting(0.3, at_least=0, at_most=2)  # rad: the largest error of an arm's targets, all six joints
    noise: float = setting(0.02, at_least=0, at_most=1)  # rad: the standard deviation of each joint's trembling
    slip: float = setting(0.25, at_least=0, at_most=1)  # how often the grippers stop to move
