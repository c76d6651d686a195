"""The lab has what it is for: each thing used once, by the plainest means, without banger."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.capabilities import device_mapper, firecracker, kvm_boots, loop_devices, network_namespaces, require

_SECTOR_BYTES = 512


@pytest.mark.parametrize("capability", [device_mapper, firecracker, kvm_boots, loop_devices, network_namespaces])
def test_capability_is_there(capability: Callable[[], str | None]) -> None:
    require(capability())


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@contextlib.contextmanager
def _loop(file: Path, content: bytes, size_bytes: int) -> Iterator[Path]:
    file.write_bytes(content)
    os.truncate(file, size_bytes)
    device = Path(_run("losetup", "--find", "--show", file))
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


@contextlib.contextmanager
def _mapped(name: str, table: str) -> Iterator[Path]:
    _run("dmsetup", "create", name, "--noudevsync", "--noudevrules", "--table", table)
    try:
        _run("dmsetup", "mknodes", name)
        yield Path("/dev/mapper") / name
    finally:
        _run("dmsetup", "remove", "--retry", "--noudevsync", "--noudevrules", name)
        _run("dmsetup", "mknodes")  # without udev the name stays behind


def test_snapshot_takes_writes_and_leaves_its_origin_as_it_was(tmp_path: Path) -> None:
    size_bytes = 2**20
    with _loop(tmp_path / "origin", b"origin", size_bytes) as origin, _loop(tmp_path / "cow", b"", size_bytes) as cow:
        table = f"0 {size_bytes // _SECTOR_BYTES} snapshot {origin} {cow} P 8"
        with _mapped("banger-lab-test", table) as snapshot:
            assert snapshot.read_bytes()[:6] == b"origin"
            with snapshot.open("r+b", buffering=0) as stream:
                stream.write(b"banger".ljust(4096, b"\0"))
                os.fsync(stream.fileno())
            assert snapshot.read_bytes()[:6] == b"banger"
            assert origin.read_bytes()[:6] == b"origin"


def test_namespaces_speak_over_a_bridge_and_nftables_translates(tmp_path: Path) -> None:
    """A guest's side, its bridge, and beyond it a peer that sees the host's address only."""
    script = """
        set -e
        ip link set lo up
        ip link add br0 type bridge
        ip addr add 172.16.0.1/24 dev br0
        ip link set br0 up
        ip tuntap add tap0 mode tap
        ip link set tap0 master br0 up
        ip link add up0 type veth peer name far0 netns "$1"
        ip link add in0 type veth peer name guest0 netns "$2"
        ip link set in0 master br0 up
        ip addr add 198.51.100.1/24 dev up0
        ip link set up0 up
        echo 1 > /proc/sys/net/ipv4/ip_forward
        nft add table ip t
        nft 'add chain ip t post { type nat hook postrouting priority 100; }'
        nft add rule ip t post oifname up0 counter masquerade
        nsenter --net="/proc/$1/ns/net" sh -c 'ip addr add 198.51.100.2/24 dev far0 && ip link set far0 up'
        nsenter --net="/proc/$2/ns/net" sh -c 'ip addr add 172.16.0.2/24 dev guest0 && ip link set guest0 up &&
            ip route add default via 172.16.0.1 && ping -q -c 1 -W 5 198.51.100.2'
        nft list ruleset
    """
    with _namespace() as far, _namespace() as guest:
        said = _run("unshare", "--net", "sh", "-c", script, "sh", str(far), str(guest))
    assert "1 received" in said
    assert re.search(r'oifname "up0" counter packets 1 bytes \d+ masquerade', said)


@contextlib.contextmanager
def _namespace() -> Iterator[int]:
    """The pid of a process that keeps a network namespace of its own; the far side has no route back to a guest."""
    with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as process:
        try:
            own = Path("/proc/self/ns/net").readlink()
            while Path(f"/proc/{process.pid}/ns/net").readlink() == own:
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()
