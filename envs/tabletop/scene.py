"""The simulated scene: table, room, light, two arms and three cameras; with or without rendering.

SAPIEN is imported only here and in `rendering.py`. A scene is for one episode: a used scene would not repeat exactly.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sapien

from envs.rotations import quaternion_from_matrix
from envs.simulator import between_opengl_and_opencv, measured
from envs.tabletop import description
from envs.tabletop.cameras import HEAD_FIELD, HEAD_POSE, WRIST_FIELD, WRIST_MOUNT
from envs.tabletop.randomization import Colour, Look
from envs.tabletop.rendering import keep_shaders, new_renderer
from envs.tabletop.robot import (
    ARM_JOINTS,
    BASE_POSITION,
    BASE_YAW,
    FINGER_TRAVEL,
    SIDES,
    TABLE_HEIGHT,
    Array,
    Side,
    tool_frame,
)
from envs.tabletop.shapes import Part

PHYSICS_HZ = 250
SHADOW_MAP = 512
_ARM_DRIVE = {"stiffness": 1000.0, "damping": 100.0, "force_limit": 150.0, "mode": "force"}
_GRIPPER_DRIVE = {"stiffness": 1000.0, "damping": 60.0, "force_limit": 40.0, "mode": "force"}
_UP = (0.70710678, 0.0, -0.70710678, 0.0)  # turns the x axis of a prismatic joint or cylinder to z


class Body:
    """A rigid object on the table."""

    def __init__(self, world: sapien.Scene, entity: sapien.Entity, parts: tuple[Part, ...]) -> None:
        self._world = world  # keeps the SAPIEN scene: its objects must not live longer than it
        self._entity = entity
        self._rigid = entity.find_component_by_type(sapien.physx.PhysxRigidDynamicComponent)
        self.parts = parts

    @property
    def position(self) -> Array:
        return np.asarray(self._entity.pose.p, dtype=float)

    @property
    def rotation(self) -> Array:
        return np.asarray(self._entity.pose.to_transformation_matrix()[:3, :3], dtype=float)

    @property
    def yaw(self) -> float:
        rotation = self.rotation
        return float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    @property
    def speed(self) -> float:
        """In metres a second."""
        return float(np.linalg.norm(self._rigid.linear_velocity)) if self._rigid is not None else 0.0


class Button(Body):
    """A body with a spring-loaded plunger on top."""

    def __init__(
        self, world: sapien.Scene, articulation: sapien.physx.PhysxArticulation, parts: tuple[Part, ...], travel: float
    ) -> None:
        super().__init__(world, articulation.links[0].entity, parts)
        self._articulation = articulation
        self._travel = travel

    @property
    def depression(self) -> float:
        """How far the plunger is pressed: 0 is up, 1 is as far as it goes."""
        return float(-self._articulation.qpos[0] / self._travel)


class Arm:
    """One arm. A target is seven numbers: six joints in radians and the gripper's opening in 0..1."""

    def __init__(self, world: sapien.Scene, articulation: sapien.physx.PhysxArticulation, side: Side) -> None:
        self.side = side
        self._world = world
        self._articulation = articulation
        self._joints = articulation.active_joints
        for index, joint in enumerate(self._joints):
            joint.set_drive_properties(**(_ARM_DRIVE if index < ARM_JOINTS else _GRIPPER_DRIVE))
            joint.set_friction(0.05)
        for link in articulation.links:
            link.disable_gravity = True

    def place(self, target: Array) -> None:
        """Puts the arm at a target at once, at rest."""
        self._articulation.set_qpos(_joint_positions(target).astype(np.float32))
        self._articulation.set_qvel(np.zeros(len(self._joints), np.float32))
        next(self.drive(target[None], np.zeros_like(target)))

    def drive(self, targets: Array, velocity: Array) -> Iterator[None]:
        """Sets the velocity target [7] of the drives once, and before every `next` their target: a row of [N, 7]."""
        for joint, speed in zip(self._joints, _joint_positions(velocity).tolist(), strict=True):
            joint.set_drive_velocity_target(speed)
        for row in _joint_positions(targets).tolist():
            for joint, position in zip(self._joints, row, strict=True):
                joint.set_drive_target(position)
            yield

    @property
    def joints(self) -> Array:
        """The measured angles of the joints, [6]."""
        return np.asarray(self._articulation.qpos[:ARM_JOINTS], dtype=float)

    @property
    def opening(self) -> float:
        """The measured opening of the gripper, 0..1."""
        return float(np.mean(self._articulation.qpos[ARM_JOINTS:]) / FINGER_TRAVEL)

    @property
    def tool_position(self) -> Array:
        return tool_frame(self.joints, self.side)[1]

    def link(self, name: str) -> sapien.physx.PhysxArticulationLinkComponent:
        return next(link for link in self._articulation.links if link.name == name)


