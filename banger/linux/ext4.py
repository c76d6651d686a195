"""ext4 images and devices without mounting them and without privilege: `banger.host.Ext4` by e2fsprogs.

The host's kernel never parses a file system that a guest could have written. Each operation has its own file; this
one looks, and does what one program does by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from banger.errors import CommandError, DiskError
from banger.host import MOST_READ_BYTES, Inode, Node
from banger.linux import blockdevice, debugfs, disklock, ext4_flatten, ext4_make, ext4_patch, ext4_view, fsck
from banger.linux.ext4_view import DiskView
from banger.linux.guest_paths import follow
from banger.linux.run import run
from banger.types import GuestFile

_RESIZE_TIMEOUT_S = 3600.0
_SETTLED_NS = 2 * 10**9
"""What was changed this shortly ago may change again within one tick of the file system's clock."""
_Identity = tuple[int, int, int, int]


class LinuxExt4:
    """See `banger.host.Ext4`. Raises DiskError with the disk and the step that failed, Busy for a disk in use."""

    def __init__(self) -> None:
        self._settled: dict[Path, tuple[_Identity, DiskView]] = {}

    def lookup(
        self, disk: Path, paths: Iterable[str], *, prefix: str = "", base: Path | None = None
    ) -> dict[str, Inode | None]:
        """Each path's own inode on `disk`; symlinks in its directories are followed."""
        with _failing("look into", disk):
            found = _located(self._view(disk, prefix, base), paths)
            return {path: status.inode if status else None for path, status in found.items()}

    def read(
        self,
        disk: Path,
        paths: Iterable[str],
        *,
        prefix: str = "",
        base: Path | None = None,
        most_bytes: int = MOST_READ_BYTES,
    ) -> dict[str, GuestFile | None]:
        """Each regular file whole, with mode and owner; None where there is no regular file."""
        with _failing("read", disk):
            found = _located(DiskView(disk, prefix, base), paths)
            files = {path: status for path, status in found.items() if status and status.inode.type == "file"}
            ext4_view.refuse_too_much(disk, {path: status.inode for path, status in files.items()}, most_bytes)
            contents = dict(zip(files, debugfs.contents(disk, list(files.values())), strict=True))
        return {path: _guest_file(path, files[path], contents[path]) if path in files else None for path in found}

    def differing(
        self, disk: Path, files: Sequence[GuestFile], *, prefix: str = "", base: Path | None = None
    ) -> list[GuestFile]:
        """Those of these files that are not there so; what has another size is not read."""
        with _failing("read", disk):
            found = _located(DiskView(disk, prefix, base), [file.path for file in files])
            alike = {f.path: status for f in files if (status := found[f.path]) and ext4_view.may_be(f, status.inode)}
            contents = dict(zip(alike, debugfs.contents(disk, list(alike.values())), strict=True))
        return [file for file in files if contents.get(file.path) != file.content]

    def resolve(self, disk: Path, path: str) -> str:
        """The path with every symlink in its directories followed inside the image."""
        with _failing("look into", disk):
            return follow([path], self._view(disk).look)[path]

    def _view(self, disk: Path, prefix: str = "", base: Path | None = None) -> DiskView:
        """Where one looks. Into a file that nobody writes, an image, all VMs of a run look at the same paths."""
        identity = None if prefix or base else _identity(disk)
        if identity is None:
            return DiskView(disk, prefix, base)
        known = self._settled.get(disk)
        if known is None or known[0] != identity:
            known = self._settled[disk] = identity, DiskView(disk)
        return known[1]

    def make(
        self, path: Path, size_bytes: int, nodes: Sequence[Node] = (), *, label: str = "", uuid: str | None = None
    ) -> None:
        """A new sparse image (0600) with `nodes` in it, whole or not at all."""
        with _failing("make", path):
            ext4_make.make(path, size_bytes, nodes, label=label, uuid=uuid)

    def recover(self, disk: Path, *, thoroughly: bool = False) -> None:
        """Replay the journal of a file system whose guest was stopped hard. Busy when it is in use."""
        with _failing("check", disk), disklock.held(disk):
            fsck.preen(disk, force=thoroughly)

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
        """Replace or make files and directories and remove other files, in one run, then prove the image clean."""
        with _failing("write into", disk), disklock.held(disk):
            fsck.preen(disk)
            ext4_patch.patch(DiskView(disk, prefix, base), writes, removals, directories)
            fsck.verify(disk, "writing guest files")

    def grow(self, path: Path, size_bytes: int, *, interrupted: bool = False) -> None:
        """See `banger.host.Ext4`. What a resize2fs(8) that was killed leaves is beyond `e2fsck -p`."""
        with _failing("enlarge", path), disklock.held(path):
            device, now_bytes = blockdevice.is_device(path), blockdevice.size_bytes(path)
            if size_bytes < now_bytes:
                raise DiskError(f"{path} has {now_bytes} bytes and cannot be made smaller ({size_bytes} bytes asked)")
            if device and size_bytes != now_bytes:
                raise DiskError(
                    f"{path} is a device of {now_bytes} bytes and cannot be made larger ({size_bytes} asked)"
                )
            if interrupted:
                fsck.mend(path)
            fsck.preen(path, force=True)
            if not device:
                os.truncate(path, size_bytes)
            run(["resize2fs", path], timeout_s=_RESIZE_TIMEOUT_S)
            fsck.verify(path, "enlarging it")

    def set_identity(self, disk: Path, *, label: str, uuid: str) -> None:
        """Give an existing file system its label and UUID."""
        with _failing("label", disk), disklock.held(disk):
            fsck.preen(disk, force=True)  # tune2fs(8) changes a UUID only in a freshly checked file system
            run(["tune2fs", "-L", label, "-U", uuid, disk], timeout_s=_RESIZE_TIMEOUT_S)
            fsck.verify(disk, "labelling it")

    def flatten(self, disk: Path, directory: str) -> int:
        """Move everything in top-level `directory` up to the root and remove it; how many entries moved."""
        with _failing("flatten", disk), disklock.held(disk):
            fsck.preen(disk)
            return ext4_flatten.flatten(disk, directory)

    def copy_tree(
        self, source: Path, directory: str, destination: Path, size_bytes: int, *, label: str, uuid: str
    ) -> None:
        """A new image at `destination` whose root is `directory` of `source`: contents, modes and owners."""
        with _failing("make", destination):
            ext4_make.copy_tree(source, directory, destination, size_bytes, label=label, uuid=uuid)


