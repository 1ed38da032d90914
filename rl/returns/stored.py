"""The file with the dense rewards and returns of all episodes of one task and mode.

`<folder>/<task>/<mode>.safetensors` has the tensors

    components   float32 [rows, 16]   the numbers of Table 2, see `rl.returns.dense.COLUMNS`
    rewards      float32 [rows]
    returns      float32 [rows]

with a row for each observation of each episode, one episode after the other. Its metadata are the JSON texts `settings`
(of rewards and returns), `episodes` (a list in the order of the rows) and `hash`, SHA-256 over both and the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from configs.returns import ReturnsConfig
from configs.stored import DamagedFile, parse_json
from envs.files import replaced_atomically
from rl.returns.dense import COLUMNS, scored

FIX = "Run `python -m launch.returns` again: its returns are then computed again."
VERSION = 1
"""Another number whenever the terms are computed in another way: what is stored is then computed again."""

_SCORING = ("weights", "discount", "horizon", "after_end")  # what follows from the components alone
_TENSORS = ("components", "rewards", "returns")


@dataclass(frozen=True)
class StoredEpisode:
    """What is stored of one episode besides its rows."""

    kind: str
    index: int
    seed: int | None
    succeeded: bool
    goal: str  # the kind and index of the episode whose last frame is the goal
    key: str  # a hash of all that the components depend on: the files of both episodes, units and settings
    rows: int


Rows = tuple[StoredEpisode, npt.NDArray[np.float32]]
"""An episode with its components [N, 16]."""


def returns_file(folder: Path, task: str, mode: str) -> Path:
    """Where the returns of a task and mode are."""
    return folder / task / f"{mode}.safetensors"


def scoring_settings(settings: ReturnsConfig) -> dict[str, Any]:
    """The settings on which rewards and returns depend, given the components, as JSON values."""
    return {"version": VERSION, **{name: value for name, value in asdict(settings).items() if name in _SCORING}}


def write_returns(path: Path, episodes: Sequence[Rows], settings: ReturnsConfig) -> None:
    """Write the file, or leave what is there as it is. Rewards and returns are computed from the components."""
    results = [scored(rows, settings) for _, rows in episodes]
    tensors = {
        "components": np.concatenate([rows for _, rows in episodes]),
        "rewards": np.concatenate([one.rewards for one in results]),
        "returns": np.concatenate([one.returns for one in results]),
    }
    metadata = {
        "settings": json.dumps(scoring_settings(settings), sort_keys=True),
        "episodes": json.dumps([asdict(stored) for stored, _ in episodes]),
    }
    with replaced_atomically(path) as temporary:
        save_file(tensors, temporary, {**metadata, "hash": _hash_of(metadata, tensors)})


@dataclass(frozen=True)
class StoredReturns:
    """The content of a file."""

    settings: dict[str, Any]
    episodes: list[StoredEpisode]
    tensors: dict[str, npt.NDArray[np.float32]]

    def rows_of(self) -> dict[tuple[str, int], tuple[StoredEpisode, slice]]:
        """The rows of each episode, by kind and index."""
        ends = np.cumsum([one.rows for one in self.episodes]).tolist()
        return {
            (one.kind, one.index): (one, slice(end - one.rows, end))
            for one, end in zip(self.episodes, ends, strict=True)
        }

    def components(self) -> dict[tuple[str, int], Rows]:
        """The components of each episode, by kind and index."""
        return {name: (one, self.tensors["components"][rows]) for name, (one, rows) in self.rows_of().items()}


def read_returns(path: Path) -> StoredReturns | None:
    """The content of a file, or None if there is none. Raises `DamagedFile` if it is not what was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (SafetensorError, OSError) as error:
        raise DamagedFile(path, f"it cannot be read ({error})", FIX) from error
    written = {name: metadata.get(name, "") for name in ("settings", "episodes")}
    if metadata.get("hash") != _hash_of(written, tensors):
        raise DamagedFile(path, "its hash is not that of its content", FIX)
    settings = parse_json(path, written["settings"], dict[str, Any], FIX)
    episodes = parse_json(path, written["episodes"], list[StoredEpisode], FIX)
    rows = sum(one.rows for one in episodes)
    if tensors["components"].shape != (rows, len(COLUMNS)) or any(len(values) != rows for values in tensors.values()):
        raise DamagedFile(path, f"it should have {rows} rows of {len(COLUMNS)} numbers", FIX)
    return StoredReturns(settings, episodes, tensors)


def _hash_of(metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(metadata):
        digest.update(f"{name}\n{metadata[name]}\n".encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].shape}{tensors[name].dtype}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
