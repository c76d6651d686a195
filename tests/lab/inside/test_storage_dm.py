"""Root disks as snapshots on the real device mapper: the contract's cases, and what only a real kernel shows."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import banger_storage_dm as plugin
import pytest
from banger_storage_dm.overlay import CHUNK_BYTES, CowFile
from banger_storage_dm.snapshot import Snapshot

from banger.core.guest_files import GuestFiles
from banger.core.locks import shared_lock
from banger.core.teardown import remove
from banger.errors import Busy, DiskError, HostError
from banger.linux import dm_ioctl, fsck
from banger.linux.host import LinuxHost
from banger.linux.run import run
from banger.resource import Absent, Drifted, Present, Resource
from banger.types import GuestFile, Image, Vm
from tests.capabilities import device_mapper, loop_devices, require
from tests.contract.test_mapper import *  # noqa: F403  # the contract's cases, with the host of this file
from tests.plugins import disks
from tests.plugins.disks import IMAGE_BYTES, Stages

MIB = 2**20
FILES = (
    GuestFile("/bin/tool", b"#!/bin/sh\n", 0o755),
    GuestFile("/etc/motd", b"of the VM\n"),
    GuestFile("/srv/deep/secret", bytes(range(256)) * 400, 0o600, 33, 100_000),
)


@pytest.fixture
def host(tmp_path: Path) -> LinuxHost:
    return LinuxHost(tmp_path / "cache", lambda name: shared_lock(tmp_path / "locks" / f"{name}.lock"))


@pytest.fixture
def image(host: LinuxHost, tmp_path: Path) -> Iterator[Image]:
    """An image that is the same, bit for bit, after whatever a test does."""
    require(loop_devices())
    require(device_mapper(), lab_only=True)
    made = disks.image(host, tmp_path / "image")
    before = _digest(made.rootfs)
    yield made
    assert host.mapper.names("banger-") == [], "the test left devices behind"
    assert host.loops.of(made.rootfs) == [], "the test left a loop device behind"
    assert _digest(made.rootfs) == before, "the image was written to"


@pytest.fixture
def machine(tmp_path: Path) -> Vm:
    return disks.vm(tmp_path / "vm", storage="dm")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def resources(vm: Vm, image: Image) -> tuple[CowFile, Snapshot, GuestFiles]:
    disk = plugin.prepare_root_disk(vm, image)
    cow, snapshot = disk.resources
    manifest = vm.directory / "manifest.json"
    return cow, snapshot, GuestFiles("web/files", (cow.key, snapshot.key), disk.guest_disk, FILES, (), manifest)


def create(host: LinuxHost, wanted: tuple[Resource, ...]) -> Stages:
    """As a plan does, when nobody uses the disk."""
    stages = Stages()
    for resource in wanted:
        match resource.observe(host, None):
            case Absent():
                resource.create(host, {}, stages)
            case Drifted(handle=handle, in_place=in_place):
                assert in_place
                resource.update(host, handle, stages)
            case Present():
                pass
    assert [type(resource.observe(host, None)) for resource in wanted] == [Present] * len(wanted)
    return stages


def destroy(host: LinuxHost, wanted: tuple[Resource, ...]) -> None:
    for resource in reversed(wanted):
        remove(resource, host, None, Stages())


@contextlib.contextmanager
def mounted(device: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    run(["mount", "-o", "ro,noload", device, at], timeout_s=30)
    try:
        yield at
    finally:
        run(["umount", at], timeout_s=30)
        at.rmdir()


def write(path: Path, offset: int, size_bytes: int) -> None:
    """As a guest does, below its file system."""
    with path.open("r+b", buffering=0) as disk:
        disk.seek(offset)
        disk.write(os.urandom(size_bytes))
        os.fsync(disk.fileno())


# --- what comes out ------------------------------------------------------------------------------------------------


def test_kernel_sees_the_files_byte_for_byte_with_owner_and_mode(  # seed S9
    host: LinuxHost, machine: Vm, image: Image, tmp_path: Path
) -> None:
    wanted = resources(machine, image)
    stages = create(host, wanted)
    assert stages == ["making the overlay", "growing the root disk", "writing 3 files"]
    with mounted(wanted[1].path, tmp_path / "mnt") as at:
        for f in FILES:
            status = (at / f.path.lstrip("/")).stat()
            assert (at / f.path.lstrip("/")).read_bytes() == f.content
            assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (f.mode, f.uid, f.gid)
        srv = (at / "srv").stat()
        assert (srv.st_mode & 0o7777, srv.st_uid, srv.st_gid) == (0o750, 33, 33), "as in the image"
        filesystem = os.statvfs(at)
        assert filesystem.f_frsize * filesystem.f_blocks > 0.85 * machine.root_disk_bytes, "it fills the disk"
    fsck.verify(wanted[1].path, "test")
    assert host.mapper.device(wanted[1].name).size_bytes == machine.root_disk_bytes  # type: ignore[union-attr]
    destroy(host, wanted)
    assert list(machine.directory.iterdir()) == []


def test_handle_names_what_the_kernel_made(host: LinuxHost, machine: Vm, image: Image) -> None:  # seed S1
    cow, snapshot, _ = wanted = resources(machine, image)
    cow.create(host, {}, Stages())
    handle = snapshot.create(host, {}, Stages())
    assert set(handle) == {"base_loop", "cow_loop", "dm_name", "dm_device"}
    assert snapshot.path.resolve() == Path(handle["dm_device"])
    assert [str(loop.path) for loop in host.loops.of(image.rootfs)] == [handle["base_loop"]]
    assert [str(loop.path) for loop in host.loops.of(cow.path)] == [handle["cow_loop"]]
    assert snapshot.observe(host, {"dm_device": "/dev/dm-99"}) == Present(handle)
    destroy(host, wanted)


def test_vms_of_one_image_share_its_loop_and_leave_it_to_the_other(
    host: LinuxHost, machine: Vm, image: Image, tmp_path: Path
) -> None:
    first = resources(machine, image)
    second = resources(disks.vm(tmp_path / "vm-2", storage="dm", id="9876543210", name="db"), image)
    create(host, first)
    create(host, second)
    assert len(host.loops.of(image.rootfs)) == 1
    destroy(host, first)
    assert isinstance(second[1].observe(host, None), Present)
    fsck.verify(second[1].path, "the other one was removed")
    assert [f.content for f in host.ext4.read(second[1].path, ["/etc/motd"]).values() if f] == [b"of the VM\n"]
    destroy(host, second)
    assert host.loops.of(image.rootfs) == []


def test_disk_lasts_over_its_devices_and_grows_when_they_are_made_again(
    host: LinuxHost, machine: Vm, image: Image
) -> None:
    wanted = resources(machine, image)
    create(host, wanted)
    wanted[1].remove(host, None, Stages())
    assert wanted[2].observe(host, None) == Present(), "removing the devices changes nothing in the overlay"
    assert create(host, wanted) == [], "nothing is grown or written twice"
    wanted[1].remove(host, None, Stages())
    larger = resources(replace(machine, root_disk_bytes=96 * MIB), image)
    assert create(host, larger) == ["enlarging the overlay", "growing the root disk"]
    fsck.verify(larger[1].path, "growing it")
    there = host.ext4.read(larger[1].path, [f.path for f in FILES])
    assert [f.content for f in there.values() if f] == [f.content for f in FILES]
    destroy(host, larger)


def test_observing_asks_the_kernel_and_starts_nothing(
    host: LinuxHost, machine: Vm, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = resources(machine, image)
    create(host, wanted)
    asked: list[int] = []
    ioctl = fcntl.ioctl

    def counting(descriptor: int, request: int, *arguments: Any) -> Any:
        asked.append(request)
        return ioctl(descriptor, request, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "ioctl", counting)
        patch.setattr(subprocess, "Popen", None)
        assert isinstance(wanted[1].observe(host, None), Present)
    assert len(asked) == 5, "two devices, a status, two loops"
    destroy(host, wanted)


def test_describe_tells_how_much_of_the_overlay_is_taken(host: LinuxHost, machine: Vm, image: Image) -> None:
    wanted = resources(replace(machine, overlay_bytes=48 * MIB), image)
    create(host, wanted)
    write(wanted[1].path, IMAGE_BYTES, 8 * MIB)
    said = wanted[1].describe(host, {})["overlay"]
    match = re.fullmatch(r"(\d+\.\d)MiB of 48\.0MiB \((\d+\.\d)%\)", said)
    assert match and 8 <= float(match[1]) < 14, said
    destroy(host, wanted)


def test_ordinary_user_may_look_as_far_as_the_kernel_lets_them(host: LinuxHost, machine: Vm, image: Image) -> None:
    wanted = resources(machine, image)
    create(host, wanted)
    for directory in (machine.directory, *machine.directory.parents):
        if not directory.stat().st_mode & 0o005:
            directory.chmod(0o755)

    def look() -> None:
        os.setgid(65534)
        os.setuid(65534)
        assert host.mapper.device("banger-none") is None
        assert wanted[1].name in host.mapper.names("banger-")
        assert len(host.loops.of(wanted[0].path)) == 1
        with pytest.raises(HostError, match="Permission denied"):
            host.mapper.device(wanted[1].name)

    assert in_a_child(look) == 0
    destroy(host, wanted)


# --- a full overlay, a lost one ------------------------------------------------------------------------------------


def test_full_overlay_is_told_by_the_playbooks_key_and_mended_by_a_larger_one(
    host: LinuxHost, machine: Vm, image: Image
) -> None:
    bounded = replace(machine, overlay_bytes=4 * MIB, root_disk_bytes=IMAGE_BYTES)
    wanted = resources(bounded, image)
    create(host, wanted)
    with pytest.raises(OSError, match="Input/output error"):
        write(wanted[1].path, IMAGE_BYTES // 2, 6 * MIB)
    words = "its overlay is full (4.0MiB of 4.0MiB): raise `overlay`, then apply --restart"
    seen = wanted[1].observe(host, None)
    assert isinstance(seen, Drifted)
    assert (seen.differences, seen.in_place, seen.usable) == ((words,), True, False)
    with pytest.raises(DiskError, match=r"web/root/snapshot: its overlay is full"):
        wanted[1].update(host, {}, Stages())
    wanted[1].remove(host, None, Stages())

    larger = resources(replace(bounded, overlay_bytes=16 * MIB), image)
    create(host, larger)
    run(["e2fsck", "-fp", larger[1].path], timeout_s=60, accept=(0, 1))
    there = host.ext4.read(larger[1].path, [f.path for f in FILES])
    assert [f.content for f in there.values() if f] == [f.content for f in FILES], "what was written before is whole"
    write(larger[1].path, IMAGE_BYTES // 2, 6 * MIB)
    assert isinstance(larger[1].observe(host, None), Present)
    destroy(host, larger)


@pytest.mark.parametrize("chunks", [514, 515, 516])
def test_overlay_that_ends_at_the_end_of_a_table_overflows_like_any_other(
    host: LinuxHost, machine: Vm, image: Image, chunks: int
) -> None:
    """The kernel gives up a snapshot whose store has 515 chunks (2 * 257 + 1), data and all, when that is full."""
    wanted = resources(replace(machine, overlay_bytes=chunks * CHUNK_BYTES, root_disk_bytes=IMAGE_BYTES), image)
    create(host, wanted)
    with pytest.raises(OSError, match="Input/output error"):
        write(wanted[1].path, IMAGE_BYTES // 2, 4 * MIB)
    assert [line.parameters for line in host.mapper.status(wanted[1].name)] == ["Overflow"]
    assert host.mapper.store_is_valid(wanted[0].path)
    destroy(host, wanted)


def test_overlay_that_was_given_up_on_a_full_host_disk_is_taken_up_again(
    host: LinuxHost, machine: Vm, image: Image
) -> None:
    wanted = resources(machine, image)
    with _small_disk(machine.directory) as enlarge:
        create(host, wanted)
        with pytest.raises(OSError, match="Input/output error"):
            write(wanted[1].path, IMAGE_BYTES, 24 * MIB)
        seen = wanted[1].observe(host, None)
        assert isinstance(seen, Drifted) and "gave its overlay up (Invalid)" in seen.differences[0]
        lost = wanted[0].observe(host, None)
        assert isinstance(lost, Drifted) and (lost.in_place, lost.usable) == (True, False)
        wanted[1].remove(host, None, Stages())
        enlarge()
        assert "taking the overlay up again" in create(host, wanted)
        host.ext4.recover(wanted[1].path)
        fsck.verify(wanted[1].path, "taking it up again")
        there = host.ext4.read(wanted[1].path, [f.path for f in FILES])
        assert [f.content for f in there.values() if f] == [f.content for f in FILES]
        destroy(host, wanted)


@contextlib.contextmanager
def _small_disk(at: Path) -> Iterator[Callable[[], object]]:
    run(["mount", "-t", "tmpfs", "-o", "size=20M", "tmpfs", at], timeout_s=30)
    try:
        yield lambda: run(["mount", "-o", "remount,size=200M", at], timeout_s=30)
    finally:
        run(["umount", at], timeout_s=30)


# --- killed --------------------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], object]) -> int:
    """Run it in a process of its own; how that ended, as os.waitstatus_to_exitcode says it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  # nothing of pytest's may run in this process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