def _identity(disk: Path) -> _Identity | None:
    """Which file it is, as long as it is the same; None for what may be written to without that being seen."""
    found = disk.stat()
    changed_ns = max(found.st_mtime_ns, found.st_ctime_ns)
    if not stat.S_ISREG(found.st_mode) or time.time_ns() - changed_ns < _SETTLED_NS:
        return None
    return found.st_dev, found.st_ino, found.st_size, changed_ns


@contextlib.contextmanager
def _failing(step: str, disk: Path) -> Iterator[None]:
    """A failed program or system call on the way is a DiskError that says what was being done, to which disk."""
    try:
        yield
    except CommandError as error:
        raise DiskError(f"cannot {step} {disk}: {error}", hint=_cure(error, disk)) from error
    except DiskError as error:
        error.hint = error.hint or _cure(error, disk)
        raise
    except OSError as error:
        about = f" ({error.filename})" if error.filename and str(error.filename) != str(disk) else ""
        raise DiskError(f"cannot {step} {disk}: {error.strerror}{about}", hint=_cure(error, disk)) from error


def _cure(error: Exception, disk: Path) -> str | None:
    return f"make room: df -h {disk.parent}" if os.strerror(errno.ENOSPC) in str(error) else None


def _located(view: DiskView, paths: Iterable[str]) -> dict[str, debugfs.Status | None]:
    wanted = list(dict.fromkeys(paths))
    view.look(wanted)
    real = follow(wanted, view.look)
    view.look(real.values())
    return {path: view.on_disk(real[path]) for path in wanted}


def _guest_file(path: str, status: debugfs.Status, content: bytes) -> GuestFile:
    return GuestFile(path, content, status.inode.mode, status.inode.uid, status.inode.gid)
