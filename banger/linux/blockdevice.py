"""Block devices as places for file systems: how large they are, and whether anybody has them open."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from banger.errors import Busy
from banger.linux.mapper import LinuxMapper

_BY_NUMBER = Path("/sys/dev/block")
_BUSY_TIMEOUT_S = 1.0
_PAUSE_S = 0.01


def is_device(path: Path) -> bool:
    """Whether this is a block device, or a link to one. Raises OSError."""
    return stat.S_ISBLK(path.stat().st_mode)


def size_bytes(path: Path) -> int:
    """How large a device, or a file, is."""
    with path.open("rb") as stream:
        return stream.seek(0, os.SEEK_END)


def refuse_open(path: Path) -> None:
    """Raise Busy while anybody has this device-mapper device open; nothing else can be told so.

    e2fsck(8) finds who holds a device exclusively, as a mount does; a VMM opens its disks like any file. One that is
    open only for a moment (udev) is waited for.
    """
    if not is_device(path):
        return
    number = path.stat().st_rdev
    name = _BY_NUMBER / f"{os.major(number)}:{os.minor(number)}" / "dm" / "name"
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while name.exists() and (device := LinuxMapper().device(name.read_text().strip())) and device.open_count:
        if time.monotonic() > deadline:
            raise Busy(f"{path} is in use", hint="stop the VM or unmount the disk")
        time.sleep(_PAUSE_S)
