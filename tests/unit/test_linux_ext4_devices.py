"""File systems on block devices: what was changed is beneath, what is in use is left alone, what failed is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.errors import Busy, DiskError
from banger.host import Node
from banger.linux import debugfs
from banger.linux.ext4 import LinuxExt4
from banger.linux.loop import LinuxLoops
from banger.linux.run import run
from banger.types import GuestFile
from tests.capabilities import loop_devices, require

EXT4, LOOPS = LinuxExt4(), LinuxLoops()
MIB = 2**20
SIZE_BYTES = 16 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    require(loop_devices())
    EXT4.make(tmp_path / "image", SIZE_BYTES, [Node("/etc", "directory"), Node("/etc/motd", "file", content=b"old")])
    return tmp_path / "image"


@pytest.fixture(params=["device", "link"])
def device(request: pytest.FixtureRequest, image: Path, tmp_path: Path) -> Iterator[Path]:
    with LOOPS.attached(image) as loop:
        if request.param == "device":
            yield loop.path
        else:
            (tmp_path / "link").symlink_to(loop.path)
            yield tmp_path / "link"


def test_device_is_looked_into_like_an_image(device: Path) -> None:
    assert EXT4.read(device, ["/etc/motd", "/none"]) == {
        "/etc/motd": GuestFile("/etc/motd", b"old", 0o755),
        "/none": None,
    }
    inode = EXT4.lookup(device, ["/etc"])["/etc"]
    assert inode is not None and inode.type == "directory"
    assert EXT4.resolve(device, "/etc/x") == "/etc/x"


def test_patch_is_in_the_file_beneath_when_it_returns(device: Path, image: Path) -> None:
    files = [GuestFile("/etc/motd", b"new", 0o600, 7, 8), GuestFile("/large", os.urandom(2 * MIB))]
    EXT4.patch(device, files, directories=[Node("/d", "directory", 0o700)])
    settled = image.stat()
    copy = image.with_name("copy")
    copy.write_bytes(image.read_bytes())
    assert EXT4.read(copy, ["/etc/motd", "/large"]) == {f.path: f for f in files}
    run(["blockdev", "--flushbufs", device], timeout_s=30)
    assert image.stat().st_mtime_ns == settled.st_mtime_ns, "nothing was left to be written"
    assert EXT4.read(device, ["/etc/motd", "/large"]) == {f.path: f for f in files}


def test_other_changes_work_on_a_device(device: Path) -> None:
    EXT4.recover(device)
    EXT4.set_identity(device, label="root", uuid="6b6e6f77-0000-4000-8000-00000000feed")
    said = debugfs.look(device, ["show_super_stats -h"])[0]
    assert b"6b6e6f77-0000-4000-8000-00000000feed" in said and b"root" in said


def test_file_system_is_grown_to_the_size_of_its_device(image: Path) -> None:
    os.truncate(image, 4 * SIZE_BYTES)
    with LOOPS.attached(image) as loop:
        for wrong in (SIZE_BYTES, 8 * SIZE_BYTES):
            with pytest.raises(DiskError):
                EXT4.grow(loop.path, wrong)
        before = debugfs.free_space(loop.path)
        EXT4.grow(loop.path, 4 * SIZE_BYTES)
        EXT4.grow(loop.path, 4 * SIZE_BYTES)
        after = debugfs.free_space(loop.path)
    assert (after.blocks - before.blocks) * after.block_bytes > 2.5 * SIZE_BYTES
    assert image.stat().st_size == 4 * SIZE_BYTES


def test_device_that_another_holds_is_busy_and_left_alone(device: Path, image: Path) -> None:
    before = image.read_bytes()
    holder = os.open(device, os.O_RDWR | os.O_EXCL)  # as mount(2) and the device mapper do
    try:
        with pytest.raises(Busy):
            EXT4.patch(device, [GuestFile("/x", b"")])
        with pytest.raises(Busy):
            EXT4.recover(device)
        with pytest.raises(Busy):
            EXT4.grow(device, SIZE_BYTES)
    finally:
        os.close(holder)
    assert image.read_bytes() == before
    EXT4.patch(device, [GuestFile("/x", b"")])


def test_device_that_could_not_take_it_all_is_a_disk_error(image: Path, tmp_path: Path) -> None:
    """Writing to a device ends in the page cache; that it went no further must be asked for."""
    full = tmp_path / "full"
    full.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", full], check=False)
    require(None if mounting.returncode == 0 else "may not mount here")
    try:
        run(["cp", "--sparse=always", image, full / "image"], timeout_s=30)
        with LOOPS.attached(full / "image") as loop, pytest.raises(DiskError):
            EXT4.patch(loop.path, [GuestFile("/large", os.urandom(4 * MIB))])
    finally:
        run(["umount", full], timeout_s=30)