def _joint_positions(targets: Array) -> Array:
    """Six joints and two fingers, float64 [..., 8], from targets [..., 7]."""
    finger = targets[..., ARM_JOINTS:].astype(float) * FINGER_TRAVEL
    return np.concatenate([targets[..., :ARM_JOINTS], finger, finger], axis=-1)


class Scene:
    """What is simulated in one episode."""

    def __init__(self, look: Look, *, render: bool, head_size: int, wrist_size: int) -> None:
        self.look = look
        self.rendered = render
        if render:
            keep_shaders()
        systems = [sapien.physx.PhysxCpuSystem()]
        self._scene = sapien.Scene([*systems, new_renderer()] if render else systems)
        self._scene.set_timestep(1 / PHYSICS_HZ)
        self._bodies: list[Body] = []
        self._build_room()
        self.arms: dict[Side, Arm] = {side: self._add_arm(side) for side in SIDES}
        self._cameras = self._add_cameras(head_size, wrist_size) if render else {}

    def step(self) -> None:
        """One physics step."""
        self._scene.step()

    def is_finite(self) -> bool:
        """Whether every position is still a number."""
        values = [arm.joints for arm in self.arms.values()] + [body.position for body in self._bodies]
        return bool(np.isfinite(np.concatenate(values)).all())

    def images(self) -> dict[str, npt.NDArray[np.uint8]]:
        """The pictures of all three cameras, uint8 [H, W, 3]."""
        self._scene.update_render()
        for camera in self._cameras.values():
            camera.take_picture()
        return {name: _to_bytes(camera.get_picture("Color")) for name, camera in self._cameras.items()}

    def measurements(self) -> dict[str, npt.NDArray[np.float32]]:
        """Depth, intrinsics and pose of each camera as `envs.simulator.Observation` has them; call it after `images`.

        SAPIEN gives the point in each pixel in the camera's OpenGL frame, whose z points backward.
        """
        found: dict[str, npt.NDArray[np.float32]] = {}
        for name, camera in self._cameras.items():
            depth = 0.0 - camera.get_picture("Position")[..., 2]
            pose = between_opengl_and_opencv(camera.get_model_matrix())
            found |= measured(name, depth, camera.get_intrinsic_matrix(), pose)
        return found

    @property
    def bodies(self) -> tuple[Body, ...]:
        return tuple(self._bodies)

    def add_body(
        self,
        name: str,
        parts: tuple[Part, ...],
        position: npt.ArrayLike,
        yaw: float = 0.0,
        *,
        fixed: bool = False,
        density: float = 400.0,
    ) -> Body:
        """Adds a rigid object whose frame has its origin at `position`."""
        builder = self._scene.create_actor_builder()
        builder.set_initial_pose(_pose(position, yaw))
        self._add_parts(builder, parts, density, friction=1.0)
        entity = builder.build_static(name=name) if fixed else builder.build(name=name)
        body = Body(self._scene, entity, parts)
        self._bodies.append(body)
        return body

    def add_button(
        self, name: str, base: tuple[Part, ...], plunger: tuple[Part, ...], position: npt.ArrayLike, travel: float
    ) -> Button:
        """Adds a fixed base with a plunger. A spring holds it up; it can be pressed down by `travel` metres."""
        builder = self._scene.create_articulation_builder()
        builder.set_initial_pose(_pose(position, 0.0))
        root = builder.create_link_builder()
        root.set_name("base")
        self._add_parts(root, base, density=2000.0, friction=0.8)
        head = builder.create_link_builder(root)
        head.set_name("plunger")
        self._add_parts(head, plunger, density=500.0, friction=0.8)
        axis = sapien.Pose(q=_UP)
        head.set_joint_properties("prismatic", [[-travel, 0.0]], axis, axis, 0.0, 2.0)
        articulation = builder.build(fix_root_link=True)
        articulation.set_name(name)
        joint = articulation.active_joints[0]
        joint.set_drive_properties(stiffness=150.0, damping=8.0, force_limit=20.0, mode="force")
        joint.set_drive_target(0.0)
        articulation.set_qpos(np.zeros(1, np.float32))  # puts the plunger in its place before the first step
        for link in articulation.links:
            link.disable_gravity = True
        button = Button(self._scene, articulation, base, travel)
        self._bodies.append(button)
        return button

    def _add_parts(
        self, builder: sapien.ActorBuilder, parts: tuple[Part, ...], density: float, friction: float
    ) -> None:
        material = sapien.physx.PhysxMaterial(friction, friction, 0.0)
        for part in parts:
            if len(part.size) == 3:
                kind, pose = "box", sapien.Pose(list(part.position))
                shape: dict[str, object] = {"half_size": list(part.size)}
            else:
                kind, pose = "cylinder", sapien.Pose(list(part.position), list(_UP))
                shape = {"radius": part.size[0], "half_length": part.size[1]}
            if part.solid:
                getattr(builder, f"add_{kind}_collision")(pose, **shape, material=material, density=density)
            if self.rendered:
                getattr(builder, f"add_{kind}_visual")(pose, **shape, material=_paint(part.colour))

    def _build_room(self) -> None:
        table = Part((0.65, 0.62, 0.02), self.look.table, (0.0, 0.0, -0.02))
        builder = self._scene.create_actor_builder()
        builder.set_initial_pose(_pose([0.0, 0.0, TABLE_HEIGHT], 0.0))
        self._add_parts(builder, (table,), density=1000.0, friction=0.8)
        builder.build_static(name="table")
        if not self.rendered:
            return
        room = self._scene.create_actor_builder()
        for size, position in (((3.0, 3.0, 0.02), (0, 0, -0.02)), ((3.0, 0.02, 2.0), (0, 1.6, 1.0))):
            room.add_box_visual(sapien.Pose(position), list(size), material=_paint(self.look.wall))
        room.build_static(name="room")
        self._scene.set_ambient_light([self.look.ambient] * 3)
        self._scene.add_directional_light(
            list(self.look.light_direction),
            list(self.look.light),
            shadow=True,
            shadow_scale=1.2,
            shadow_map_size=SHADOW_MAP,
        )

    def _add_arm(self, side: Side) -> Arm:
        loader = self._scene.create_urdf_loader()
        loader.fix_root_link = True
        for finger in ("finger1", "finger2"):
            loader.set_link_material(finger, 2.0, 2.0, 0.0)
        articulation = loader.load(str(description_file(self.rendered)))
        articulation.set_name(f"{side}_arm")
        articulation.set_root_pose(_pose(BASE_POSITION[side], BASE_YAW))
        return Arm(self._scene, articulation, side)

    def _add_cameras(self, head_size: int, wrist_size: int) -> dict[str, sapien.render.RenderCameraComponent]:
        head = self._scene.add_camera("head", head_size, head_size, HEAD_FIELD, 0.05, 10.0)
        head.entity.set_pose(_camera_pose(HEAD_POSE))
        mount = _camera_pose(WRIST_MOUNT)
        cameras = {"head": head}
        for side, arm in self.arms.items():
            cameras[f"{side}_wrist"] = self._scene.add_mounted_camera(
                f"{side}_wrist", arm.link("hand").entity, mount, wrist_size, wrist_size, WRIST_FIELD, 0.01, 10.0
            )
        return cameras


