"""The output on the screen: consoles that print texts as they are, headings, and errors as messages."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from launch.shell.interrupts import EXIT_INTERRUPTED, signals_interrupt

EXIT_FAILED = 1
EXIT_USAGE = 2
ERROR_FILE = "error.log"
WIDTH = 140  # without a terminal


class PlainConsole(Console):
    """A console for texts that contain paths and names: rich's markup and its codes of emoji are off.

    If the output can no longer be written, because nobody reads it (`| head`), the terminal is gone or the disk is
    full, the work goes on without it.
    """

    def __init__(self, **options: Any) -> None:
        """`options` are those of rich's `Console`."""
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})
        if isinstance(self.file, io.TextIOWrapper):
            self.file.reconfigure(errors="backslashreplace")  # a path may have letters that the terminal has not

    def on_broken_pipe(self) -> None:
        self.give_up()

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            self.give_up()
            if not self.stderr:
                PlainConsole(stderr=True).print(f"The output cannot be written ({error.strerror}): going on without it")

    def give_up(self) -> None:
        """Print nothing more. What Python still holds for the file goes nowhere, and fails no more."""
        self.quiet = True
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


console = PlainConsole()
if not console.is_terminal:
    console.width = WIDTH


def section(title: str) -> None:
    """Print a heading."""
    console.print(f"\n{title}", style="bold")


@contextmanager
def failures_are_messages(directory: Path) -> Iterator[None]:
    """If the block raises, print the error's message and end the process with code 1.

    The traceback goes to a file in `directory`. If that file cannot be written, one line says so. A signal that nobody
    else handles ends the process with `EXIT_INTERRUPTED`.
    """
    handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    try:
        with signals_interrupt():
            yield
    except KeyboardInterrupt:
        console.print("\nInterrupted. What is finished is kept, and the same command goes on from there.")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  the top of the program: nothing is hidden, the traceback is kept
        details = _write_details(directory / ERROR_FILE)
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
        kept = f"Everything that was saved is kept. {details}"
        told = Text.assemble("\n", (type(error).__name__, "bold red"), f"\n{message}\n{kept}")
        console.print(told, soft_wrap=True)
        if console.quiet or sys.stdout is None:
            PlainConsole(stderr=True).print(told, soft_wrap=True)
        sys.exit(EXIT_FAILED)


def _write_details(path: Path) -> str:
    """Write the traceback of the error that is being handled. Returns where it is, or why it could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"{path} could not be written: {error.strerror or error}"
    return f"Details: {path}"
