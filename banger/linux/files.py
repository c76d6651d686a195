"""Host files: `banger.host.Files` on the real file system. Known failures become errors with a place and a cure."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from banger.errors import BangerError, HostError
from banger.host import FileStatus
from banger.linux import copying
from banger.linux.publish import publishing, sync

_CURES = {
    errno.ENOSPC: "make room on that file system",
    errno.EDQUOT: "make room in your quota on that file system",
    errno.EACCES: "run as the user who owns it, or choose another directory with BANGER_HOME",
    errno.EPERM: "run as the user who owns it, or choose another directory with BANGER_HOME",
    errno.EXDEV: "keep the VMs and what they are made of on one file system",
    errno.EISDIR: "a file belongs there: move that directory away",
    errno.ENOTDIR: "a directory belongs there: move that file away",
    errno.ENOTEMPTY: "move what is in it away",
    errno.ENOENT: "if a symbolic link is in the way, or what it leads to is gone, remove the link",
    errno.ELOOP: "a symbolic link leads to itself: remove it",
    errno.EROFS: "choose a directory on a writable file system with BANGER_HOME",
}
_MOUNT_OPTIONS = {"nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC}


class LinuxFiles:
    """See `banger.host.Files`. Raises BangerError with the path and the system's reason."""

    def status(self, path: Path) -> FileStatus | None:
        """What is at `path`; a symbolic link is not followed. None when nothing is there."""
        with _explained(f"look at {path}"):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return FileStatus(
            found.st_size, found.st_blocks * 512, found.st_mtime_ns, found.st_ino, stat.S_ISDIR(found.st_mode)
        )

    def read(self, path: Path) -> bytes:
        with _explained(f"read {path}"):
            return path.read_bytes()

    def writable(self, path: Path) -> bool:
        """Whether we may read and write what is there (access(2))."""
        return os.access(path, os.R_OK | os.W_OK)

    def list(self, directory: Path) -> list[Path]:
        """What is in it, sorted; empty when the directory is not there."""
        with _explained(f"list {directory}"):
            try:
                return sorted(directory.iterdir())
            except FileNotFoundError:
                return []

    def free_bytes(self, path: Path) -> int:
        """How much we may still write to the file system that this is on, or will be once it is made; statvfs(3)."""
        there = next(each for each in (path, *path.parents) if each.exists())
        with _explained(f"look at {there}"):
            found = os.statvfs(there)
        return (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize

    def mount_options(self, path: Path) -> set[str]:
        """Which of `nodev` and `noexec` its file system has, statvfs(3)."""
        with _explained(f"look at {path}"):
            flags = os.statvfs(path).f_flag
        return {option for option, flag in _MOUNT_OPTIONS.items() if flags & flag}

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """With its parents, all of this mode; existing ones are kept as they are."""
        with _explained(f"make the directory {path}"):
            missing = [parent for parent in (path, *path.parents) if not parent.is_dir()]
            for directory in reversed(missing):
                with contextlib.suppress(FileExistsError):  # made by another meanwhile; a file there fails below
                    directory.mkdir(mode)
                    directory.chmod(mode)
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        """Whole or not at all: temporary file, fsync, rename, directory fsync."""
        with _explained(f"write {path}"), publishing(path, mode) as temporary:
            temporary.write_bytes(content)

    def remove(self, path: Path) -> None:
        """A file, link or socket; already gone is success."""
        with _explained(f"remove {path}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def remove_tree(self, path: Path) -> None:
        """A directory and all in it; already gone is success; symbolic links are not followed."""
        with _explained(f"remove {path}"):
            if path.is_symlink():
                path.unlink()
                return
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                shutil.rmtree(path)

    def allocate(self, path: Path, size_bytes: int) -> None:
        """A new sparse file of this size (mode 0600); an existing longer or shorter one is set to it."""
        with _explained(f"make {path}"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync(path.parent)

    def clone(self, source: Path, destination: Path) -> Literal["reflink", "sparse"]:
        """Copy a file: share its extents where the file system can, else copy data and keep holes."""
        with _explained(f"copy {source} to {destination}"):
            return copying.clone(source, destination)

    def rename(self, source: Path, destination: Path) -> None:
        """Replaces the destination in one step and makes it durable."""
        with _explained(f"rename {source} to {destination}"):
            source.replace(destination)
            sync(destination.parent)

    def link(self, target: Path, path: Path) -> None:
        """Make a symbolic link to `target` at `path`, in place of one that is there."""
        with _explained(f"link {path} to {target}"):
            if path.is_symlink():
                path.unlink()
            path.symlink_to(target)

    def share(self, source: Path, path: Path, owner: int) -> None:
        """Make a second name for a file (link(2)) or a block device (mknod(2)), and make it `owner`'s."""
        with _by_root(f"make {path}, another name for {source}"):
            found = source.stat()
            if stat.S_ISBLK(found.st_mode):
                os.mknod(path, stat.S_IFBLK | 0o600, found.st_rdev)
            else:
                path.hardlink_to(source.resolve())
            os.chown(path, owner, owner)

    def give(self, path: Path, owner: int) -> None:
        """Make a file or directory belong to this user id and the group of the same number."""
        with _by_root(f"give {path} to the user {owner}"):
            os.chown(path, owner, owner, follow_symlinks=False)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BangerError(f"cannot {what}: {error.strerror}", hint=_CURES.get(error.errno or 0)) from error


@contextlib.contextmanager
def _by_root(what: str) -> Iterator[None]:
    """Of what only root may do: HostError for whoever may not."""
    with _explained(what):
        try:
            yield
        except PermissionError as error:
            raise HostError(f"cannot {what}: {error.strerror}", hint="run as root") from error
