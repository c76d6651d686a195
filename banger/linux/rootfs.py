"""A root file system image from a staged root, without privileges: one mke2fs, one debugfs, and the proof of e2fsck.

The same image comes out whether root or an ordinary user makes it: what the user's files cannot have on the host is
set inside the image afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from banger.errors import CommandError, DiskError
from banger.linux.debugfs import change, quote
from banger.linux.fsck import verify
from banger.linux.publish import publishing
from banger.linux.run import run
from banger.linux.staging import Recorded, StagedRoot, staged_mode
from banger.types import Size

__all__ = ["make_rootfs"]

_SLACK_BYTES = 256 * 2**20
_TIMEOUT_S = 1800.0
_SPECIAL = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


def make_rootfs(
    root: StagedRoot, path: Path, *, size_bytes: int | None = None, label: str = "", uuid: str | None = None
) -> int:
    """Make the ext4 image `path` of a staged root and return its size in bytes.

    `size_bytes=None`: the content's size and room to spare. Raises DiskError when it does not fit or cannot be made;
    the image is then not left behind.
    """
    if size_bytes is not None and size_bytes < root.content_bytes:
        raise DiskError(
            f"an image of {Size(size_bytes)} is too small: its files alone take {root.content_bytes // 2**20 + 1}MiB",
            hint="make `size` larger, or leave it out",
        )
    size_bytes = size_bytes or -(-int(root.content_bytes * 1.3 + _SLACK_BYTES) // 2**20) * 2**20
    root.settle()
    owner = os.geteuid(), os.getegid()
    with publishing(path) as image, TemporaryDirectory(prefix=".banger-stage-", dir=path.parent) as scratch:
        os.truncate(image, size_bytes)
        try:
            _populate(root, image, size_bytes, label, uuid)
            change(image, list(_corrections(root.records, owner, Path(scratch))))
            verify(image, "making it")
        except CommandError as error:
            raise DiskError(f"the root file system {path} could not be made: {error}") from error
    return size_bytes


def _populate(root: StagedRoot, path: Path, size_bytes: int, label: str, uuid: str | None) -> None:
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-d", str(root.directory)]
    argv += ["-L", label] if label else []
    argv += ["-U", uuid] if uuid else []
    inodes_needed = len(root.records) * 5 // 4 + 1024
    if inodes_needed > size_bytes // 16384:  # mke2fs.conf(5): one inode for 16 KiB, unless told otherwise
        argv += ["-N", str(inodes_needed)]
    run([*argv, str(path), f"{size_bytes // 1024}k"], timeout_s=_TIMEOUT_S)


def _corrections(records: Mapping[str, Recorded], owner: tuple[int, int], scratch: Path) -> Iterator[str]:
    """The debugfs(8) commands that give each inode what it must have and mke2fs, seeing `owner`'s files, did not give.

    Attribute values are put into files in `scratch`, from where debugfs reads them.
    """
    for name, recorded in records.items():
        path = quote(f"/{name}")
        node_type = stat.S_IFMT(recorded.mode)
        new = not name or node_type in _SPECIAL  # the root directory, too, is mke2fs's own
        if node_type in _SPECIAL:
            parent, _, last = f"/{name}".rpartition("/")
            yield f"cd {quote(parent or '/')}"  # mknod takes no directory in its name
            yield " ".join(["mknod", quote(last), _SPECIAL[node_type], *map(str, recorded.device or ())])
        if new or (node_type != stat.S_IFLNK and staged_mode(recorded.mode) != recorded.mode & 0o7777):
            yield f"sif {path} mode 0{recorded.mode:o}"
        if new or recorded.uid != owner[0]:
            yield f"sif {path} uid {recorded.uid}"
        if new or recorded.gid != owner[1]:
            yield f"sif {path} gid {recorded.gid}"
        for attribute, value in recorded.attributes:
            source = scratch / f"{len(list(scratch.iterdir()))}"
            source.write_bytes(value)
            yield f"ea_set -f {quote(str(source))} {path} {attribute}"
