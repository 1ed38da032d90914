"""The real RoboTwin in a temporary clone, with robots and clutter made of boxes in place of its assets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

SIX = "zyyxyx"
"""The axis of each joint of an arm."""
SEVEN = "zyzyxyx"
LENGTHS = (0.1, 0.2, 0.2, 0.1, 0.08, 0.06, 0.05)
HOME = [0.0, -0.4, 0.6, 0.0, 0.2, 0.0, 0.0]
CLUTTER = "toybox"


def write_real_root(checkout: Path, folder: Path) -> Path:
    """A clone of the checkout's commit in `folder`, so that the checkout itself stays as it is."""
    subprocess.run(["git", "clone", "--quiet", "--shared", str(checkout), str(folder)], check=True)
    assets = folder / "assets"
    _write_objects(assets / "objects")
    for kind in ("seen", "unseen"):
        (assets / "background_texture" / kind).mkdir(parents=True)
        cv2.imwrite(str(assets / "background_texture" / kind / "0.png"), np.full((8, 8, 3), 90, np.uint8))
    _write_robot(assets / "embodiments" / "aloha-agilex", SIX)
    _write_robot(assets / "embodiments" / "franka-panda", SEVEN)
    return folder


def robot_files(axes: str) -> tuple[str, dict[str, Any]]:
    """URDF and config.yml: of two arms in one where they have six joints, else of one arm that is used twice."""
    if axes == SIX:
        both = _urdf([_arm("fl", SIX, 0.3, "left_camera"), _arm("fr", SIX, -0.3, "right_camera")])
        return both, _config(len(SIX), ("fl", "fr"))
    return _urdf([_arm("one", axes, 0, "camera")]), _config(len(axes), ("one", "one"))


def _write_objects(folder: Path) -> None:
    """What is read at import, and one thing to lie about on the table."""
    name = f"{CLUTTER}_0"
    listed = {
        "item_names": [CLUTTER],
        "list_of_items": {CLUTTER: ["0"]},
        "z_max": {name: 0.04},
        "radius": {name: 0.03},
        "z_offset": {name: 0.0},
    }
    model = folder / "objaverse" / CLUTTER / "0" / "model.urdf"
    model.parent.mkdir(parents=True)
    model.write_text(
        f'<?xml version="1.0"?>\n<robot name="box">{_link("box", (0.04, 0.04, 0.04), 0.1, (0, 0, 0.02))}</robot>'
    )
    (folder / "objaverse" / "list.json").write_text(json.dumps(listed))
    (folder / "same.json").write_text("{}")


def _write_robot(folder: Path, axes: str) -> None:
    folder.mkdir(parents=True)
    urdf, config = robot_files(axes)
    (folder / "toy.urdf").write_text(urdf)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    for file in ("curobo_left.yml", "curobo_right.yml", "curobo.yml"):
        (folder / file).write_text("planner: {frame_bias: [0, 0, 0]}\n")


def _config(joints: int, arms: Sequence[str]) -> dict[str, Any]:
    camera = {"type": "D435", "forward": [0.0, 0.6, -0.8], "left": [-1, 0, 0]}
    return {
        "urdf_path": "toy.urdf",
        "move_group": [f"{arm}_link{joints}" for arm in arms],
        "ee_joints": [f"{arm}_joint{joints}" for arm in arms],
        "arm_joints_name": [[f"{arm}_joint{number + 1}" for number in range(joints)] for arm in arms],
        "gripper_name": [{"base": f"{arm}_finger1", "mimic": [[f"{arm}_finger2", 1.0, 0.0]]} for arm in arms],
        "gripper_bias": 0.12,
        "gripper_scale": [0, 0.045],
        "homestate": [HOME[:joints]] * 2,
        "robot_pose": [[0, -0.65, 0, 0.707, 0, 0, 0.707]],
        "planner": "mplib_RRT",
        "joint_stiffness": 1000,
        "joint_damping": 200,
        "gripper_stiffness": 1000,
        "gripper_damping": 200,
        "rotate_lim": [0, 0],
        "grasp_perfect_direction": ["front_right", "front_left"],
        "static_camera_list": [
            {"name": "head_camera", "position": [0.0, -0.45, 1.35], **camera},
            {"name": "front_camera", "position": [0.0, -0.6, 1.2], **camera},
        ],
    }


def _urdf(arms: Sequence[str]) -> str:
    base = _link("base", (0.2, 0.6, 0.6), 10.0, solid=False)
    return f'<?xml version="1.0"?>\n<robot name="toy">\n{base}{"".join(arms)}</robot>\n'


def _arm(name: str, axes: str, y: float, camera: str) -> str:
    parent, origin, parts = "base", (0.1, y, 0.7), []
    for number, (axis, length) in enumerate(zip(axes, LENGTHS, strict=False), start=1):
        link = f"{name}_link{number}"
        parts.append(_link(link, (length, 0.04, 0.04), 0.5, (length / 2, 0, 0)))
        parts.append(_joint(f"{name}_joint{number}", "revolute", parent, link, origin, axis, (-3.1, 3.1)))
        parent, origin = link, (length, 0.0, 0.0)
    for number, sign in ((1, 1), (2, -1)):
        finger = f"{name}_finger_link{number}"
        place = (origin[0] + 0.03, sign * 0.01, 0.0)
        parts.append(_link(finger, (0.05, 0.01, 0.02), 0.05))
        parts.append(_joint(f"{name}_finger{number}", "prismatic", parent, finger, place, "y", (0.0, 0.05), sign))
    parts.append(_link(camera, (0.01, 0.01, 0.01), 0.01))
    parts.append(_joint(f"{camera}_joint", "fixed", parent, camera, (0.0, 0.0, 0.06), "x", (0, 0)))
    return "".join(parts)


def _link(
    name: str, size: Sequence[float], mass: float, middle: Sequence[float] = (0, 0, 0), solid: bool = True
) -> str:
    origin = f'<origin xyz="{" ".join(map(str, middle))}"/>'
    box = f'{origin}<geometry><box size="{" ".join(map(str, size))}"/></geometry>'
    inertia = '<inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/>'
    collision = f"<collision>{box}</collision>" * solid
    return (
        f'<link name="{name}"><inertial><mass value="{mass}"/>{inertia}</inertial>'
        f"<visual>{box}</visual>{collision}</link>\n"
    )


def _joint(
    name: str,
    kind: str,
    parent: str,
    child: str,
    origin: Sequence[float],
    axis: str,
    limits: tuple[float, float],
    sign: int = 1,
) -> str:
    direction = " ".join(str(sign * (letter == axis)) for letter in "xyz")
    bounds = f'<limit lower="{limits[0]}" upper="{limits[1]}" effort="100" velocity="3"/>'
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{" ".join(map(str, origin))}"/><axis xyz="{direction}"/>{bounds}</joint>\n'
    )
