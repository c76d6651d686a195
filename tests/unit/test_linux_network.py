"""banger.linux.network, on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from banger.identity import SshEndpoint
from banger.linux.network import LinuxNetwork

NETWORK = LinuxNetwork()


@contextlib.contextmanager
def server(said: bytes, *, close: bool = True) -> Iterator[int]:
    """A server on loopback that says this to its first client; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)
                if not close:
                    done.wait(10)

        thread = threading.Thread(target=talk)
        thread.start()
        yield listener.getsockname()[1]
        done.set()
        thread.join(10)


def test_port_is_free_until_someone_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not NETWORK.port_is_free("127.0.0.1", port)
    assert NETWORK.port_is_free("127.0.0.1", port)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
        b"welcome\r\nSSH-2.0-OpenSSH_9.2p1 Debian\r\nmore",
        b"SSH-2.0-OpenSSH_9.2p1 Debian\n",
    ],
)
def test_ssh_banner_is_the_identification_line(said: bytes) -> None:
    with server(said) as port:
        assert NETWORK.ssh_banner(SshEndpoint("127.0.0.1", port), 5) == "SSH-2.0-OpenSSH_9.2p1 Debian"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.0 400 Bad Request\r\n", b"SSH-2.0-cut"])
def test_ssh_banner_of_a_forward_without_a_guest_is_none(said: bytes) -> None:
    with server(said) as port:
        assert NETWORK.ssh_banner(SshEndpoint("127.0.0.1", port), 5) is None


def test_ssh_banner_that_does_not_come_in_time_is_none() -> None:
    with server(b"", close=False) as port:
        assert NETWORK.ssh_banner(SshEndpoint("127.0.0.1", port), 0.05) is None


def test_ssh_banner_where_nobody_listens_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert NETWORK.ssh_banner(SshEndpoint("127.0.0.1", port), 5) is None


def test_ssh_banner_of_an_endless_talker_is_none() -> None:
    with server(b"x" * 100_000) as port, contextlib.suppress(ConnectionError):
        assert NETWORK.ssh_banner(SshEndpoint("127.0.0.1", port), 5) is None
