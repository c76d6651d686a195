"""The lab has what it is for: each thing used once, by the plainest means, without banger."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.capabilities import device_mapper, firecracker, kvm_boots, loop_devices, network_namespaces, require
from tests.firecracker import elf_kernel
from tests.lab.build import lab_image

_SECTOR_BYTES = 512
_BOOT_S = 180.0


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


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _put(api: Path, resource: str, body: dict[str, Any]) -> None:
    with contextlib.closing(_Connection(api)) as connection:
        connection.request("PUT", resource, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 204, f"{resource}: {answer.status} {answer.read()!r}"


def _upper_disk(directory: Path) -> Path:
    content, disk = directory / "content", directory / "upper.ext4"
    for name in ("upper", "work"):
        (content / name).mkdir(parents=True)
    _run("mke2fs", "-q", "-t", "ext4", "-d", content, disk, "64M")
    shutil.rmtree(content)
    return disk


def test_guest_boots_into_its_systemd(tmp_path: Path) -> None:
    require(kvm_boots())
    image = lab_image()
    api, console = tmp_path / "api", tmp_path / "console"
    with console.open("wb") as stream:
        process = subprocess.Popen(
            ["firecracker", "--api-sock", api], stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(api.exists, 30.0, console)
        kernel = {
            "kernel_image_path": str(elf_kernel(image / "vmlinuz", tmp_path)),
            "initrd_path": str(image / "initrd.img"),
            "boot_args": "console=ttyS0 quiet systemd.show_status=true reboot=k panic=1 pci=off"
            " banger.root=overlay banger.lower=/dev/vda banger.upper=/dev/vdb",
        }
        _put(api, "/machine-config", {"vcpu_count": 1, "mem_size_mib": 512})
        _put(api, "/boot-source", kernel)
        disks = (("lower", image / "rootfs.ext4", True), ("upper", _upper_disk(tmp_path), False))
        for name, path, read_only in disks:
            drive = {"drive_id": name, "path_on_host": str(path), "is_root_device": False, "is_read_only": read_only}
            _put(api, f"/drives/{name}", drive)
        _put(api, "/actions", {"action_type": "InstanceStart"})
        _wait_for(lambda: b"Debian GNU/Linux 12" in console.read_bytes(), _BOOT_S, console)
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool], timeout_s: float, console: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        said = console.read_text(errors="replace")
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s. The console:\n{said}"
        time.sleep(0.05)
