"""banger.linux.unix_http: an answer in time and within bounds, and nothing but sockets in the right place."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from banger.errors import VmmError
from banger.linux.unix_http import LinuxHttp

HTTP = LinuxHttp()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Serve = Callable[..., list[bytes]]


def answer(content: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Listens on a socket, takes one request and answers it piece by piece; what it was sent is in the list."""
    with ExitStack() as ended:

        def listen(path: Path, pieces: Sequence[bytes], pause_s: float = 0.0) -> list[bytes]:
            received: list[bytes] = []
            listener = ended.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen()
            over = threading.Event()
            thread = threading.Thread(target=_answer, args=[listener, pieces, over, pause_s, received])
            thread.start()
            ended.callback(thread.join)
            ended.callback(over.set)
            ended.callback(listener.shutdown, socket.SHUT_RDWR)
            return received

        yield listen


def _answer(
    listener: socket.socket, pieces: Sequence[bytes], over: threading.Event, pause_s: float, received: list[bytes]
) -> None:
    try:
        connection = listener.accept()[0]
    except OSError:  # nobody came before the end of the test
        return
    with connection:
        received.append(_request(connection))
        try:
            for piece in pieces:
                connection.sendall(piece)
                over.wait(pause_s)
        except OSError:
            pass  # the other side has had enough


def _request(connection: socket.socket) -> bytes:
    """Headers and body, which may come one after the other."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    length = re.search(rb"Content-Length: (\d+)", request)
    size_bytes = request.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
    while len(request) < size_bytes:
        request += connection.recv(65536)
    return request


def test_request_has_a_body_and_its_answer_is_json(serve: Serve, tmp_path: Path) -> None:
    received = serve(tmp_path / "one", [answer(b'{"a": [1]}')])
    assert HTTP.get(tmp_path / "one", "/vm/config") == {"a": [1]}
    assert received[0].startswith(b"GET /vm/config HTTP/1.1\r\n")
    received = serve(tmp_path / "two", [b"HTTP/1.1 204 \r\n\r\n"])
    HTTP.put(tmp_path / "two", "/vsock", {"guest_cid": 3})
    assert received[0].startswith(b"PUT /vsock HTTP/1.1\r\n") and received[0].endswith(b'{"guest_cid": 3}')


def test_refusal_is_told_in_its_own_words(serve: Serve, tmp_path: Path) -> None:
    serve(tmp_path / "api", [answer(b'{"fault_message": "no"}', b"HTTP/1.1 400 Bad\r\n")])
    with pytest.raises(VmmError, match=r"^no \(GET /x: status 400\)$"):
        HTTP.get(tmp_path / "api", "/x")
    serve(tmp_path / "long", [answer(b'{"fault_message": "%s"}' % (b"no" * 2**18), b"HTTP/1.1 400 Bad\r\n")])
    with pytest.raises(VmmError, match=r"^(no){500} \(GET /x: status 400\)$"):
        HTTP.get(tmp_path / "long", "/x")


@pytest.mark.parametrize(
    "pieces",
    [
        [answer(b'{"a": 1}')[number : number + 1] for number in range(len(answer(b'{"a": 1}')))],
        [HEAD, *[b"X: y\r\n"] * 100],
        [HEAD + b"Content-Length: 100\r\n\r\n", *[b" "] * 100],
        [HEAD + b"Content-Length: 100\r\n\r\n"],
    ],
    ids=["all", "headers", "body", "nothing"],
)
def test_answer_that_comes_byte_by_byte_is_not_waited_for_beyond_the_time(
    serve: Serve, tmp_path: Path, pieces: list[bytes]
) -> None:
    serve(tmp_path / "api", pieces, 0.1 if len(pieces) > 1 else 10.0)
    begun = time.monotonic()
    with pytest.raises(VmmError, match=r"nobody answered GET /x on .* within 0\.2 s"):
        HTTP.get(tmp_path / "api", "/x", timeout_s=0.2)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("length", [b"Content-Length: 2097152\r\n\r\n", b"\r\n"], ids=["announced", "until its end"])
def test_answer_of_no_end_is_refused(serve: Serve, tmp_path: Path, length: bytes) -> None:
    serve(tmp_path / "api", [HEAD + length, *[b" " * 2**16] * 32])
    with pytest.raises(VmmError, match="is longer than 1048576 bytes"):
        HTTP.get(tmp_path / "api", "/x")


@pytest.mark.parametrize("content", [b"nonsense", b"[" * 100_000], ids=["nonsense", "deep"])
def test_answer_that_is_no_json_is_refused(serve: Serve, tmp_path: Path, content: bytes) -> None:
    serve(tmp_path / "api", [answer(content)])
    with pytest.raises(VmmError, match="is not JSON"):
        HTTP.get(tmp_path / "api", "/x")


def test_what_is_no_socket_is_not_connected_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for name, why in {"file": "non-socket", "fifo": "non-socket", ".": "non-socket", "none": "No such file"}.items():
        with pytest.raises(VmmError, match=f"nobody answered GET /x on .*{why}"):
            HTTP.get(tmp_path / name, "/x")


@pytest.fixture
def jail(tmp_path: Path) -> Path:
    """The directory in a jail where its VMM makes its socket; a link of ours leads there."""
    (tmp_path / "vm" / "jail" / "root" / "vm").mkdir(parents=True)
    (tmp_path / "home").symlink_to("vm")
    (tmp_path / "vm" / "api").symlink_to(tmp_path / "home" / "jail" / "root" / "vm" / "api")
    return tmp_path / "vm" / "jail" / "root" / "vm"


def test_socket_in_a_jail_is_reached_by_our_link(serve: Serve, jail: Path, tmp_path: Path) -> None:
    serve(jail / "api", [answer(b"{}")])
    assert HTTP.get(tmp_path / "home" / "api", "/x") == {}


@pytest.mark.parametrize("put", ["link", "directory"])
def test_link_that_a_jailed_vmm_made_is_not_followed(serve: Serve, jail: Path, tmp_path: Path, put: str) -> None:
    others = tmp_path / "others"
    others.mkdir()
    received = serve(others / "api", [answer(b"{}")])
    if put == "link":
        (jail / "api").symlink_to(others / "api")
    else:
        jail.rename(jail.with_name("away"))
        jail.symlink_to(others)
    with pytest.raises(VmmError, match="nobody answered"):
        HTTP.get(tmp_path / "home" / "api", "/x")
    assert received == []
