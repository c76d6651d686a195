"""Network namespaces for tests, and guests in them that are nothing but a tap and a few lines of Python."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from banger.linux import netns
from tests.capabilities import network_namespaces, require

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, UDP = 1, 17
_TUNSETIFF, _IFF_TAP_NO_PI = 0x400454CA, 0x1002


@contextmanager
def namespace_name() -> Iterator[str]:
    """A name that no namespace has; whatever gets it is removed in the end."""
    require(network_namespaces())
    name = f"t-{uuid.uuid4().hex[:8]}"
    try:
        yield name
    finally:
        netns.remove(name)


@contextmanager
def new_namespace() -> Iterator[str]:
    """The name of a new namespace, which is not banger's."""
    with namespace_name() as name:
        netns.make(name, lambda: None)
        yield name


@contextmanager
def inside_a_new_namespace() -> Iterator[None]:
    """The test itself is in a namespace that has no name, for the length of the block."""
    with new_namespace() as name:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        netns.enter(name)
        try:
            yield
        finally:
            assert ctypes.CDLL(None).setns(before, 0) == 0
            os.close(before)


# --- frames


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    return _mac(destination) + _mac(source) + struct.pack(">H", kind) + payload


def arp_request(mac: str, ip: str, wanted: str, *, claimed_mac: str | None = None) -> bytes:
    """Who has this address? `claimed_mac`: what ARP says of the sender, where that differs from the frame's own."""
    sender = _mac(claimed_mac or mac) + socket.inet_aton(ip)
    payload = struct.pack(">HHBBH", 1, IPV4, 6, 4, 1) + sender + bytes(6) + socket.inet_aton(wanted)
    return ethernet(mac, BROADCAST, ARP, payload)


def arp_reply(mac: str, ip: str, to_mac: str, to_ip: str) -> bytes:
    addresses = _mac(mac) + socket.inet_aton(ip) + _mac(to_mac) + socket.inet_aton(to_ip)
    return ethernet(mac, to_mac, ARP, struct.pack(">HHBBH", 1, IPV4, 6, 4, 2) + addresses)


def packet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    return header[:10] + _checksum(header) + header[12:] + payload


def echo_request(source: str, destination: str) -> bytes:
    body = struct.pack(">BBHHH", 8, 0, 0, 1, 1)
    return packet(source, destination, ICMP, body[:2] + _checksum(body) + body[4:])


def datagram(source: str, destination: str, port: int, payload: bytes) -> bytes:
    return packet(source, destination, UDP, struct.pack(">HHHH", 4000, port, 8 + len(payload), 0) + payload)


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    return struct.pack(">H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


@dataclass
class Guest:
    """Who holds a tap open, as a VMM does, and speaks for a guest by whole Ethernet frames."""

    descriptor: int
    mac: str
    ip: str

    @classmethod
    @contextmanager
    def on(cls, device: str, mac: str, ip: str, namespace: str = "") -> Iterator[Guest]:
        def attach() -> int:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP_NO_PI))
            return descriptor

        descriptor = netns.call_inside(namespace, attach)
        try:
            yield cls(descriptor, mac, ip)
        finally:
            os.close(descriptor)

    def send(self, frame: bytes) -> None:
        os.write(self.descriptor, frame)

    def hears(self, wanted: Callable[[bytes], bool], timeout_s: float = 20.0) -> bool:
        """Whether such a frame comes in time; others are passed over, questions for our address answered."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], left_s)[0]:
                frame = os.read(self.descriptor, 65536)
                if is_arp(1, to=self.ip)(frame):
                    self.send(arp_reply(self.mac, self.ip, frame[22:28].hex(":"), socket.inet_ntoa(frame[28:32])))
                if wanted(frame):
                    return True
        return False

    def address_of(self, ip: str, timeout_s: float = 20.0) -> str | None:
        """Ask for an address, and hear whose it is.

        Asks again, because a bridge takes a moment to see that a port is in use.
        """
        answers: list[str] = []

        def answer(frame: bytes) -> bool:
            if is_arp(2, by=ip)(frame):
                answers.append(frame[22:28].hex(":"))
            return bool(answers)

        deadline = time.monotonic() + timeout_s
        while not answers and time.monotonic() < deadline:
            self.send(arp_request(self.mac, self.ip, ip))
            self.hears(answer, 0.1)
        return answers[0] if answers else None


def is_arp(operation: int, *, by: str = "", to: str = "") -> Callable[[bytes], bool]:
    """ARP: 1 is a question, 2 an answer."""

    def test(frame: bytes) -> bool:
        if frame[12:14] != struct.pack(">H", ARP) or frame[20:22] != struct.pack(">H", operation):
            return False
        return by in ("", socket.inet_ntoa(frame[28:32])) and to in ("", socket.inet_ntoa(frame[38:42]))

    return test


def is_icmp(kind: int, *, by: str) -> Callable[[bytes], bool]:
    """ICMP: 0 is the answer to a ping, 3 "unreachable"."""
    return lambda f: f[12:14] == b"\x08\0" and f[23] == ICMP and f[26:30] == socket.inet_aton(by) and f[34] == kind


def carries(content: bytes) -> Callable[[bytes], bool]:
    return lambda frame: content in frame
