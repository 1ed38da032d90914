"""RoboTwin's observations, checked and in the form of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..outcomes import SimulationFault
from ..simulator import CAMERAS, Observation, between_opengl_and_opencv, measured
from .layout import Checkout

THEIR_NAMES = {"head": "head_camera", "left_wrist": "left_camera", "right_wrist": "right_camera"}
"""Our name of each camera -> RoboTwin's."""


@dataclass(frozen=True)
class Contract:
    """What every observation must hold: pictures of `sizes` (height, width), by our names, and so many `joints`.

    With `depth` it also holds depth pictures of these sizes, and how the cameras see and where they are.
    """

    sizes: Mapping[str, tuple[int, int]]
    joints: int
    depth: bool = False

    @classmethod
    def of(cls, checkout: Checkout, task_config: Mapping[str, Any], joints: int) -> Contract:
        """What a task configuration promises. Raises ValueError for one without these cameras or joint positions."""
        cameras, types = task_config["camera"], checkout.cameras()
        shown = {
            "data_type.rgb": task_config["data_type"].get("rgb"),
            "data_type.qpos": task_config["data_type"].get("qpos"),
            "camera.collect_head_camera": cameras["collect_head_camera"],
            "camera.collect_wrist_camera": cameras["collect_wrist_camera"],
        }
        hidden = [name for name, value in shown.items() if not value]
        if hidden:
            raise ValueError(f"RoboTwin's task configuration must have {', '.join(hidden)}: true")
        head, wrist = (types[cameras[f"{kind}_camera_type"]] for kind in ("head", "wrist"))
        kinds = {"head": head, "left_wrist": wrist, "right_wrist": wrist}
        sizes = {name: (int(kind["h"]), int(kind["w"])) for name, kind in kinds.items()}
        return cls(sizes, joints, bool(task_config["data_type"].get("depth")))

    def read(self, raw: Mapping[str, Any]) -> Observation:
        """RoboTwin's observation in our form, with its commanded joint positions. `SimulationFault` if it differs.

        The owner of the simulator process checks that the values are finite.
        """
        observation: Observation = {name: self._picture(raw, name) for name in CAMERAS}
        for name in CAMERAS if self.depth else ():
            observation |= self._measured(raw, name)
        vector = np.asarray(raw["joint_action"].get("vector", ()), np.float32)
        if vector.shape != (self.joints,):
            raise SimulationFault(f"joint_action/vector has shape {list(vector.shape)}, not [{self.joints}]")
        return {**observation, "joints": vector}

    def _picture(self, raw: Mapping[str, Any], name: str) -> npt.NDArray[np.uint8]:
        camera, expected = THEIR_NAMES[name], (*self.sizes[name], 3)
        if camera not in raw["observation"] or "rgb" not in raw["observation"][camera]:
            raise SimulationFault(f"RoboTwin has no picture of {camera}, only of {sorted(raw['observation'])}")
        picture = np.asarray(raw["observation"][camera]["rgb"])
        if picture.dtype != np.uint8 or picture.shape != expected:
            raise SimulationFault(
                f"the picture of {camera} is {picture.dtype} {list(picture.shape)}, not uint8 {list(expected)}"
            )
        return np.ascontiguousarray(picture)

    def _measured(self, raw: Mapping[str, Any], name: str) -> Observation:
        """Depth in metres (RoboTwin's is in millimetres), intrinsics, and the pose (RoboTwin's is OpenGL's)."""
        camera = THEIR_NAMES[name]
        shapes = {"depth": self.sizes[name], "intrinsic_cv": (3, 3), "cam2world_gl": (4, 4)}
        values = {key: np.asarray(raw["observation"][camera].get(key, ())) for key in shapes}
        for key, shape in shapes.items():
            if values[key].dtype.kind != "f" or values[key].shape != shape:
                found = f"{values[key].dtype} {list(values[key].shape)}"
                raise SimulationFault(f"{key} of {camera} is {found}, not floating point {list(shape)}")
        pose = between_opengl_and_opencv(values["cam2world_gl"])
        return measured(name, values["depth"] / 1000, values["intrinsic_cv"], pose)
