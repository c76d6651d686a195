"""JSON over HTTP/1.1 on a Unix socket, as Firecracker's API speaks it; one connection per request."""

from __future__ import annotations

import json
import socket as sockets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banger.errors import VmmError
from banger.linux.vsock import reachable

_MOST_BYTES = 2**20
"""Of an answer; a microVM of many disks is told of in some KiB."""
_MOST_CHARACTERS = 1000
"""Of what a refusal says."""


class LinuxHttp:
    """See `banger.host.Http`."""

    def get(self, socket: Path, path: str, timeout_s: float = 5.0) -> Any:
        """The JSON of the answer. Raises VmmError."""
        return _request(socket, "GET", path, None, timeout_s)

    def put(self, socket: Path, path: str, body: Mapping[str, Any], timeout_s: float = 5.0) -> None:
        """Raises VmmError."""
        _request(socket, "PUT", path, body, timeout_s)


class _Connection(sockets.socket):
    """Whose every operation ends by one deadline: a time-out of a socket's own begins anew with each byte."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(sockets.AF_UNIX)
        self._deadline = time.monotonic() + timeout_s

    def connect(self, address: Any) -> None:
        self._hurry()
        super().connect(address)

    def sendall(self, *arguments: Any) -> None:
        self._hurry()
        super().sendall(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._hurry()
        return super().recv_into(*arguments)

    def _hurry(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(left_s)


def _request(socket: Path, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
    from http.client import HTTPConnection, HTTPException  # 35 ms, and few commands talk to a Firecracker

    what = f"{method} {path}"
    connection = HTTPConnection("localhost")
    try:
        connection.sock = _Connection(timeout_s)
        with reachable(socket) as there:
            connection.sock.connect(there)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read(_MOST_BYTES + 1)
    except TimeoutError as error:
        raise VmmError(f"nobody answered {what} on {socket} within {timeout_s:g} s") from error
    except (OSError, HTTPException) as error:
        raise VmmError(f"nobody answered {what} on {socket}: {error}") from error
    finally:
        connection.close()
    if len(said) > _MOST_BYTES:
        raise VmmError(f"the answer to {what} on {socket} is longer than {_MOST_BYTES} bytes")
    document = _parsed(said, what)
    if answer.status >= 400:
        fault = document.get("fault_message", document) if isinstance(document, dict) else document
        raise VmmError(f"{str(fault)[:_MOST_CHARACTERS]} ({what}: status {answer.status})")
    return document


def _parsed(said: bytes, what: str) -> Any:
    try:
        return json.loads(said) if said else None
    except (ValueError, RecursionError) as error:
        raise VmmError(f"the answer to {what} is not JSON: {said[:200]!r}") from error
