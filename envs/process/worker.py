"""The program of a simulator process: `python -m envs.process.worker CHANNEL_FD OWNER_PID`.

Only `envs.process.child` starts it. Another interpreter (Python 3.10 or later) may run this file too, with another name
for our package, so its imports are relative.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any

from ..outcomes import MissingDependency
from ..simulator import ChunkReply, ExpertReply, ResetReply, Simulator, step_in_parts
from . import protocol
from .protocol import PASSED, Message

_PR_SET_PDEATHSIG = 1
_ENVS = __package__.rpartition(".")[0]  # the name of our package in this process


def main() -> None:
    channel_fd, owner_pid = (int(argument) for argument in sys.argv[1:])
    die_with(owner_pid)
    faulthandler.enable()
    with socket.socket(fileno=channel_fd) as channel:
        serve(channel)
    sys.stderr.flush()
    os._exit(0)  # a native simulator may crash while Python shuts down


def die_with(owner_pid: int) -> None:
    """Asks the kernel to kill this process when its owner ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner_pid:  # the owner ended before the kernel was asked
        os._exit(1)


def serve(channel: socket.socket) -> None:
    """Answers requests until `close` or the end of the channel. An exception of the simulator becomes a reply too."""
    host = Host()
    while True:
        try:
            request = protocol.receive(channel)
        except ConnectionError:
            return
        verb, request_id = request.header["verb"], request.header["id"]
        begin = time.monotonic()
        try:
            reply = host.answer(verb, request)
        except (Exception, SystemExit) as fault:  # noqa: BLE001  it is not hidden: the caller gets it as a fault
            traceback.print_exc()
            reply = Message(describe(fault))
        header = dict(reply.header, id=request_id, worked=[begin, time.monotonic()])
        protocol.send(channel, Message(header, reply.arrays))
        if verb == "close":
            return


def describe(fault: BaseException) -> dict[str, Any]:
    """The header of a reply that reports an exception, with its `outcome`, or else `sim_fault`."""
    return {
        "fault": str(getattr(fault, "outcome", "sim_fault")),
        "message": f"{type(fault).__name__}: {fault}",
        "missing_dependency": isinstance(fault, MissingDependency),
    }


class Host:
    """Holds the simulator and calls its methods, one for each verb."""

    def __init__(self) -> None:
        self._simulator: Simulator | None = None

    def answer(self, verb: str, request: Message) -> Message:
        arguments = {name: value for name, value in request.header.items() if name not in ("verb", "id", "version")}
        match verb:
            case "hello":
                module, name = arguments["factory"].split(":")
                self._simulator = getattr(importlib.import_module(module, _ENVS), name)(**arguments["kwargs"])
                return Message({"pid": os.getpid(), "description": getattr(self._simulator, "description", {})})
            case "reset":
                return pack_reset(self.simulator.reset(**arguments))
            case "step_chunk":
                return pack_chunk(step_in_parts(self.simulator, request.arrays["actions"], **arguments))
            case "demonstrate":
                return pack_expert(self.simulator.demonstrate(**arguments))
            case "close":
                self.simulator.close()
                return Message({})
        raise protocol.ProtocolError(f"unknown verb {verb!r}")

    @property
    def simulator(self) -> Simulator:
        if self._simulator is None:
            raise protocol.ProtocolError("the first verb must be hello")
        return self._simulator


def pack_reset(reply: ResetReply) -> Message:
    return Message({"instruction": reply.instruction}, reply.observation)


def pack_chunk(reply: ChunkReply) -> Message:
    header = {"executed": int(reply.executed), "success": bool(reply.success), "done": bool(reply.done)}
    frames = {} if reply.frames is None else {"frames": reply.frames}
    passed = {f"{PASSED}{name}": values for name, values in reply.passed.items()}
    return Message(header, {**reply.observation, **frames, **passed})


def pack_expert(reply: ExpertReply) -> Message:
    header = {"instruction": reply.instruction, "outcome": str(reply.outcome), "style": reply.style}
    return Message(header, reply.columns)


if __name__ == "__main__":
    main()
