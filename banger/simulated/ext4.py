"""Operations on ext4 images that are trees in memory. A part of `banger.testing`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from banger.errors import BangerError, Busy, DiskError
from banger.host import MOST_READ_BYTES, Inode, Node
from banger.linux.ext4_view import may_be, refuse_too_much
from banger.linux.guest_paths import follow
from banger.simulated.tree import Tree, View
from banger.types import GuestFile

if TYPE_CHECKING:
    from banger.testing import SimulatedHost


class SimulatedExt4:
    """`banger.host.Ext4` in memory. `busy`: disks that something holds. A live process's disks are held by it."""

    def __init__(self, host: SimulatedHost) -> None:
        self.busy: set[Path] = set()
        self._host = host
        self._files = host.files

    def lookup(
        self, disk: Path, paths: Iterable[str], *, prefix: str = "", base: Path | None = None
    ) -> dict[str, Inode | None]:
        found = self._view(disk, prefix, base).located(paths)
        return {path: entry.inode if entry else None for path, entry in found.items()}

    def read(
        self,
        disk: Path,
        paths: Iterable[str],
        *,
        prefix: str = "",
        base: Path | None = None,
        most_bytes: int = MOST_READ_BYTES,
    ) -> dict[str, GuestFile | None]:
        found = self._view(disk, prefix, base).located(paths)
        refuse_too_much(disk, {path: e.inode for path, e in found.items() if e and e.type == "file"}, most_bytes)
        return {
            path: GuestFile(path, entry.content, entry.mode, entry.uid, entry.gid)
            if entry is not None and entry.type == "file"
            else None
            for path, entry in found.items()
        }

    def differing(
        self, disk: Path, files: Sequence[GuestFile], *, prefix: str = "", base: Path | None = None
    ) -> list[GuestFile]:
        found = self._view(disk, prefix, base).located([file.path for file in files])
        same = {f.path for f in files if (e := found[f.path]) and may_be(f, e.inode) and e.content == f.content}
        return [file for file in files if file.path not in same]

    def resolve(self, disk: Path, path: str) -> str:
        return follow([path], self._view(disk).look)[path]

    def make(
        self, path: Path, size_bytes: int, nodes: Sequence[Node] = (), *, label: str = "", uuid: str | None = None
    ) -> None:
        with self._host.effect(f"ext4.make {path}"):
            tree = Tree(size_bytes, label, uuid)
            tree.fill(nodes)
            self._publish(path, tree)

    def recover(self, disk: Path, *, thoroughly: bool = False) -> None:
        self._refuse_busy(disk)
        with self._host.effect(f"ext4.recover {disk}"):
            self._files.tree(disk)

    def patch(
        self,
        disk: Path,
        writes: Sequence[GuestFile],
        removals: Sequence[str] = (),
        *,
        directories: Sequence[Node] = (),
        base: Path | None = None,
        prefix: str = "",
    ) -> None:
        self._refuse_busy(disk)
        with self._host.effect(f"ext4.patch {disk}"):
            view = self._view(disk, prefix, base)
            changed = view.tree.copy()
            View(changed, prefix, view.base).patch(writes, removals, directories)
            self._host.mapper.take_room(disk, changed)
            view.tree.entries = changed.entries
            self._files.touch(disk)

    def grow(self, path: Path, size_bytes: int, *, interrupted: bool = False) -> None:
        self._refuse_busy(path)
        with self._host.effect(f"ext4.grow {path}"):
            tree = self._files.tree(path)
            if size_bytes < tree.size_bytes:
                raise DiskError(f"{path} has {tree.size_bytes} bytes and cannot be made smaller ({size_bytes} asked)")
            if self._host.mapper.size_bytes(path) not in (None, size_bytes):
                raise DiskError(f"{path} is a device and cannot be made another size ({size_bytes} asked)")
            tree.size_bytes = size_bytes
            self._files.touch(path)

    def set_identity(self, disk: Path, *, label: str, uuid: str) -> None:
        self._refuse_busy(disk)
        with self._host.effect(f"ext4.set_identity {disk}"):
            tree = self._files.tree(disk)
            tree.label, tree.uuid = label, uuid
            self._files.touch(disk)

    def flatten(self, disk: Path, directory: str) -> int:
        self._refuse_busy(disk)
        with self._host.effect(f"ext4.flatten {disk}"):
            tree = self._files.tree(disk).copy()
            count = tree.flatten(directory)
            self._files.put(disk, tree)
        return count

    def copy_tree(
        self, source: Path, directory: str, destination: Path, size_bytes: int, *, label: str, uuid: str
    ) -> None:
        with self._host.effect(f"ext4.copy_tree {destination}"):
            view = self._view(source)
            real = follow([directory], view.look, final=True)[directory]
            top = view.tree.entries.get(real)
            if top is None or top.type != "directory":
                raise DiskError(f"{directory} of {source} is not a directory")
            tree = Tree(size_bytes, label, uuid, {"/": top, **view.tree.subtree(real)})
            tree.check_room()
            self._publish(destination, tree)

    def tree(self, disk: Path) -> Tree:
        """All that is in a disk, for tests."""
        return self._files.tree(disk)

    def _view(self, disk: Path, prefix: str = "", base: Path | None = None) -> View:
        return View(self._files.tree(disk), prefix, self._files.tree(base) if base else None)

    def _publish(self, path: Path, tree: Tree) -> None:
        try:
            self._files.put(path, tree)
        except BangerError as error:
            raise DiskError(error.message) from error

    def _refuse_busy(self, disk: Path) -> None:
        if disk in self.busy or self._host.processes.uses(disk) or self._host.mapper.is_open(disk):
            raise Busy(f"{disk} is in use")
