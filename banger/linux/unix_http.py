"""JSON over HTTP/1.1 on a Unix socket, as Firecracker's API speaks it; one connection per request."""

from __future__ import annotations

import json
import socket as sockets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banger.errors import VmmError


class LinuxHttp:
    """See `banger.host.Http`."""

    def get(self, socket: Path, path: str, timeout_s: float = 5.0) -> Any:
        """The JSON of the answer. Raises VmmError."""
        return _request(socket, "GET", path, None, timeout_s)

    def put(self, socket: Path, path: str, body: Mapping[str, Any], timeout_s: float = 5.0) -> None:
        """Raises VmmError."""
        _request(socket, "PUT", path, body, timeout_s)


def _request(socket: Path, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
    from http.client import HTTPConnection, HTTPException  # 35 ms, and few commands talk to a Firecracker

    what = f"{method} {path}"
    connection = HTTPConnection("localhost")
    try:
        connection.sock = sockets.socket(sockets.AF_UNIX)
        connection.sock.settimeout(timeout_s)
        connection.sock.connect(str(socket))
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
    except TimeoutError as error:
        raise VmmError(f"nobody answered {what} on {socket} within {timeout_s:g} s") from error
    except (OSError, HTTPException) as error:
        raise VmmError(f"nobody answered {what} on {socket}: {error}") from error
    finally:
        connection.close()
    document = _parsed(said, what)
    if answer.status >= 400:
        fault = document.get("fault_message", document) if isinstance(document, dict) else document
        raise VmmError(f"{fault} ({what}: status {answer.status})")
    return document


def _parsed(said: bytes, what: str) -> Any:
    try:
        return json.loads(said) if said else None
    except ValueError as error:
        raise VmmError(f"the answer to {what} is not JSON: {said[:200]!r}") from error
