"""banger.linux.netlink and nft: what the kernel says, taken apart; and what it says when it is disturbed, or old."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from banger.linux import netlink, nft
from banger.linux.links import LinuxLinks
from tests.networks import inside_a_new_namespace

LINKS, PLAIN = 18, bytes(16)  # RTM_GETLINK, and its struct ifinfomsg


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body + bytes(-len(body) % 4)


DONE = message(3, 2, struct.pack("=i", 0))


def test_attributes_are_taken_apart_and_a_broken_end_is_no_attribute() -> None:
    data = attribute(3, b"eth0\0") + attribute(0x8000 | 18, attribute(1, b"tun\0")) + b"\x02\0\x01\0"
    found = netlink.attributes(data)
    assert {3, 18} == set(found)
    assert netlink.text(found[3]) == "eth0"
    assert netlink.text(netlink.attributes(found[18])[1]) == "tun"
    assert netlink.text(None) == ""
    assert (netlink.number(struct.pack("=I", 7)), netlink.number(None)) == (7, None)


class Kernel:
    """A socket that answers each request with the next of these rows of datagrams."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.current: list[bytes] = []

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, _: bytes) -> None:
        self.current = list(self.answers.pop(0))

    def recv(self, _: int) -> bytes:
        return self.current.pop(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    def answering(*answers: list[bytes]) -> Kernel:
        found = Kernel(*answers)
        constants = {name: getattr(socket, name) for name in ("AF_NETLINK", "SOCK_RAW", "SOCK_CLOEXEC")}
        monkeypatch.setattr(netlink, "socket", SimpleNamespace(socket=lambda *_: found, **constants))
        return found

    return answering


def test_dump_goes_over_several_datagrams_to_its_end(kernel: Callable[..., Kernel]) -> None:
    kernel([message(16, 2, b"one!") + message(16, 2, b"two!"), message(16, 2, b"three"), DONE])
    assert netlink.dump(0, LINKS, PLAIN) == [b"one!", b"two!", b"three"]


def test_dump_that_was_disturbed_is_asked_for_again(kernel: Callable[..., Kernel]) -> None:
    kernel([message(16, 2 | 0x10, b"half"), DONE], [message(16, 2, b"all!"), DONE])
    assert netlink.dump(0, LINKS, PLAIN) == [b"all!"]


def test_dump_that_is_always_disturbed_is_an_error(kernel: Callable[..., Kernel]) -> None:
    kernel(*[[message(16, 2 | 0x10, b"half"), DONE]] * 20)
    with pytest.raises(OSError, match="change faster"):
        netlink.dump(0, LINKS, PLAIN)


@pytest.mark.parametrize("kind", [2, 3])
def test_dump_that_is_refused_is_the_kernels_error(kernel: Callable[..., Kernel], kind: int) -> None:
    kernel([message(kind, 0, struct.pack("=i", -errno.EPERM))])
    with pytest.raises(PermissionError):
        netlink.dump(0, LINKS, PLAIN)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EPROTONOSUPPORT])
def test_kernel_without_nftables_has_no_tables(kernel: Callable[..., Kernel], error: int) -> None:
    kernel([message(2, 0, struct.pack("=i", -error))])
    assert nft.tables() == {}


def test_comment_is_found_among_other_userdata(kernel: Callable[..., Kernel]) -> None:
    userdata = bytes([9, 3]) + b"abc" + bytes([0, 6]) + b"hello\0"
    table = struct.pack("=BBH", 7, 0, 0) + attribute(1, b"t\0") + attribute(6, userdata)
    bare = struct.pack("=BBH", 99, 0, 0) + attribute(1, b"u\0")
    kernel([message(0xA00, 2, table) + message(0xA00, 2, bare), DONE])
    assert nft.tables() == {"bridge t": "hello", "99 u": ""}


def test_devices_are_as_ip_link_shows_them() -> None:
    """More of them than one datagram holds."""
    with inside_a_new_namespace():
        links = LinuxLinks()
        for number in range(40):
            links.add_bridge(f"b{number}", f"02:00:00:00:00:{number:02x}")
        state = links.look()
        assert state is not None
        assert {name: index for index, name in socket.if_nameindex()} == {
            link.name: link.index for link in state.links.values()
        }
        assert state.links["b17"].mac == "02:00:00:00:00:11"
