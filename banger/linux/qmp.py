"""QEMU's machine protocol, one connection per operation, always with a deadline.

QEMU serves one QMP client at a time and lets a second one hang without a greeting (qemu-qmp-ref(7)), so nobody here
keeps a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket as sockets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from banger.errors import VmmError

_SOCKET_PATH_BYTES = 107
"""unix(7): `sun_path` has 108 bytes with its final NUL."""


class LinuxQmp:
    """See `banger.host.Qmp`."""

    def query(self, socket: Path, command: str, timeout_s: float = 5.0) -> Any:
        """The `return` of a `query-…` command. Raises VmmError when nobody answers."""
        if not command.startswith("query-"):
            raise ValueError(f"{command} is not a query")
        return self.execute(socket, command, None, timeout_s)

    def execute(
        self, socket: Path, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """The `return` of any command. Raises VmmError when QEMU refuses or nobody answers in time."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        try:
            with _connected(socket, time.monotonic() + timeout_s) as conversation:
                conversation.greet()
                return conversation.ask(request)
        except TimeoutError as error:
            raise VmmError(f"QEMU did not answer `{command}` on {socket} within {timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise VmmError(f"QEMU did not answer `{command}` on {socket}: {error}") from error


class _Conversation:
    """One connection. Its messages are JSON objects, one a line."""

    def __init__(self, connection: sockets.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""

    def greet(self) -> None:
        """QEMU speaks first; it takes commands only once capabilities are negotiated."""
        self._message()
        self.ask({"execute": "qmp_capabilities"})

    def ask(self, request: Mapping[str, Any]) -> Any:
        self._wait_at_most()
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                description = message["error"].get("desc", message["error"])
                raise VmmError(f"QEMU refused `{request['execute']}`: {description}")

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._wait_at_most()
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionError("the connection was closed before an answer")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"not a QMP message: {line[:200]!r}")
        return message

    def _wait_at_most(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)


@contextlib.contextmanager
def _connected(path: Path, deadline: float) -> Iterator[_Conversation]:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        with _short(path) as address:
            connection.connect(address)
        yield _Conversation(connection, deadline)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for a socket whose path is too long for unix(7): through its directory's descriptor."""
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
