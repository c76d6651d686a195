"""Host files in memory. A part of `banger.testing`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from banger.errors import BangerError, DiskError
from banger.host import FileStatus
from banger.simulated.tree import Tree

if TYPE_CHECKING:
    from banger.testing import SimulatedHost


_OF_ANY_HOST = {
    **{Path("/dev") / name: b"" for name in ("kvm", "loop-control", "mapper/control", "net/tun")},
    Path("/proc/self/status"): b"CapEff:\t000001ffffffffff\n",
}
"""What plugins look for: a simulated host has all that they need, unless a test takes it away."""


@dataclass
class Store:
    """What a device-mapper snapshot keeps in a file: its tree, and the one it was made of."""

    tree: Tree
    origin: Tree
    valid: bool = True


@dataclass
class File:
    """An inode of the simulated host."""

    content: bytes | Tree
    inode: int
    mtime_ns: int
    mode: int
    padding_bytes: int = 0
    """A hole at the end, of a file that was allocated larger than its content."""
    store: Store | None = None
    target: Path | None = None
    """Of a symbolic link."""

    @property
    def size_bytes(self) -> int:
        return self.content.size_bytes if isinstance(self.content, Tree) else len(self.content) + self.padding_bytes


class SimulatedFiles:
    """`banger.host.Files` in memory.

    `reflinks`: whether copies share extents; `owners`: whose what was given away is; `mounted`: the mount options.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.reflinks = False
        self.mounted: set[str] = set()
        self.free = 2**40
        self.owners: dict[Path, int] = {}
        self._host = host
        self._files: dict[Path, File] = {}
        self._directories: dict[Path, int] = {Path("/"): 0o755, Path("/tmp"): 0o777}
        self._count = itertools.count(1)
        for path, content in _OF_ANY_HOST.items():
            self._directories |= dict.fromkeys(path.parents, 0o755)
            self.put(path, content)

    def status(self, path: Path) -> FileStatus | None:
        if path in self._directories:
            return FileStatus(4096, 4096, 0, 1, True)
        if self._host.mapper.size_bytes(path) is not None:
            return FileStatus(0, 0, 0, 1, False)
        file = self._files.get(path)
        if file is None:
            return None
        allocated = file.content.used_bytes if isinstance(file.content, Tree) else len(file.content)
        return FileStatus(file.size_bytes, allocated, file.mtime_ns, file.inode, False)

    def read(self, path: Path) -> bytes:
        file = self._files.get(path)
        if file is None:
            reason = "Is a directory" if path in self._directories else "No such file or directory"
            raise BangerError(f"cannot read {path}: {reason}")
        if isinstance(file.content, Tree):
            raise AssertionError(f"{path} is a simulated disk; its bytes are nobody's business")
        return file.content + bytes(file.padding_bytes)

    def writable(self, path: Path) -> bool:
        return self.status(path) is not None

    def list(self, directory: Path) -> list[Path]:
        return sorted(
            path for path in (*self._files, *self._directories) if path != Path("/") and path.parent == directory
        )

    def free_bytes(self, path: Path) -> int:
        return self.free

    def mount_options(self, path: Path) -> set[str]:
        return set(self.mounted)

    def mode(self, path: Path) -> int:
        """The permission bits of a file, for tests."""
        return self._files[path].mode if path in self._files else self._directories[path]

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        with self._host.effect(f"files.make_directory {path}"):
            for directory in (path, *path.parents):
                if directory in self._files:
                    raise BangerError(f"cannot make the directory {path}: {directory} is a file")
                self._directories.setdefault(directory, mode)

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        with self._host.effect(f"files.write {path}"):
            self.put(path, content, mode)

    def remove(self, path: Path) -> None:
        if path in self._directories:
            raise BangerError(f"cannot remove {path}: Is a directory")
        with self._host.effect(f"files.remove {path}"):
            self._files.pop(path, None)

    def remove_tree(self, path: Path) -> None:
        with self._host.effect(f"files.remove_tree {path}"):
            for gone in [each for each in self._files if each.is_relative_to(path)]:
                del self._files[gone]
            for directory in [each for each in self._directories if each.is_relative_to(path)]:
                del self._directories[directory]

    def allocate(self, path: Path, size_bytes: int) -> None:
        with self._host.effect(f"files.allocate {path}"):
            file = self._files.get(path)
            if file is None:
                file = self.put(path, b"", 0o600)
            if isinstance(file.content, Tree):
                file.content.size_bytes = size_bytes
            else:
                file.content = file.content[:size_bytes]
                file.padding_bytes = size_bytes - len(file.content)
            self.touch(path)

    def clone(self, source: Path, destination: Path) -> Literal["reflink", "sparse"]:
        with self._host.effect(f"files.clone {destination}"):
            if source not in self._files:
                raise BangerError(f"cannot copy {source} to {destination}: No such file or directory")
            content = self._files[source].content
            copy = self.put(destination, content.copy() if isinstance(content, Tree) else content, 0o600)
            copy.padding_bytes = self._files[source].padding_bytes
        return "reflink" if self.reflinks else "sparse"

    def rename(self, source: Path, destination: Path) -> None:
        with self._host.effect(f"files.rename {source} {destination}"):
            self._require_parent(destination)
            if source not in self._files and source not in self._directories:
                raise BangerError(f"cannot rename {source} to {destination}: No such file or directory")
            for path in [each for each in self._files if each.is_relative_to(source)]:
                self._files[destination / path.relative_to(source)] = self._files.pop(path)
            for path in [each for each in self._directories if each.is_relative_to(source)]:
                self._directories[destination / path.relative_to(source)] = self._directories.pop(path)

    def link(self, target: Path, path: Path) -> None:
        with self._host.effect(f"files.link {path}"):
            self.put(path, b"").target = target

    def share(self, source: Path, path: Path, owner: int) -> None:
        with self._host.effect(f"files.share {path}"):
            self._require_parent(path)
            if path in self._files:
                raise BangerError(f"cannot make {path}, another name for {source}: File exists")
            if self._host.mapper.size_bytes(source) is not None:
                self.put(path, b"")
            elif source in self._files:
                self._files[path] = self._files[source]
            else:
                raise BangerError(f"cannot make {path}, another name for {source}: No such file or directory")
            self.owners[path] = owner

    def give(self, path: Path, owner: int) -> None:
        with self._host.effect(f"files.give {path}"):
            if self.status(path) is None:
                raise BangerError(f"cannot give {path} to the user {owner}: No such file or directory")
            self.owners[path] = owner

    def put(self, path: Path, content: bytes | Tree, mode: int = 0o600) -> File:
        """A new file in place of what was there; no effect is counted."""
        self._require_parent(path)
        if path in self._directories:
            raise BangerError(f"cannot write {path}: Is a directory")
        self._files[path] = File(content, next(self._count), next(self._count), mode)
        return self._files[path]

    def file(self, path: Path) -> File | None:
        """The inode at a path."""
        return self._files.get(path)

    def touch(self, path: Path) -> None:
        """The file, or what a device ends up in, was changed in place."""
        (self._host.mapper.file(path) or self._files[path]).mtime_ns = next(self._count)

    def tree(self, disk: Path) -> Tree:
        """The file system in a simulated disk. Raises DiskError where there is none."""
        file = self._host.mapper.file(disk) or self._files.get(disk)
        if file is None:
            raise DiskError(f"cannot use {disk}: No such file or directory")
        if file.store is not None and self._host.mapper.size_bytes(disk) is not None:
            if not file.store.valid:
                raise DiskError(f"cannot use {disk}: Input/output error")
            return file.store.tree
        if not isinstance(file.content, Tree):
            raise DiskError(f"cannot use {disk}: it is no ext4 file system")
        return file.content

    def _require_parent(self, path: Path) -> None:
        if path.parent not in self._directories:
            raise BangerError(f"cannot write {path}: No such file or directory")
