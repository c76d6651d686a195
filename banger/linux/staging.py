"""A guest's root directory, staged on the host from a tar archive by anyone, root or not.

What an ordinary user cannot give a file (owners, setuid bits, device nodes, capabilities) is remembered while the
archive is read, to be set in the image that is made of it. An archive is not trusted: no entry can reach outside the
staging directory.
"""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from banger.errors import DiskError
from banger.host import MOST_READ_BYTES
from banger.scalars import MOST_LEVELS

__all__ = ["DROPPED", "LATEST_S", "Recorded", "StagedRoot", "read_archive", "staged_mode"]

DROPPED = (
    "boot/initrd.img*", "dev/*", "etc/ssh/ssh_host_*", "proc/*", "run/*", "sys/*", "tmp/*",
    "var/cache/apt/*", "var/lib/apt/lists/*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
)  # fmt: skip
"""What never goes into an image: another initrd, what a running system fills, and what must differ between guests."""

LATEST_S = 2.0**31 - 1
"""The latest time a file can have: mke2fs(8) copies 32 bits of it, which the kernel takes to be signed."""
_CAPABILITY = "SCHILY.xattr."
_KEPT_ATTRIBUTES = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_LINKS_AT_MOST = 40  # as the kernel's own path walk, path_resolution(7)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an inode of the image must have. `mode` includes the type bits; `device` is (major, minor)."""

    mode: int
    uid: int
    gid: int
    mtime_s: float = 0.0
    attributes: tuple[tuple[str, bytes], ...] = ()
    device: tuple[int, int] | None = None


