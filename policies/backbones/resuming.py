"""The state of a training stage on disk. An interrupted stage resumes from it, and ends with the same weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from configs.stored import DamagedFile, parse_json, set_aside

T = TypeVar("T")

SAVE_EVERY = 500  # steps
FIX = "The stage is trained from its beginning."


def require_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError, which names what differs, if the file of a stage belongs to other settings than those of now.

    Both are JSON values by dotted key.
    """
    keys = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    changed = [f"{key} was {then.get(key)} and is {now.get(key)}" for key in keys]
    if changed:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(changed)}): set them as they were, choose another folder "
            "for the output, or delete the file"
        )


@dataclass
class ResumePoint:
    """A file with the state of an unfinished stage. Resuming is refused if `settings` differ."""

    path: Path
    settings: Mapping[str, Any]  # JSON values by dotted key
    should_stop: Callable[[], bool] = lambda: False  # asked now and then: whether to save the stage and end it early

    def save(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write tensors and JSON values. After a crash the file is either complete or not there."""
        temporary = self.path.with_name(f".{self.path.name}")
        metadata = {"settings": json.dumps(self.settings, sort_keys=True), "record": json.dumps(record)}
        try:
            save_file(tensors, temporary, metadata)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, shape: type[T]) -> tuple[dict[str, Tensor], T] | None:
        """Return the tensors and the record, of type `shape`, that were saved last, or None.

        A damaged file is set aside and counts as none. Raises ValueError, which names the file, if it was saved under
        other settings.
        """
        if not self.path.exists():
            return None
        try:
            return self._read(shape)
        except DamagedFile as damaged:
            set_aside(damaged)
            return None

    def _read(self, shape: type[T]) -> tuple[dict[str, Tensor], T]:
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise DamagedFile(self.path, f"it does not hold an unfinished stage ({error})", FIX) from error
        if missing := sorted({"settings", "record"} - metadata.keys()):
            raise DamagedFile(self.path, f"it lacks its {' and '.join(missing)}", FIX)
        then = parse_json(self.path, metadata["settings"], dict[str, Any], FIX)
        require_same(self.path, then, self.settings)
        return tensors, parse_json(self.path, metadata["record"], shape, FIX)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
