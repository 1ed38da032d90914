"""Writing files and folders so that they are complete or do not exist, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_PARTIAL = ".partial"
_POLL_S = 0.5
WHOLE, PARTS = 2**20, 64  # bytes of a file that `content_digest` reads, and in how many parts


@contextlib.contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to.

    When the block ends, the file written there replaces `path`; if the block raises, it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in a folder outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Removes what killed writers of a file left unfinished. Nobody may be writing to the file."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        leftover.unlink()


@contextlib.contextmanager
def folder_made_atomically(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder to fill.

    When the block ends, it becomes `folder`; if the block raises, it is removed. Raises ValueError if `folder` exists
    already, or if another process is making it.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already: choose another folder, or remove it")
    temporary = folder.with_name(f".{folder.name}{_PARTIAL}")
    with exclusive(temporary):
        filled = temporary / "filled"  # a folder of its own, because `exclusive` keeps its lock in `temporary`
        shutil.rmtree(filled, ignore_errors=True)
        filled.mkdir()
        try:
            yield filled
            os.replace(filled, folder)
        finally:
            shutil.rmtree(temporary)


def content_digest(path: Path) -> bytes:
    """A hash that tells files of different content apart, wherever they are.

    It covers the size and, of a file of more than `WHOLE` bytes, parts that are spread evenly over it: demonstrations
    may be too large to read in full at every start.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    starts = [0] if size <= WHOLE else [part * (size - WHOLE // PARTS) // (PARTS - 1) for part in range(PARTS)]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(WHOLE if len(starts) == 1 else WHOLE // PARTS))
    return digest.digest()


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, or leaves what is there as it is."""
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a file, or leaves what is there as it is."""
    with replaced_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes JSON values as a file, or leaves what is there as it is."""
    write_text(path, json.dumps(value, indent=1) + "\n")


class FolderBusy(ValueError):
    """Another process is writing to a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another process is writing to {folder}: wait for it, or choose another folder")


@contextlib.contextmanager
def exclusive(folder: Path, stop_waiting: Callable[[], bool] | None = None) -> Iterator[None]:
    """Makes this process the only writer of `folder` for the block. Removes what a killed writer left unfinished.

    If another process is writing to it, this waits for that one, and says so, until `stop_waiting` returns true;
    without `stop_waiting` it does not wait. Then it raises `FolderBusy`. A process that has ended holds nothing any
    more. Raises ValueError if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _acquire(folder, stop_waiting)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    with held:
        for leftover in folder.rglob(f".*{_PARTIAL}"):
            leftover.unlink()
        yield


def _acquire(folder: Path, stop_waiting: Callable[[], bool] | None) -> contextlib.AbstractContextManager[object]:
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if stop_waiting is None:
            raise FolderBusy(folder) from None
        logger.warning("Another process is writing to %s: waiting for it to end. Ctrl-C ends the wait.", folder)
        try:
            return lock.acquire(poll_interval=_POLL_S, cancel_check=stop_waiting)
        except Timeout:
            raise FolderBusy(folder) from None
