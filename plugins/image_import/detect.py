"""What kind of file an image is, by its first bytes, and where the file system lies in a disk. Reads, no more."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from banger.errors import DiskError

from .options import Format

__all__ = ["detect_format", "find_ext4_partition"]

_SECTOR_BYTES = 512
_EXT4_MAGIC_AT, _EXT4_MAGIC = 1024 + 56, b"\x53\xef"
_STREAMS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_MOST_PARTITIONS = 256


def detect_format(path: Path) -> Format:
    """Raises DiskError when it is none that can be imported."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise DiskError(f"the image file {path} cannot be read: {error.strerror}") from error
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if _is_ext4(head):
        return "ext4"
    if head.startswith(_STREAMS) or head[257:262] == b"ustar":
        return "tar"
    if head[510:512] == b"\x55\xaa":
        return "disk"
    raise DiskError(
        f"{path} is neither an ext4 file system, a qcow2 or partitioned disk, nor a tar archive",
        hint="if it is one of these after all, name it: `format: ext4`, `qcow2`, `disk` or `tar`",
    )


def find_ext4_partition(path: Path) -> tuple[int, int] | None:
    """Offset and size in bytes of a raw disk's one ext4 file system; None when the whole file is one.

    Raises DiskError when there is none, more than one, or one that reaches beyond the disk's end.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        if _is_ext4(stream.read(4096)):
            return None
        found = []
        for offset, length in _partitions(stream, size_bytes):
            if length > 0 and _is_ext4(_read(stream, offset, 4096, size_bytes)):
                found.append((offset, length))
    if len(found) != 1:
        raise DiskError(
            f"{path.name} has {len(found) or 'no'} partition{'s' if len(found) != 1 else ''} with an ext4 file system; "
            "exactly one is expected",
            hint="copy the root file system out, and import that: qemu-img convert, losetup -P, dd",
        )
    offset, length = found[0]
    if offset + length > size_bytes:
        raise DiskError(f"the partition of {path.name} at byte {offset} ends beyond the disk")
    return offset, length


def _is_ext4(head: bytes) -> bool:
    return head[_EXT4_MAGIC_AT : _EXT4_MAGIC_AT + 2] == _EXT4_MAGIC


def _read(stream: BinaryIO, offset: int, count: int, size_bytes: int) -> bytes:
    """What is there; nothing beyond the end, where an offset may be larger than any that can be sought."""
    if offset >= size_bytes:
        return b""
    stream.seek(offset)
    return stream.read(count)


def _partitions(stream: BinaryIO, size_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of each entry of a GPT (UEFI specification, 5.3), else of an MBR's four."""
    stream.seek(0)
    first, header = stream.read(_SECTOR_BYTES), stream.read(_SECTOR_BYTES)
    if header.startswith(b"EFI PART") and len(header) == _SECTOR_BYTES:
        table_lba, count, entry_bytes = struct.unpack_from("<QII", header, 72)
        if entry_bytes < 128 or entry_bytes > 4096:
            return
        for index in range(min(count, _MOST_PARTITIONS)):
            entry = _read(stream, table_lba * _SECTOR_BYTES + index * entry_bytes, 128, size_bytes)
            if len(entry) == 128 and any(entry[:16]):
                start, end = struct.unpack_from("<QQ", entry, 32)
                yield start * _SECTOR_BYTES, (end - start + 1) * _SECTOR_BYTES
    elif first[510:512] == b"\x55\xaa":
        for index in range(4):
            start, sectors = struct.unpack_from("<II", first, 446 + 16 * index + 8)
            if sectors:
                yield start * _SECTOR_BYTES, sectors * _SECTOR_BYTES