@dataclass(slots=True)
class StagedRoot:
    """A guest's root directory on the host while an image is made of it. Use it with `with`: the end removes it.

    `records` has every inode by its path in the image (no leading slash; the root is ""). Regular files, directories
    and symlinks are there as files; other types only as records.
    """

    directory: Path
    records: dict[str, Recorded] = field(default_factory=dict)
    content_bytes: int = 0

    def __enter__(self) -> StagedRoot:
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o700)  # also without a setgid bit from its parent, which would give every file its group
        self.records[""] = Recorded(stat.S_IFDIR | 0o755, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=kind is not None)

    # --- looking ---

    def resolve(self, path: str) -> str:
        """The path with the symlinks in its *directories* followed as inside a chroot; no leading slash."""
        done: list[str] = []
        ahead = [part for part in path.split("/")[::-1] if part not in ("", ".")]
        links = 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = self.directory.joinpath(*done, part)
            if not ahead or not here.is_symlink():
                done.append(part)
                continue
            links += 1
            if links > _LINKS_AT_MOST:
                raise DiskError(f"too many symbolic links on the way to /{path.lstrip('/')} in the image")
            target = str(here.readlink())
            if target.startswith("/"):
                done = []
            ahead += [step for step in target.split("/")[::-1] if step not in ("", ".")]
        return "/".join(done)

    def read(self, path: str, most_bytes: int = MOST_READ_BYTES) -> bytes | None:
        """A regular file's content, symlinks followed inside the image; None where there is none.

        Raises DiskError for one that has more than `most_bytes`.
        """
        for _ in range(_LINKS_AT_MOST):
            resolved = self.resolve(path)
            here = self.directory / resolved
            if not here.is_symlink():
                return _content(here, f"/{resolved}", most_bytes) if here.is_file() else None
            path = posixpath.join(posixpath.dirname(resolved), str(here.readlink()))
        return None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none when it is not there."""
        here = self.directory / self.resolve(path)
        return sorted(entry.name for entry in here.iterdir()) if here.is_dir() and not here.is_symlink() else []

    # --- filling ---

    def write(self, path: str, content: bytes, mode: int = 0o644, mtime_s: float = 0.0) -> None:
        """Put a regular file of root's into the image; missing parents are made 0755 root:root."""
        name = self._make_way(path, stat.S_IFREG)
        (self.directory / name).write_bytes(content)
        self._record(name, Recorded(stat.S_IFREG | mode, 0, 0, mtime_s))

    def symlink(self, path: str, target: str) -> None:
        """Put a symbolic link of root's into the image; missing parents are made 0755 root:root."""
        name = self._make_way(path, stat.S_IFLNK)
        (self.directory / name).symlink_to(target)
        self._record(name, Recorded(stat.S_IFLNK | 0o777, 0, 0))

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Put one entry of an archive in. Raises DiskError for an entry that would reach out of the image."""
        name = _checked_name(member.name)
        if any(fnmatchcase(name, pattern) for pattern in DROPPED):
            return
        recorded = _recorded(member)
        name = self._make_way(name, stat.S_IFMT(recorded.mode)) if name else ""
        here = self.directory / name
        if member.islnk():
            self._link(here, member)
            return
        if member.isdir():
            here.mkdir(exist_ok=True)
        elif member.issym():
            here.symlink_to(member.linkname)
        elif member.isreg():
            free_bytes = shutil.disk_usage(self.directory).free
            if member.size > free_bytes:  # a sparse one may claim any size, and is written out whole
                raise DiskError(f"the archive's {member.name} has {member.size} bytes, and {free_bytes} are free")
            source = archive.extractfile(member)
            with here.open("xb") as destination:
                if source is not None:
                    shutil.copyfileobj(source, destination, 1 << 20)
            self.content_bytes += -(-member.size // 4096) * 4096
        self._record(name, recorded)

    def _link(self, here: Path, member: tarfile.TarInfo) -> None:
        target = self.directory / self.resolve(_checked_name(member.linkname))
        if target.is_symlink() or not target.is_file():
            raise DiskError(f"the archive's {member.name} is a hard link to {member.linkname}, which is no file in it")
        os.link(target, here)

    def _make_way(self, path: str, kind: int) -> str:
        """Where an entry goes: its parents made, what is in its place removed."""
        name = self.resolve(path)
        if name.count("/") > MOST_LEVELS:
            raise DiskError(f"/{name[:80]}… cannot be in the image: it lies more than {MOST_LEVELS} directories deep")
        parent = self.directory / name
        missing = []
        while not os.path.lexists(parent := parent.parent):
            missing.append(parent)
        if not parent.is_dir():
            raise DiskError(f"/{path} cannot be in the image: /{parent.relative_to(self.directory)} is no directory")
        for directory in reversed(missing):
            directory.mkdir()
            self._record(str(directory.relative_to(self.directory)), Recorded(stat.S_IFDIR | 0o755, 0, 0))
        here = self.directory / name
        if here.is_symlink() or here.is_file():
            here.unlink()
        elif here.is_dir() and kind != stat.S_IFDIR:
            raise DiskError(f"the archive has /{name} as a directory and as something else")
        self.records.pop(name, None)
        return name

    def _record(self, name: str, recorded: Recorded) -> None:
        self.records[name] = recorded
        here = self.directory / name
        if stat.S_ISREG(recorded.mode) or stat.S_ISDIR(recorded.mode):
            here.chmod(staged_mode(recorded.mode))
        if stat.S_ISREG(recorded.mode) or stat.S_ISLNK(recorded.mode):
            os.utime(here, (recorded.mtime_s, recorded.mtime_s), follow_symlinks=False)

    def settle(self) -> None:
        """Give the directories their times, which filling them has changed. The last thing before making an image."""
        for name, recorded in self.records.items():
            if stat.S_ISDIR(recorded.mode):
                os.utime(self.directory / name, (recorded.mtime_s, recorded.mtime_s))


def _content(file: Path, name: str, most_bytes: int) -> bytes:
    if (size_bytes := file.stat().st_size) > most_bytes:
        raise DiskError(f"{name} in the image has {size_bytes} bytes, and at most {most_bytes} are read at once")
    return file.read_bytes()


def staged_mode(mode: int) -> int:
    """The permission bits a file has while staged: no setuid, and always open to its owner, who must read it."""
    return mode & 0o777 | (0o700 if stat.S_ISDIR(mode) else 0o600)


def read_archive(stream: IO[bytes], root: StagedRoot, progress: Callable[[int], None] | None = None) -> None:
    """Fill `root` from a tar archive (also gzip, bzip2, xz), read once from front to back.

    `progress` is told the bytes of content so far. Raises DiskError when the archive is broken or hostile.
    """
    try:
        plain = _checked(stream)
        with tarfile.open(fileobj=plain, mode="r|*", errorlevel=2, errors="surrogateescape") as archive:
            for member in archive:
                root.add(archive, member)
                if progress is not None:
                    progress(root.content_bytes)
        while plain.read(1 << 20):
            pass  # to where the checksum stands
    except (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise DiskError(f"the archive cannot be read: {error}") from error
    except OSError as error:
        raise DiskError(f"cannot unpack the archive into {root.directory}: {error}") from error
    if len(root.records) < 2:
        raise DiskError("the archive is empty")


def _checked(stream: IO[bytes]) -> IO[bytes]:
    """The same bytes, out of gzip by gzip's own reader: tarfile's, for streams, never looks at the checksum."""
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))
    if buffered.peek(2)[:2] != b"\x1f\x8b":
        return buffered
    return cast(IO[bytes], gzip.GzipFile(fileobj=buffered))


def _checked_name(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise DiskError(
            f"the archive has an entry named {name!r}, which would lie outside the image",
            hint="make the archive with: tar -C ROOT --numeric-owner --xattrs -cf FILE .",
        )
    return "/".join(parts)


def _recorded(member: tarfile.TarInfo) -> Recorded:
    types = (
        (member.isreg() or member.islnk(), stat.S_IFREG), (member.isdir(), stat.S_IFDIR),
        (member.issym(), stat.S_IFLNK), (member.ischr(), stat.S_IFCHR), (member.isblk(), stat.S_IFBLK),
        (member.isfifo(), stat.S_IFIFO),
    )  # fmt: skip
    kind = next((kind for matches, kind in types if matches), None)
    if kind is None:
        raise DiskError(f"the archive's {member.name} is of a type that a root file system cannot hold")
    attributes = tuple(
        (name, str(member.pax_headers[_CAPABILITY + name]).encode("utf-8", "surrogateescape"))
        for name in _KEPT_ATTRIBUTES
        if _CAPABILITY + name in member.pax_headers
    )
    device = (member.devmajor, member.devminor) if member.ischr() or member.isblk() else None
    return Recorded(kind | member.mode & 0o7777, member.uid, member.gid, _mtime_s(member), attributes, device)


def _mtime_s(member: tarfile.TarInfo) -> float:
    return min(max(float(member.mtime), 0.0), LATEST_S)
