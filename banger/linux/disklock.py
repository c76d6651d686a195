"""Who writes a disk file holds it, and so do the programs that write it for them.

A command that is killed leaves its programs at work: they are let end, for half a change is worse than a whole one.
So the lock is theirs as well: flock(2) is of the open file, which they inherit, and it goes with the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from banger.errors import Busy
from banger.linux import blockdevice
from banger.linux.run import handed_on

_PATIENCE_S = 60.0
_PAUSE_S = 0.02


@contextlib.contextmanager
def held(disk: Path, *, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold a disk file for as long as this block, and each program that is started in it, lasts.

    What a killed command left at work on it is waited for, so long and no longer; then Busy is raised. A device is not
    held: whoever has it open is found by that (`blockdevice.refuse_open`). Raises OSError for what cannot be opened.
    """
    if blockdevice.is_device(disk):
        yield
        return
    descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(descriptor, disk, time.monotonic() + patience_s)
        with handed_on(descriptor):
            yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, disk: Path, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                message = f"{disk} is in use: a program still writes it that an earlier command started"
                raise Busy(message, hint=f"wait for it to end: fuser -v {disk}") from error
        time.sleep(_PAUSE_S)
