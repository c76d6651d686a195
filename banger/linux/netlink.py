"""Reading the kernel's tables over netlink(7), without a process and without importing anything large.

What is read is all of a kind (a dump); the few things that are looked for are picked out of it by whoever asks. What is
changed this way is only what pyroute2 has no name for.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: something changed in the middle of it
_ERROR, _DONE = 2, 3
_RECEIVE_BYTES = 1 << 17
_TRIES = 8


def dump(protocol: int, kind: int, request: bytes) -> list[bytes]:
    """The bodies of all messages that answer a dump request; `request` is the body that its family wants.

    Raises OSError as the kernel answers it.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as connection:
        for _ in range(_TRIES):
            connection.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST | _DUMP, 0, 0) + request)
            bodies, whole = _answer(connection)
            if whole:
                return bodies
    raise OSError(errno.EINTR, "the kernel's tables change faster than they can be read")


def order(protocol: int, kind: int, request: bytes) -> None:
    """Have something changed; `request` is the body. Raises OSError as the kernel answers it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as connection:
        connection.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST | _ACKNOWLEDGE, 0, 0) + request)
        _answer(connection)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute as it stands in a message."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message, or within an attribute, by their type; the last one of a type counts."""
    return dict(_attributes(data))


def text(value: bytes | None) -> str:
    """An attribute that is a string; empty when it is not there."""
    return os.fsdecode((value or b"").rstrip(b"\0"))


def number(value: bytes | None) -> int | None:
    """An attribute that is an unsigned number in this machine's byte order; None when it is not there."""
    return None if value is None else int.from_bytes(value, "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def _answer(connection: socket.socket) -> tuple[list[bytes], bool]:
    """The bodies up to the end of the dump, and whether nothing changed on the way."""
    bodies: list[bytes] = []
    whole = True
    while True:
        received, at = connection.recv(_RECEIVE_BYTES), 0
        while at < len(received):
            length, kind, flags, _, _ = _HEADER.unpack_from(received, at)
            body = received[at + _HEADER.size : at + length]
            whole = whole and not flags & _INTERRUPTED
            if kind in (_DONE, _ERROR):
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return bodies, whole
            bodies.append(body)
            at += length + 3 & ~3
