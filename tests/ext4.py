"""An ext4 reader that shares nothing with the product: everything in an image, by path as bytes.

Only what mke2fs(8) makes by default is known: extents, directories that may be hashed, 256-byte inodes. Field offsets
are those of Documentation/filesystems/ext4.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = 2
_EXTENTS = 0x80000
_INCOMPAT_64BIT = 0x80


@dataclass(frozen=True)
class Found:
    """One inode. `data`: a file's content or a symlink's text."""

    mode: int
    uid: int
    gid: int
    data: bytes


class Ext4Image:
    """The file system in `path`."""

    def __init__(self, path: Path) -> None:
        self._image = path.read_bytes()
        block = self._image[1024:2048]
        (magic,) = struct.unpack_from("<H", block, 56)
        assert magic == 0xEF53, "an ext4 file system"
        self._block_bytes = 1024 << struct.unpack_from("<I", block, 24)[0]
        (self._inodes_per_group,) = struct.unpack_from("<I", block, 40)
        (self._inode_bytes,) = struct.unpack_from("<H", block, 88)
        wide = struct.unpack_from("<I", block, 96)[0] & _INCOMPAT_64BIT
        self._descriptor_bytes = struct.unpack_from("<H", block, 254)[0] if wide else 32
        self._first_block = struct.unpack_from("<I", block, 20)[0]

    def walk(self) -> dict[bytes, Found]:
        """Everything but the root directory itself."""
        return dict(self._walk(_ROOT, b""))

    def _walk(self, number: int, path: bytes) -> Iterator[tuple[bytes, Found]]:
        for name, inode in self._names(self._content(number)):
            found = self._found(inode)
            yield path + b"/" + name, found
            if stat.S_ISDIR(found.mode):
                yield from self._walk(inode, path + b"/" + name)

    def _names(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        offset = 0
        while offset + 8 <= len(data):
            inode, length, name_bytes = struct.unpack_from("<IHB", data, offset)
            name = data[offset + 8 : offset + 8 + name_bytes]
            if inode and name not in (b".", b".."):
                yield name, inode
            offset += length

    def _found(self, number: int) -> Found:
        raw = self._inode(number)
        mode, uid, gid = (struct.unpack_from("<H", raw, at)[0] for at in (0, 2, 24))
        uid |= struct.unpack_from("<H", raw, 120)[0] << 16
        gid |= struct.unpack_from("<H", raw, 122)[0] << 16
        kept = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
        return Found(mode, uid, gid, self._content(number) if kept else b"")

    def _content(self, number: int) -> bytes:
        raw = self._inode(number)
        mode, flags = struct.unpack_from("<H", raw)[0], struct.unpack_from("<I", raw, 32)[0]
        size = struct.unpack_from("<I", raw, 4)[0] | struct.unpack_from("<I", raw, 108)[0] << 32
        if stat.S_ISLNK(mode) and not flags & _EXTENTS:
            return raw[40 : 40 + size]
        assert flags & _EXTENTS or not size, f"inode {number} has extents"
        data = bytearray(size)
        for first, blocks, start in self._extents(raw[40:100]) if size else ():
            at = first * self._block_bytes
            there = self._image[start * self._block_bytes : (start + blocks) * self._block_bytes]
            data[at : at + len(there)] = there[: max(0, size - at)]
        return bytes(data)

    def _extents(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, depth = struct.unpack_from("<HHHH", node)
        assert magic == 0xF30A, "an extent tree"
        for index in range(entries):
            if depth:
                low, high = struct.unpack_from("<4xIH", node, 12 + 12 * index)
                at = (low | high << 32) * self._block_bytes
                yield from self._extents(self._image[at : at + self._block_bytes])
            else:
                first, blocks, high, low = struct.unpack_from("<IHHI", node, 12 + 12 * index)
                if blocks <= 32768:  # a longer one is allocated, but never written
                    yield first, blocks, low | high << 32

    def _inode(self, number: int) -> bytes:
        group, index = divmod(number - 1, self._inodes_per_group)
        at = (self._first_block + 1) * self._block_bytes + group * self._descriptor_bytes
        (table,) = struct.unpack_from("<I", self._image, at + 8)
        if self._descriptor_bytes > 32:
            table |= struct.unpack_from("<I", self._image, at + 40)[0] << 32
        at = table * self._block_bytes + index * self._inode_bytes
        return self._image[at : at + self._inode_bytes]
