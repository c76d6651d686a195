"""Guest files of a disk that is a device, there only while it is in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.core.guest_files import GuestFiles
from banger.errors import DiskError
from banger.resource import Absent, Drifted, Present
from banger.testing import SimulatedHost
from banger.types import GuestDisk, GuestFile

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
