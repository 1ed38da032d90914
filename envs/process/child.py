"""A child process in its own session, with a socket to its owner. What it prints goes to a temporary log."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from envs.process import protocol
from envs.process.protocol import Message
from envs.simulator import SimulatorSpec

_ROOT = Path(__file__).resolve().parents[2]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")
_EXIT_WAIT_S = 2.0
_LOG_TAIL_BYTES = 2000

# The kernel kills the child when the thread that started it ends, so that thread must live as long as this process.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="simulator-starter")


class Child:
    """A process that runs from its construction until `kill`."""

    def __init__(self, spec: SimulatorSpec) -> None:
        self.channel, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill
        self._ended = False
        command = spec.command or (sys.executable, "-m", "envs.process.worker")
        with theirs:
            self._process = _STARTER.submit(
                subprocess.Popen,
                [*command, str(theirs.fileno()), str(os.getpid())],
                cwd=spec.directory,
                env=_environment(ours=not spec.command),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Message, deadline: float) -> None:
        """See `protocol.send`."""
        protocol.send(self.channel, message, deadline)

    def receive(self, deadline: float) -> Message:
        """See `protocol.receive`."""
        return protocol.receive(self.channel, deadline)

    def readable(self) -> bool:
        """Whether bytes have arrived, or the other end has closed the channel."""
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        return bool(poll.poll(0))

    def rss_bytes(self) -> int:
        """Return how much memory the process holds. It is 0 once the process has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def end(self, wait_for_exit: bool) -> str:
        """Makes sure that the process has ended, and says how it did. `wait_for_exit` first lets it end by itself."""
        if wait_for_exit:
            try:
                self._process.wait(_EXIT_WAIT_S)
            except subprocess.TimeoutExpired:
                wait_for_exit = False
        self._kill_group()
        code = self._process.returncode
        if not wait_for_exit:
            return "the process was killed"
        return f"the process ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def log_tail(self) -> str:
        """The last lines that the process printed."""
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES))
        return "\n".join(text.decode(errors="replace").splitlines()[-20:])

    def kill(self) -> None:
        """Ends the whole process group at once and closes the channel and the log."""
        self._kill_group()
        self.channel.close()
        self._log.close()

    def _kill_group(self) -> None:
        if self._ended:
            return  # the id may belong to another process group by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._ended = True


def _environment(ours: bool) -> dict[str, str]:
    """The environment variables of the child. Only our own worker (`ours`) finds our packages."""
    paths = [str(_ROOT)] * ours + [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}
