"""Ends a process in the middle of its writing, as `kill -9` does: at every place there is."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
"""The audit events of calls that change a folder. Besides them there are `open` for writing, and `fsync`."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DEADLINE_S = 60.0

Write = Callable[[Path], object]
"""Writes below a folder."""


def deaths(folder: Path, prepare: Write, write: Write) -> Iterator[Path]:
    """Yield a folder for each call of `write` that changes files: it was prepared, and `write` was killed there."""
    for calls in count(1):
        place = folder / f"before_call_{calls}"
        if _survives(place, prepare, write, _die_before, calls):
            assert calls > 1, "nothing was written"
            return
        yield place


def cut_off(folder: Path, prepare: Write, write: Write, sizes: Iterable[int]) -> Iterator[Path]:
    """Yield a folder for each size: it was prepared, and `write` was killed where a file grew beyond so many bytes."""
    for size in sizes:
        place = folder / f"after_{size}_bytes"
        assert not _survives(place, prepare, write, _die_beyond, size), f"no file has more than {size} bytes"
        yield place


def _survives(place: Path, prepare: Write, write: Write, limit: Callable[[int], None], most: int) -> bool:
    """Whether `write` comes to its end in a fork of this process. Raises AssertionError if it fails otherwise."""

    def run() -> None:
        limit(most)
        write(place)
        os._exit(0)  # what this process does at its end is no concern of the test

    place.mkdir(parents=True)
    prepare(place)
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(DEADLINE_S)
    assert child.exitcode in (0, -signal.SIGKILL, -signal.SIGXFSZ), child.exitcode
    return child.exitcode == 0


def _die_before(calls: int) -> None:
    """End this process before its n-th call, from now on, that changes files."""
    left, sync = calls, os.fsync

    def count_down() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & WRITING):
            count_down()

    def heard_sync(descriptor: int) -> None:
        count_down()
        sync(descriptor)

    os.fsync = heard_sync  # type: ignore[assignment]
    sys.addaudithook(hear)


def _die_beyond(size: int) -> None:
    """End this process in the middle of the first file that grows beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
