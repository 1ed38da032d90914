"""Length-prefixed messages between a simulator process and its owner.

A message is a JSON header and named arrays (dtype, shape and raw bytes). There is no pickle, so the two ends may run
different interpreters. A worker without our packages loads this file too, so it imports only the standard library and
numpy.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = 1
MAGIC = b"SIMP"
PASSED = "passed/"  # before the names of the arrays of `ChunkReply.passed`
MAX_HEADER_BYTES = 4 << 20
MAX_BODY_BYTES = 2 << 30

_PREFIX = struct.Struct("<4sIQ")  # magic, header bytes, body bytes
_ALIGNMENT = 16
_KINDS = "biuf"  # bool, signed, unsigned, float
_SHORTEST_WAIT_S = 0.001


class ProtocolError(RuntimeError):
    """The other end does not speak this protocol, or not this version of it."""


@dataclass(frozen=True)
class Message:
    """`header`: JSON values; `arrays`: bool, integer or float arrays of any shape."""

    header: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


def send(channel: socket.socket, message: Message, deadline: float | None = None) -> None:
    """Writes one message.

    Raises `TimeoutError` past `deadline` (on `time.monotonic`) and `ConnectionError` if the other end is closed.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
    header = dict(message.header, version=VERSION, arrays=[_describe(name, array) for name, array in arrays.items()])
    encoded = json.dumps(header, allow_nan=False).encode()
    body = b"".join(_padded(array.tobytes()) for array in arrays.values())
    _limit_wait(channel, deadline)
    channel.sendall(_PREFIX.pack(MAGIC, len(encoded), len(body)) + encoded + body)


def receive(channel: socket.socket, deadline: float | None = None) -> Message:
    """Reads one message.

    Raises `TimeoutError` past `deadline` (on `time.monotonic`), `ConnectionError` if the other end is closed, and
    `ProtocolError` for bytes that are not a message.
    """
    magic, header_bytes, body_bytes = _PREFIX.unpack(_read_exactly(channel, _PREFIX.size, deadline))
    if magic != MAGIC or header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise ProtocolError(f"not a simulator message: prefix {magic!r}, {header_bytes} + {body_bytes} bytes")
    header = json.loads(_read_exactly(channel, header_bytes, deadline))
    if header["version"] != VERSION:
        raise ProtocolError(f"the other end speaks protocol version {header['version']}, this one {VERSION}")
    body = _read_exactly(channel, body_bytes, deadline)
    return Message(header, _unpack(header.pop("arrays"), body))


def _describe(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    if array.dtype.kind not in _KINDS:
        raise ProtocolError(f"array {name!r} has dtype {array.dtype}: only bool, integer and float arrays can be sent")
    return {"name": name, "dtype": array.dtype.str, "shape": list(array.shape)}


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _unpack(descriptions: list[dict[str, Any]], body: bytearray) -> dict[str, npt.NDArray[Any]]:
    arrays, offset = {}, 0
    for description in descriptions:
        dtype, shape = np.dtype(description["dtype"]), tuple(description["shape"])
        count = math.prod(shape)
        end = offset + count * dtype.itemsize
        if dtype.kind not in _KINDS or min(shape, default=0) < 0 or end > len(body):
            raise ProtocolError(f"array {description['name']!r} does not fit its message")
        arrays[description["name"]] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset = end + -end % _ALIGNMENT
    return arrays


def _read_exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view, received = memoryview(data), 0
    while received < size:
        _limit_wait(channel, deadline)
        count = channel.recv_into(view[received:])
        if count == 0:
            raise ConnectionError("end of file")
        received += count
    return data


def _limit_wait(channel: socket.socket, deadline: float | None) -> None:
    channel.settimeout(None if deadline is None else max(deadline - time.monotonic(), _SHORTEST_WAIT_S))
