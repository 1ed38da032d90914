"""Stages of a training, each of which writes a file: an equal call goes on behind those that are finished."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import Config
from configs.stored import read_json
from envs.files import write_json
from launch.shell.interrupts import StopRequest
from launch.shell.progress import StageProgress

if TYPE_CHECKING:
    from policies.backbones.resuming import ResumePoint

logger = logging.getLogger(__name__)

FIX = "Delete it if the file beside it was made with the settings of this call."


def is_finished(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the stage that writes `path` is finished. If not, note beside it with which settings it begins.

    `settings` holds all that the stage depends on, as JSON values by dotted key. Raises ValueError, which names what
    differs, if a finished stage had others. A finished file without a note is taken, with a warning.
    """
    from policies.backbones.resuming import require_same  # it imports torch, which takes seconds

    note = path.with_suffix(".settings.json")
    if not path.exists():
        write_json(note, dict(settings))
        return False
    if note.exists():
        require_same(path, read_json(note, dict[str, Any], FIX), settings)
    else:
        logger.warning("%s: nothing says with which settings it was made. It is taken as it is.", path)
    return True


@contextmanager
def resumable(
    path: Path, settings: Mapping[str, Any], title: str, steps: int
) -> Iterator[tuple[Callable[..., None], ResumePoint]]:
    """Show the progress of the training that writes `path`, and let a signal end it after its state was saved.

    Yields what a training calls with its progress, and the point from which an interrupted one resumes. Remove the
    point once the file is written.
    """
    from policies.backbones.resuming import ResumePoint

    with StopRequest(short_steps=True) as stop, StageProgress(title, steps) as bar:
        yield bar.advance, ResumePoint(path.with_suffix(".partial.safetensors"), settings, lambda: stop.requested)


def demonstration_settings(config: Config, split: str = "train") -> dict[str, Any]:
    """Return, by dotted key, what a training depends on that reads a split's demonstrations.

    Beside the settings that choose them and say how they are read, it is a hash of their files, wherever these are.
    """
    from envs.demonstrations import configured_episodes, dataset_hash

    read, tasks = config.demonstrations, config.env.tasks
    names = ("modes", "joints", "gripper_range", "embodiment", "validation_fraction", "test_fraction")
    return {
        "env.tasks": tasks,
        **{f"demonstrations.{name}": getattr(read, name) for name in names},
        "demonstrations": dataset_hash(configured_episodes(read, tasks, split)),
    }
