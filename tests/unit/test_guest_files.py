"""Guest files of a disk that is a device, there only while it is in use; and of one whose guest made them large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from banger.core.guest_files import MOST_SHOWN_BYTES, GuestFiles
from banger.errors import DiskError
from banger.host import MOST_READ_BYTES, Node
from banger.linux import debugfs
from banger.linux.host import LinuxHost
from banger.resource import Absent, Drifted, Present
from banger.testing import SimulatedHost
from banger.types import GuestDisk, GuestFile
from tests.capabilities import programs, require

HOME = Path("/h")


@pytest.fixture
def host() -> SimulatedHost:
    made = SimulatedHost()
    made.files.make_directory(HOME)
    made.ext4.make(HOME / "root.cow", 2**24)
    return made


def files(device: Path, content: bytes = b"web\n") -> GuestFiles:
    disk = GuestDisk(device, backing=HOME / "root.cow")
    return GuestFiles("web/root/guest-files", (), disk, (GuestFile("/etc/hostname", content),), (), HOME / "manifest")


def test_files_without_their_device_are_not_written(host: SimulatedHost) -> None:  # seed S9
    before = list(host.effects)
    with pytest.raises(DiskError, match=r"start flow out of order: .*/dev/mapper/web is not there"):
        files(Path("/dev/mapper/web")).create(host, {}, print)
    assert host.effects == before


def test_files_are_judged_by_the_backing_file_while_the_device_is_away(host: SimulatedHost) -> None:
    there, away = files(HOME / "root.cow"), files(Path("/dev/mapper/web"))
    assert isinstance(away.observe(host, None), Absent)
    there.create(host, {}, print)
    assert away.observe(host, None) == Present()
    assert isinstance(files(Path("/dev/mapper/web"), b"db\n").observe(host, None), Drifted)
    host.guest_writes(HOME / "root.cow", GuestFile("/etc/motd", b"hello"))
    assert away.observe(host, None) == Present(verified=False)


@pytest.fixture
def real(tmp_path: Path) -> LinuxHost:
    require(programs("mke2fs", "debugfs", "e2fsck"))
    return LinuxHost(tmp_path / "cache")


def test_file_that_its_guest_has_made_larger_than_the_disk_is_put_right_unread(real: LinuxHost, tmp_path: Path) -> None:
    disk = tmp_path / "root"
    real.ext4.make(disk, 2**24)
    wanted = replace(files(disk), disk=GuestDisk(disk), manifest=tmp_path / "manifest")
    wanted.create(real, {}, lambda _: None)
    debugfs.change(disk, [f"sif /etc/hostname size {90 * 2**30}"])  # what `truncate -s 90G` does
    assert wanted.diff(real) == [
        *("--- a/etc/hostname", "+++ b/etc/hostname", "(too large to show: 96636764160 bytes)"),
    ]
    wanted.update(real, {}, lambda _: None)
    assert wanted.diff(real) == []
    assert wanted.observe(real, None) == Present()


def test_file_larger_than_is_shown_is_compared_when_one_as_large_is_wanted(host: SimulatedHost) -> None:
    content = b"line\n" * MOST_SHOWN_BYTES
    wanted = files(HOME / "root.cow", content)
    wanted.create(host, {}, print)
    assert wanted.diff(host) == []
    assert replace(wanted, files=()).diff(host) == [
        *("--- a/etc/hostname", "+++ /dev/null", f"(too large to show: {len(content)} bytes)"),
    ]


def test_original_in_an_image_that_is_too_large_is_not_put_back(host: SimulatedHost) -> None:
    base, disk = HOME / "image", GuestDisk(HOME / "root.cow", base=HOME / "image")
    large = Node("/etc/hostname", "file", content=bytes(MOST_READ_BYTES + 1))
    host.ext4.make(base, 2**28, [large])
    wanted = replace(files(HOME / "root.cow"), disk=disk)
    wanted.create(host, {}, print)
    with pytest.raises(DiskError, match="/etc/hostname in /h/image has 67108865 bytes"):
        replace(wanted, files=()).update(host, {}, print)