def _pose(position: npt.ArrayLike, yaw: float) -> sapien.Pose:
    return sapien.Pose(np.asarray(position, float).tolist(), [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))])


def _camera_pose(pose: Array) -> sapien.Pose:
    return sapien.Pose(pose[:3, 3].tolist(), quaternion_from_matrix(pose[:3, :3]).tolist())


def _paint(colour: Colour) -> sapien.render.RenderMaterial:
    material = sapien.render.RenderMaterial()
    material.base_color = [*colour, 1.0]
    material.roughness, material.specular = 0.8, 0.2
    return material


def _to_bytes(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return (np.clip(picture[..., :3], 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


@functools.cache
def description_file(visuals: bool) -> Path:
    """The arm's URDF in a file of this process, with the SRDF beside it: SAPIEN and mplib read files."""
    folder = Path(_private_folder())
    path = folder / f"arm_{'visual' if visuals else 'plain'}.urdf"
    path.write_text(description.urdf(visuals))
    path.with_suffix(".srdf").write_text(description.srdf())
    return path


@functools.cache
def _private_folder() -> str:
    holder = tempfile.TemporaryDirectory(prefix=f"tabletop-{os.getpid()}-")
    _folders.append(holder)  # removed at exit
    return holder.name


_folders: list[tempfile.TemporaryDirectory[str]] = []
