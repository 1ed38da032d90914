"""The chunks that a chunk is compared with: the demonstration's, and futures that the frozen backbone itself draws.

Where a task has several ways, the error against the nearest of several references does not reward their mean, which is
near to none of them. The error against a single demonstration does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from configs.schema import ActionErrorConfig
from configs.stored import DamagedFile, set_aside
from envs.files import replaced_atomically
from envs.kinematics import Kinematics
from policies.backbones.door import Context, FrozenWAM, WAMSpec
from policies.catalogue import build_schedule
from policies.walk import walk
from policies.walk_record import Float32Array
from rl.experience.action_errors import chunk_errors
from rl.experience.rollouts import FloatArray
from rl.experience.segments import Segment

_ROWS = 256  # walked together


@dataclass(frozen=True)
class ReferencePlan:
    """Which references every segment has."""

    demonstration: bool = True
    samples: int = 0  # how many futures the backbone draws
    updates: int = 8  # of each of these walks


class References:
    """The reference chunks of segments. Drawn ones are walked once, and kept in files that all runners may share.

    A file belongs to a backbone, a number of updates and an observation, so that it never has to be removed.
    """

    def __init__(self, wam: FrozenWAM, plan: ReferencePlan, folder: Path) -> None:
        self._wam, self._plan = wam, plan
        self._folder = folder / wam.spec.weights_hash / f"fixed-{plan.updates}"
        self._memory: dict[str, Float32Array] = {}  # by the hash of an observation, [samples, T, A]

    def knows(self, segments: Sequence[Segment]) -> bool:
        """Whether no future of these segments is still to be drawn."""
        return not self._plan.samples or all(self._knows(_name(segment, self._wam.spec)) for segment in segments)

    def of(self, segments: Sequence[Segment], context: Context | None) -> Float32Array:
        """Return the references [N, R, T, A] of each segment.

        `context` holds their encoded observations. It may be None if all references are known.
        """
        parts = []
        if self._plan.demonstration:
            parts.append(np.stack([segment.chunk for segment in segments])[:, None])
        if self._plan.samples:
            names = [_name(segment, self._wam.spec) for segment in segments]
            missing = {name: row for row, name in enumerate(names) if not self._knows(name)}
            if missing:
                assert context is not None
                self._draw(context.select(torch.tensor(list(missing.values()))), list(missing))
            parts.append(np.stack([self._memory[name] for name in names]))
        return np.concatenate(parts, axis=1)

    def _knows(self, name: str) -> bool:
        """Whether the futures of an observation are in memory, or in a file, from which they are read then."""
        path = self._path(name)
        if name not in self._memory and path.is_file():
            try:
                stored = load_file(path)["chunks"]
            except (OSError, KeyError, SafetensorError) as error:
                set_aside(DamagedFile(path, f"it does not hold references ({error})", "They are drawn again."))
            else:
                if len(stored) >= self._plan.samples:
                    self._memory[name] = stored[: self._plan.samples]
        return name in self._memory

    def _draw(self, context: Context, names: Sequence[str]) -> None:
        """Walk every future of every row, each from a noise of its own, and store them."""
        samples, schedule = self._plan.samples, build_schedule(f"fixed-{self._plan.updates}", self._wam.spec)
        together = max(1, _ROWS // samples)
        for start in range(0, len(names), together):
            part = names[start : start + together]
            rows = torch.arange(start, start + len(part)).repeat_interleave(samples)
            seeds = list(range(samples)) * len(part)
            chunks = walk(self._wam, context.select(rows), schedule, seeds, allow_not_finite=True).actions
            for name, own in zip(part, chunks.reshape(len(part), samples, *chunks.shape[1:]), strict=True):
                self._memory[name] = own
                with replaced_atomically(self._path(name)) as temporary:
                    save_file({"chunks": np.ascontiguousarray(own)}, temporary)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def nearest_errors(
    actions: Float32Array, references: Float32Array, valid: Float32Array, robot: Kinematics, config: ActionErrorConfig
) -> FloatArray:
    """Return the sequence and difference errors [N, P, 2] of chunks [N, P, T, A] against the nearest of N x R others.

    `references` is [N, R, T, A], `valid` [N, T]. The nearest one is that with the least sequence error; both errors are
    against it.
    """
    errors = chunk_errors(
        robot.poses(actions[:, :, None]), robot.poses(references[:, None]), valid[:, None, None], config
    )
    nearest = errors.sequence.argmin(axis=-1)[..., None]
    both = [np.take_along_axis(each, nearest, axis=-1)[..., 0] for each in (errors.sequence, errors.difference)]
    return np.stack(both, axis=-1)


def _name(segment: Segment, spec: WAMSpec) -> str:
    """Hash what the backbone sees of a segment. The joints before it tell what it reads of the episode."""
    digest = hashlib.sha256(segment.instruction.encode())
    if spec.history_chunks and segment.before is not None:
        digest.update(np.ascontiguousarray(segment.before["joints"]).tobytes())
    for name, values in sorted(segment.observation.items()):
        digest.update(f"{name}{values.shape}{values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]
