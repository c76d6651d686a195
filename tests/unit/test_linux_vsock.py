"""banger.linux.vsock: the handshake of Firecracker's vsock socket, and a peer that takes its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from banger.linux.vsock import connect, vsock_banner

Serve = Callable[..., list[bytes]]


@pytest.fixture
def uds(tmp_path: Path) -> Path:
    return tmp_path / "vsock.sock"


@pytest.fixture
def serve(uds: Path) -> Iterator[Serve]:
    """Takes one connection and says something, piece by piece; what it was sent first is in the list."""
    with ExitStack() as ended:

        def listen(pieces: Sequence[bytes], pause_s: float = 0.0) -> list[bytes]:
            received: list[bytes] = []
            listener = ended.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(uds))
            listener.listen()
            over = threading.Event()
            thread = threading.Thread(target=_say, args=[listener, pieces, over, pause_s, received])
            thread.start()
            ended.callback(thread.join)
            ended.callback(over.set)
            return received

        yield listen


def _say(
    listener: socket.socket, pieces: Sequence[bytes], over: threading.Event, pause_s: float, received: list[bytes]
) -> None:
    with listener.accept()[0] as connection:
        received.append(connection.recv(256))
        try:
            for piece in pieces:
                connection.sendall(piece)
                over.wait(pause_s)
        except OSError:
            pass  # the other side has had enough


def drip(text: bytes) -> list[bytes]:
    return [text[number : number + 1] for number in range(len(text))]


def test_connection_begins_after_the_answer(uds: Path, serve: Serve) -> None:
    received = serve([b"OK 1073741824\nSSH-2.0-x\r\n"])
    with connect(uds, 22, 10) as connection:
        assert connection.recv(100) == b"SSH-2.0-x\r\n"
        assert connection.gettimeout() is None
    assert received == [b"CONNECT 22\n"]


def test_banner_is_the_guests_first_line(uds: Path, serve: Serve) -> None:
    serve([b"OK 1\n", b"SSH-2.0-OpenSSH\r\nmore"])
    assert vsock_banner(uds, 10) == "SSH-2.0-OpenSSH"


@pytest.mark.parametrize("said", [[], [b"NO\n"], [b"x" * 1000]], ids=["closed", "no", "rubbish"])
def test_port_that_nobody_listens_on_is_refused(uds: Path, serve: Serve, said: list[bytes]) -> None:
    serve(said)
    with pytest.raises(ConnectionError, match="nobody listening on its vsock port 22"):
        connect(uds, 22, 10)


@pytest.mark.parametrize("said", [drip(b"OK 1073741824" + b"4" * 100), [b"OK 1\n", *drip(b"SSH-2.0-" + b"x" * 100)]])
def test_peer_that_speaks_byte_by_byte_is_not_waited_for_beyond_the_time(
    uds: Path, serve: Serve, said: list[bytes]
) -> None:
    serve(said, 0.1)
    begun = time.monotonic()
    assert vsock_banner(uds, 0.2) is None
    assert time.monotonic() - begun < 5


def test_peer_that_falls_silent_is_not_waited_for_beyond_the_time(uds: Path, serve: Serve) -> None:
    serve([b"OK 1\n"], 10.0)
    begun = time.monotonic()
    assert vsock_banner(uds, 0.2) is None
    assert time.monotonic() - begun < 5


def test_handshake_that_takes_too_long_is_a_timeout(uds: Path, serve: Serve) -> None:
    serve(drip(b"OK 1073741824" + b"4" * 100), 0.02)
    with pytest.raises(TimeoutError):
        connect(uds, 22, 0.2)


def test_what_is_no_socket_is_not_connected_to(uds: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(uds, 22, 1)
    uds.write_bytes(b"")
    with pytest.raises(OSError, match="non-socket"):
        connect(uds, 22, 1)
    assert vsock_banner(uds, 1) is None
