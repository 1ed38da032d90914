"""Depth pictures and cameras in the data files of a LeRobot dataset, beside the joints.

For each camera NAME there are three features of the dtype float32: `observation.depth.NAME` [H, W] in metres,
`observation.intrinsics.NAME` [3, 3] and `observation.pose.NAME` [4, 4]. LeRobot reads such features as `Array2D`. They
are exact, which no video is: H.264 has 8 bits a colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from envs.demonstrations.episodes import CorruptDemonstration, Episode, StoredDepth
from envs.demonstrations.formats.lerobot.rows import read_table
from envs.demonstrations.formats.lerobot.schema import Row
from envs.simulator import MEASURED

DEPTH = "observation.depth."
PACKED: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}
"""How data files with depth are written. Depth takes half the room that it takes with snappy."""


def keys_of(camera: str) -> tuple[str, ...]:
    """The names of the features of a camera: depth, intrinsics, pose."""
    return tuple(f"observation.{kind}.{camera}" for kind in MEASURED)


def columns_of(episode: Episode, names: Mapping[str, str]) -> dict[str, npt.NDArray[np.float32]]:
    """The features [T + 1, H, W] of an episode by key; empty without depth. `names`: our view -> the camera's name."""
    columns: dict[str, npt.NDArray[np.float32]] = {}
    for view, depth in episode.depths.items():
        camera = episode.cameras[view]
        values = depth, np.repeat(camera.intrinsics[None], len(depth), axis=0), camera.poses
        columns |= dict(zip(keys_of(names[view]), values, strict=True))
    return columns


def feature_of(key: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What `meta/info.json` says of a feature."""
    names = ["height", "width"] if key.startswith(DEPTH) else ["row", "column"]
    return {"dtype": "float32", "shape": list(shape), "names": names}


def nested(values: npt.NDArray[np.float32]) -> pa.Array:
    """Matrices [N, H, W] as lists of lists, as LeRobot stores them."""
    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in values.shape[:0:-1]:
        column = pa.ListArray.from_arrays(np.arange(0, len(column) + 1, size, dtype=np.int32), column)
    return column


def read_depth(path: Path, camera: str, episode: Row) -> StoredDepth:
    """Depth, intrinsics and poses that one episode has in its N rows. Raises `CorruptDemonstration`."""
    keys = keys_of(camera)
    table = read_table(path, keys, episode=episode.episode_index)
    if len(table) != episode.length:
        raise CorruptDemonstration(path, f"it holds {len(table)} of {episode.length} rows of {keys[0]}")
    depth, intrinsics, poses = (_matrices(path, key, table[key]) for key in keys)
    return depth, intrinsics, poses


def _matrices(path: Path, key: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of lists of lists as an array [N, H, W]."""
    values, shape = pa.concat_arrays(column.chunks), [len(column)]
    for _ in range(2):
        kind = values.type
        is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        lengths = pc.unique(pc.list_value_length(values)).to_pylist() if is_list else []
        if len(lengths) != 1 or not lengths[0]:
            raise CorruptDemonstration(path, f"its column {key} does not hold matrices of one size")
        shape.append(lengths[0])
        values = values.flatten()
    if not types.is_floating(values.type) or values.null_count:
        raise CorruptDemonstration(path, f"its column {key} should hold numbers, and none missing, not {values.type}")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)
