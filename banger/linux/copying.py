"""Copies of disk images: shared extents where the file system can, otherwise the data alone, with its holes kept.

A copy appears under its name whole or not at all: it is made beside the destination and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Literal

from banger.linux.publish import publishing

FICLONE = 0x40049409
"""ioctl_ficlone(2): `_IOW(0x94, 9, int)`; the fcntl module has it only from Python 3.12."""
_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
_CANNOT_COPY_IN_KERNEL = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_CHUNK_BYTES = 4 * 2**20


def clone(source: Path, destination: Path) -> Literal["reflink", "sparse"]:
    """Copy `source` to `destination` (mode 0600), replacing it. Says which way it went. Raises OSError."""
    with publishing(destination) as temporary:
        return copy_into(source, temporary)


def copy_into(source: Path, empty: Path) -> Literal["reflink", "sparse"]:
    """Copy `source` into an existing empty file. Raises OSError."""
    with source.open("rb") as reading, empty.open("r+b") as writing:
        if reflink(reading.fileno(), writing.fileno()):
            return "reflink"
        copy_data(reading.fileno(), writing.fileno())
        return "sparse"


def reflink(source: int, destination: int) -> bool:
    """Share all extents of one open file with another (FICLONE); False where the file system cannot."""
    try:
        fcntl.ioctl(destination, FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_CLONE:
            return False
        raise
    return True


def copy_data(source: int, destination: int) -> None:
    """Copy the data of one open file into an empty one and leave its holes as holes (lseek(2) SEEK_DATA)."""
    size_bytes = os.fstat(source).st_size
    os.ftruncate(destination, size_bytes)
    offset = 0
    while offset < size_bytes:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        offset = os.lseek(source, start, os.SEEK_HOLE)
        _copy_extent(source, destination, start, offset)


def _copy_extent(source: int, destination: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source, destination, end - start, start, start)
        except OSError as error:
            if error.errno not in _CANNOT_COPY_IN_KERNEL:
                raise
            copied = _copy_through_memory(source, destination, start, end)
        if copied == 0:  # the source was cut short while it was read
            raise OSError(errno.EIO, "the source ended before its size")
        start += copied


def _copy_through_memory(source: int, destination: int, start: int, end: int) -> int:
    chunk = os.pread(source, min(_CHUNK_BYTES, end - start), start)
    return os.pwrite(destination, chunk, start)
