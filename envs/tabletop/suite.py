"""What the built-in suite offers besides its simulator. Every seed of it can be played."""

from __future__ import annotations

from functools import partial

from configs.failures import FailuresConfig
from configs.schema import EnvConfig
from envs.cameras import RobotCameras
from envs.kinematics import Kinematics
from envs.simulator import SimulatorSpec
from envs.suites import Suite
from envs.tabletop.cameras import robot_cameras
from envs.tabletop.robot import ARM_JOINTS, fk
from envs.tabletop.spec import simulator_spec


class TabletopSuite(Suite):
    def kinematics(self, env: EnvConfig) -> Kinematics:
        """The kinematics of the robot, in closed form."""
        return Kinematics((ARM_JOINTS, ARM_JOINTS), (partial(fk, arm="left"), partial(fk, arm="right")))

    def cameras(self, env: EnvConfig) -> RobotCameras:
        """The head camera above the table, and one on each hand."""
        return RobotCameras(robot_cameras(env.head_size, env.wrist_size), self.kinematics(env))

    def disturbed_expert(self, env: EnvConfig, failures: FailuresConfig) -> SimulatorSpec:
        """The expert with an error on the targets of its working arms."""
        strength = {"offset": failures.offset, "noise": failures.noise, "slip": failures.slip}
        kwargs = {**simulator_spec(env).kwargs, **strength}
        return SimulatorSpec("envs.tabletop.disturbed:DisturbedSimulator", kwargs)


SUITE = TabletopSuite()