CHANGING = {
    0x4C0A,  # LOOP_CONFIGURE
    *(dm_ioctl.request(command) for command in dm_ioctl.Command if command.name.startswith(("DEV", "TABLE_LOAD"))),
}


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do it in a process that is killed at one of the moments around its changes; whether there are so many.

    Those are: before and after each ioctl that changes something, and while each program runs.
    """

    def counted() -> None:
        moments = iter(range(1_000_000))
        ioctl, communicate = fcntl.ioctl, subprocess.Popen.communicate

        def moment() -> None:
            if next(moments) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def changing(descriptor: int, request: int, *arguments: Any) -> Any:
            if request not in CHANGING:
                return ioctl(descriptor, request, *arguments)
            moment()
            answer = ioctl(descriptor, request, *arguments)
            moment()
            return answer

        def started(process: Any, *arguments: Any, **options: Any) -> Any:
            moment()
            return communicate(process, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fcntl, "ioctl", changing)
            patch.setattr(subprocess.Popen, "communicate", started)
            work()

    outcome = in_a_child(counted)
    assert outcome in (0, -signal.SIGKILL)
    return outcome != 0


def test_killed_at_any_moment_of_making_it_nothing_is_left_after_removal(
    host: LinuxHost, machine: Vm, image: Image
) -> None:
    wanted = resources(machine, image)
    (recorded,) = plugin.teardown_handles(machine, {wanted[1].key: {}})
    number = 0
    while killed_at(number, lambda: [resource.create(host, {}, Stages()) for resource in wanted[:2]]):
        number += 1
        remove(recorded, host, {}, Stages())
        assert host.mapper.names("banger-") == []
        assert list(Path("/dev/mapper").glob(f"*{machine.id}*")) == [], f"killed at moment {number}"
        assert (host.loops.of(image.rootfs), host.loops.of(wanted[0].path)) == ([], [])
    assert number > 20
    destroy(host, wanted)


def test_killed_at_some_moments_of_making_it_the_next_one_is_right(host: LinuxHost, machine: Vm, image: Image) -> None:
    """At every fourth: making it to the end each time takes long, and every one is killed at above."""
    disk = resources(machine, image)[:2]
    number = 0
    while killed_at(number, lambda: create(host, disk)):
        number += 4
        _patiently(lambda: create(host, disk))
        fsck.verify(disk[1].path, f"being killed at moment {number}")
        destroy(host, disk)
    assert number > 20
    destroy(host, disk)


def test_killed_at_any_moment_of_removing_it_the_next_remove_ends_it(
    host: LinuxHost, machine: Vm, image: Image
) -> None:
    wanted = resources(machine, image)
    number = 0
    while True:
        create(host, wanted)
        killed = killed_at(number, lambda: wanted[1].remove(host, None, Stages()))
        wanted[1].remove(host, None, Stages())
        assert host.mapper.names("banger-") == []
        if not killed:
            break
        number += 1
    assert number == 4
    destroy(host, wanted)


def _patiently(work: Callable[[], object]) -> None:
    """What a killed command started may still be at it."""
    for _ in range(5):
        with contextlib.suppress(Busy):
            work()
            return
    work()


# --- beside udev ---------------------------------------------------------------------------------------------------


@pytest.fixture
def udev() -> Iterator[None]:
    with subprocess.Popen(["/usr/lib/systemd/systemd-udevd"], stderr=subprocess.DEVNULL) as daemon:
        try:
            while not Path("/run/udev/control").exists():
                assert daemon.poll() is None
                time.sleep(0.05)
            run(["udevadm", "control", "--ping"], timeout_s=60)
            yield
            run(["udevadm", "settle"], timeout_s=60)
        finally:
            daemon.terminate()


def test_beside_udev_devices_come_and_go_and_nobody_looks_into_them(
    host: LinuxHost, machine: Vm, image: Image, udev: None
) -> None:
    wanted = resources(machine, image)
    create(host, wanted)
    for _ in range(5):
        wanted[1].remove(host, None, Stages())
        assert not wanted[1].path.is_symlink()
        wanted[1].create(host, {}, Stages())
        assert isinstance(wanted[1].observe(host, None), Present)
    run(["udevadm", "settle"], timeout_s=60)
    assert isinstance(wanted[1].observe(host, None), Present)
    device = wanted[1].path.resolve()
    links = [link for link in Path("/dev/disk").rglob("*") if link.is_symlink() and link.resolve() == device]
    assert links == [], "a guest's file system is not to be found among the host's"
    destroy(host, wanted)
    run(["udevadm", "settle"], timeout_s=60)
    assert not wanted[1].path.is_symlink()
