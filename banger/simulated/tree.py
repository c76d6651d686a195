"""ext4 images as plain trees in memory, with the manners of the real ones. A part of `banger.testing`.

Paths are followed by the same rules as on real disks (`banger.linux.guest_paths`). Hard links, times and extended
attributes are not simulated.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from banger.errors import DiskError
from banger.host import Inode, Node, NodeType
from banger.linux.guest_paths import follow, parents
from banger.types import GuestFile

_ASIDE = ".before-flatten"


@dataclass(frozen=True, slots=True)
class Entry:
    """One inode of a simulated image."""

    type: NodeType
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    content: bytes = field(default=b"", repr=False)
    target: str | None = None

    @property
    def inode(self) -> Inode:
        size_bytes = len(self.target) if self.target is not None else len(self.content)
        return Inode(self.type, self.mode, self.uid, self.gid, size_bytes, self.target)


_DIRECTORY = Entry("directory")


@dataclass
class Tree:
    """A simulated ext4 file system: its inodes by absolute path."""

    size_bytes: int
    label: str = ""
    uuid: str | None = None
    entries: dict[str, Entry] = field(default_factory=lambda: {"/": _DIRECTORY})

    def copy(self) -> Tree:
        return replace(self, entries=dict(self.entries))

    @property
    def used_bytes(self) -> int:
        return sum(len(entry.content) for entry in self.entries.values())

    def inode(self, path: str) -> Inode | None:
        entry = self.entries.get(path)
        return entry.inode if entry else None

    def children(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(posixpath.basename(path) for path in self.entries if _is_in(path, directory))

    def subtree(self, directory: str) -> dict[str, Entry]:
        """Everything below a directory, by its path from there, which begins with a slash."""
        start = directory.rstrip("/") + "/"
        return {path[len(start) - 1 :]: entry for path, entry in self.entries.items() if path.startswith(start)}

    def fill(self, nodes: Sequence[Node]) -> None:
        """What `Ext4.make` puts into a new image."""
        for node in sorted(nodes, key=lambda node: node.path):
            path = posixpath.normpath(node.path)
            for above in parents(path):
                if self.entries.setdefault(above, _DIRECTORY).type != "directory":
                    raise DiskError(f"{path} cannot be in an image: {above} is a {self.entries[above].type} there")
            mode = 0o777 if node.type == "symlink" else node.mode
            target = node.target if node.type == "symlink" else None
            self.entries[path] = Entry(node.type, mode, node.uid, node.gid, node.content, target)
        self.check_room()

    def check_room(self) -> None:
        if self.used_bytes > self.size_bytes:
            raise DiskError(f"no room: {self.used_bytes} bytes in a disk of {self.size_bytes}")

    def flatten(self, directory: str) -> int:
        """See `banger.host.Ext4.flatten`."""
        top = self.entries.get(directory)
        if top is None or top.type != "directory":
            return 0
        nested = self.subtree(directory)
        for path in [directory, *(directory + path for path in nested)]:
            del self.entries[path]
        count = sum(1 for path in nested if _is_in(path, "/"))
        self.entries["/"] = top
        for path in sorted(nested):
            there = self.entries.get(path)
            if there is not None and not (there.type == nested[path].type == "directory"):
                self._set_aside(path)
            self.entries[path] = nested[path]
        return count

    def _set_aside(self, path: str) -> None:
        moved = {below: entry for below, entry in self.entries.items() if below == path or below.startswith(path + "/")}
        aside = path + _ASIDE
        number = 1
        while aside in self.entries:
            number += 1
            aside = f"{path}{_ASIDE}.{number}"
        for below, entry in moved.items():
            del self.entries[below]
            self.entries[aside + below[len(path) :]] = entry


def _is_in(path: str, directory: str) -> bool:
    return path != "/" and posixpath.dirname(path) == directory


class View:
    """A guest's tree: one directory of a disk over the whole of a base, as `banger.linux.ext4_view` has it."""

    def __init__(self, tree: Tree, prefix: str = "", base: Tree | None = None) -> None:
        self.tree = tree
        self.prefix = prefix.rstrip("/")
        self.base = base

    def at(self, path: str) -> str:
        return self.prefix + path if path != "/" else self.prefix or "/"

    def look(self, paths: Iterable[str]) -> dict[str, Inode | None]:
        under = self.base or Tree(0, entries={})
        return {path: self.tree.inode(self.at(path)) or under.inode(path) for path in paths}

    def located(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        """Each path's own entry on the disk, symlinks in its directories followed."""
        real = follow(paths, self.look)
        return {path: self.tree.entries.get(self.at(where)) for path, where in real.items()}

    def patch(self, writes: Sequence[GuestFile], removals: Sequence[str], directories: Sequence[Node]) -> None:
        """See `banger.host.Ext4.patch`."""
        for node in directories:
            path = follow([node.path], self.look, final=True)[node.path]
            self._make_parents(path)
            there = self.tree.entries.get(self.at(path))
            if there is not None and there.type != "directory":
                raise DiskError(f"{path} cannot be a directory: it is a {there.type} there")
            self.tree.entries[self.at(path)] = Entry("directory", node.mode, node.uid, node.gid)
        real = follow([*(file.path for file in writes), *removals], self.look)
        for path in (real[removal] for removal in removals):
            self._refuse_directory(path)
            self.tree.entries.pop(self.at(path), None)
        for file in writes:
            path = real[file.path]
            self._refuse_directory(path)
            self._make_parents(path)
            self.tree.entries[self.at(path)] = Entry("file", file.mode, file.uid, file.gid, file.content)
        self.tree.check_room()

    def _make_parents(self, path: str) -> None:
        for above in (*parents(self.prefix + "/x"), *(self.at(each) for each in parents(path))):
            there = self.tree.entries.get(above)
            if there is None:
                guest_path = above[len(self.prefix) :] or "/"
                under = self.base.entries.get(guest_path) if self.base and above.startswith(self.prefix) else None
                if under is not None and under.type != "directory":
                    raise DiskError(f"{guest_path} cannot be a directory: it is a {under.type} in the base")
                self.tree.entries[above] = under or _DIRECTORY
            elif there.type != "directory":
                raise DiskError(f"{path} cannot be written: {above} is a {there.type} there")

    def _refuse_directory(self, path: str) -> None:
        there = self.tree.entries.get(self.at(path))
        if there is not None and there.type == "directory":
            raise DiskError(f"{path} is a directory; only files are replaced or removed")
