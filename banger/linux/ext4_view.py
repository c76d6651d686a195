"""A guest's tree as its disk and what lies under it show it: paths are the guest's, looking is remembered.

A plain disk is its own tree. An overlay's tree is one directory of the disk (`prefix`) over the whole of `base`, where
a character device 0:0 on top hides what is beneath (Documentation/filesystems/overlayfs, "whiteouts").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from banger.errors import DiskError
from banger.host import Inode
from banger.linux import debugfs
from banger.linux.debugfs import Status
from banger.types import GuestFile


class DiskView:
    """Looks with one debugfs run for all paths of a question, and never twice at the same path."""

    def __init__(self, disk: Path, prefix: str = "", base: Path | None = None) -> None:
        self.disk = disk
        self.prefix = prefix.rstrip("/")
        self.base = base
        self._top: dict[str, Status | None] = {}
        self._beneath: dict[str, Status | None] = {}

    def look(self, paths: Iterable[str]) -> dict[str, Inode | None]:
        """The inode that the guest would see at each path; a `guest_paths.Look`."""
        wanted = list(paths)
        self._fetch(wanted)
        return {path: self._seen(path) for path in wanted}

    def at(self, path: str) -> str:
        """Where a guest path lies on the disk."""
        return self.prefix + path if path != "/" else self.prefix or "/"

    def on_disk(self, path: str) -> Status | None:
        """What the disk itself has at a path that was looked at."""
        return self._top[path]

    def beneath(self, path: str) -> Status | None:
        """What `base` has at a path that was looked at and that the disk does not have."""
        return self._beneath.get(path)

    def _fetch(self, paths: list[str]) -> None:
        new = [path for path in dict.fromkeys(paths) if path not in self._top]
        found = debugfs.statuses(self.disk, [self.at(path) for path in new])
        self._top.update({path: found[self.at(path)] for path in new})
        if self.base is not None:
            missing = [path for path in new if self._top[path] is None]
            self._beneath.update(debugfs.statuses(self.base, missing))

    def _seen(self, path: str) -> Inode | None:
        top = self._top[path]
        if top is not None:
            return None if is_whiteout(top) else top.inode
        under = self._beneath.get(path)
        return under.inode if under else None


def is_whiteout(status: Status) -> bool:
    """Whether this is what overlayfs leaves where the guest removed something of the image."""
    return status.inode.type == "character" and status.device == (0, 0)


def may_be(file: GuestFile, inode: Inode) -> bool:
    """Whether only its content can tell that this is not the file."""
    wanted = ("file", file.mode, file.uid, file.gid, len(file.content))
    return (inode.type, inode.mode, inode.uid, inode.gid, inode.size_bytes) == wanted


def refuse_too_much(disk: Path, files: Mapping[str, Inode], most_bytes: int) -> None:
    """Raise DiskError, naming the largest, when these files together have more than what is read at once."""
    if sum(inode.size_bytes for inode in files.values()) > most_bytes:
        path, inode = max(files.items(), key=lambda item: item[1].size_bytes)
        raise DiskError(f"{path} in {disk} has {inode.size_bytes} bytes, and at most {most_bytes} are read at once")
