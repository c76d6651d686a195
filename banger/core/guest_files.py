"""The guest files of one disk, as a resource: written, compared, patched and taken back out.

It knows an ext4 file system and a prefix in it, nothing of how that disk came to be. Beside the disk lies a manifest
of what was written and of the disk file's own state just after, so that an unchanged disk costs a stat(2), and one
that a guest has used since is read again before the next boot (seed S9).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from banger import diskfile
from banger.core import access
from banger.errors import DiskError
from banger.host import Host, HostView, Inode, Node
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import HAS_GUEST_FILES, GuestDisk, GuestFile


@dataclass(frozen=True)
class GuestFiles(Resource):
    """`files` and `directories` have the guest's paths; `disk` says where on it those lie."""

    key: str
    needs: tuple[str, ...]
    disk: GuestDisk
    files: tuple[GuestFile, ...]
    directories: tuple[Node, ...]
    manifest: Path
    stage = "write_guest_files"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        known = self._known(host)
        if known is None or host.files.status(self._backing) is None:
            return Absent()
        wanted = self._digests()
        if changed := sorted(path for path in wanted | known["files"] if wanted.get(path) != known["files"].get(path)):
            return Drifted({}, tuple(changed))
        return Present(verified=known["disk"] == _fingerprint(host, self._backing))

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if any(needs.get(key, {}).get(HAS_GUEST_FILES) for key in self.needs):
            self._note(host)
            return {}
        return self.update(host, {}, stage)

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        """Read what is on the disk, write what differs, take out what is no longer wanted."""
        if host.files.status(self.disk.path) is None:
            raise DiskError(f"start flow out of order: {self.disk.path} is not there")
        known = self._known(host)
        diskfile.sweep(host, self.manifest.parent)
        host.ext4.recover(self.disk.path)
        disk = self.disk
        wanted = [self._moved(f) for f in self.files]
        wrong = host.ext4.differing(disk.path, wanted, prefix=disk.prefix, base=disk.base)
        gone = sorted(set(known["files"] if known else ()) - {f.path for f in self.files})
        restored, removed = self._without(host, gone)
        directories = self._wrong_directories(host)
        if wrong or restored or removed or directories:
            stage(f"writing {len(wrong) + len(restored)} files")
            host.ext4.patch(
                disk.path,
                [*wrong, *restored],
                removed,
                directories=directories,
                base=disk.base,
                prefix=disk.prefix,
            )
        self._note(host)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """The files go with their disk; only the manifest is ours to remove."""
        host.files.remove(self.manifest)

    def diff(self, host: HostView) -> Sequence[str]:
        """Against what is on the disk; before there is one, against what it will be made of."""
        known = self._known(host)
        gone = sorted(set(known["files"] if known else ()) - {f.path for f in self.files})
        paths = [*(f.path for f in self.files), *gone]
        try:
            there = self._there(host, paths)
        except DiskError as error:
            return (f"({self.disk.path} cannot be compared: {error})",)
        wanted = {f.path: f for f in self.files}
        hidden = known["no_log"] if known else ()
        return [line for p in paths for line in file_diff(p, there[p], wanted.get(p), no_log=p in hidden)]

    def _there(self, host: HostView, paths: Sequence[str]) -> dict[str, GuestFile | Inode | None]:
        """By the guest's paths; of what is too large to show, the inode.

        Raises DiskError for a disk that is not to be read just now.
        """
        disk = self.disk
        if host.files.status(disk.path):
            below = {path: self._below_mount(path) for path in paths}
            return self._shown(host, disk.path, below, prefix=disk.prefix, base=disk.base)
        if host.files.status(self._backing):
            raise DiskError("it is there only while the VM runs")
        if disk.base and host.files.status(disk.base):
            return self._shown(host, disk.base, {path: path for path in paths})
        return dict.fromkeys(paths)

    def _shown(
        self, host: HostView, disk: Path, where: Mapping[str, str], *, prefix: str = "", base: Path | None = None
    ) -> dict[str, GuestFile | Inode | None]:
        """What is on this disk, by the guest's paths; `where` on it each is."""
        most_bytes = dict.fromkeys(where, MOST_SHOWN_BYTES)
        most_bytes |= {f.path: max(len(f.content), MOST_SHOWN_BYTES) for f in self.files}  # what is wanted may be there
        inodes = host.ext4.lookup(disk, where.values(), prefix=prefix, base=base)
        large = {
            path: inode
            for path, moved in where.items()
            if (inode := inodes[moved]) and inode.type == "file" and inode.size_bytes > most_bytes[path]
        }
        read = [moved for path, moved in where.items() if path not in large]
        found = host.ext4.read(disk, read, prefix=prefix, base=base, most_bytes=sum(most_bytes.values()))
        return {path: large.get(path) or found[moved] for path, moved in where.items()}

    @property
    def _backing(self) -> Path:
        """The file that tells by its state whether anyone wrote to the disk."""
        return self.disk.backing or self.disk.path

    def _note(self, host: Host) -> None:
        """All is on the disk as wanted, and this is the state it was left in."""
        document: dict[str, Any] = {"files": self._digests(), "disk": _fingerprint(host, self._backing)}
        if no_log := [f.path for f in self.files if f.no_log]:
            document["no_log"] = no_log
        host.files.write(self.manifest, json.dumps(document, indent=1).encode())

    def _wrong_directories(self, host: HostView) -> list[Node]:
        if not self.directories:
            return []
        wanted = [replace(node, path=self._below_mount(node.path)) for node in self.directories]
        paths = [node.path for node in wanted]
        there = host.ext4.lookup(self.disk.path, paths, prefix=self.disk.prefix, base=self.disk.base)
        return [node for node in wanted if not _is_directory_as(node, there[node.path])]

    def _without(self, host: HostView, gone: list[str]) -> tuple[list[GuestFile], list[str]]:
        """What the image had at these paths, to be put back; and the paths where it had nothing."""
        if self.disk.base is None or self.disk.prefix:  # nothing beneath, or it shows through by itself
            return [], [self._below_mount(path) for path in gone]
        originals = host.ext4.read(self.disk.base, gone)
        return [f for f in originals.values() if f], [path for path in gone if originals[path] is None]

    def _digests(self) -> dict[str, str]:
        return {f.path: _digest(f) for f in self.files}

    def _known(self, host: HostView) -> dict[str, Any] | None:
        if host.files.status(self.manifest) is None:
            return None
        try:
            document = dict(json.loads(host.files.read(self.manifest)))
            no_log = list(document.get("no_log", ()))
            return {"files": dict(document["files"]), "disk": document["disk"], "no_log": no_log}
        except (ValueError, TypeError, KeyError, RecursionError):
            return None  # half of anything here only means: look at the disk again

    def _below_mount(self, path: str) -> str:
        """The guest's path as seen from this disk's root: `/root/.profile` is `/.profile` on the disk at /root."""
        return path.removeprefix(self.disk.mount_point.rstrip("/")) or "/"

    def _moved(self, f: GuestFile) -> GuestFile:
        return replace(f, path=self._below_mount(f.path))


FSTAB = "/etc/fstab"
MOST_SHOWN_BYTES = 2**18
"""Of a file that a guest has on its disk, in a diff."""


def file_diff(path: str, old: GuestFile | Inode | None, new: GuestFile | None, *, no_log: bool = False) -> list[str]:
    """One file's unified diff, with its mode and owner where those differ; nothing when it is the same.

    What others may not read in the guest is not shown here either, nor what is `no_log`, now or `old`. An `old` that
    is an inode is too large to have been read, and is another file.
    """
    if isinstance(old, Inode):
        return [
            f"--- a{path}",
            f"+++ {f'b{path}' if new else '/dev/null'}",
            f"(too large to show: {old.size_bytes} bytes)",
        ]
    if (old and _attributes(old)) == (new and _attributes(new)):
        return []
    lines = [f"--- {f'a{path}' if old else '/dev/null'}", f"+++ {f'b{path}' if new else '/dev/null'}"]
    before, after = (f"{f.mode:04o} {f.uid}:{f.gid}" if f else "" for f in (old, new))
    if old and new and before != after:
        lines.append(f"mode and owner {before} -> {after}")
    contents = [f.content if f else b"" for f in (old, new)]
    if no_log or any(f and (f.no_log or not f.mode & 0o077) for f in (old, new)):
        return [*lines, _hidden(contents[1])] if contents[0] != contents[1] else lines
    try:
        before, after = (content.decode() for content in contents)
    except UnicodeDecodeError:
        return [*lines, f"(not text: {len(contents[0])} -> {len(contents[1])} bytes)"]
    return [*lines, *islice(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm=""), 2, None)]


def _hidden(content: bytes) -> str:
    unmade = access.TO_BE_MADE.encode() in content.splitlines()
    return f"(not shown: it is private{'; the apply makes a key for it' if unmade else ''})"


def is_below(path: str, mount_point: str) -> bool:
    """Whether a guest path lies on what is mounted there."""
    return mount_point == "/" or path == mount_point or path.startswith(mount_point.rstrip("/") + "/")


def _is_directory_as(node: Node, inode: Inode | None) -> bool:
    wanted = ("directory", node.mode, node.uid, node.gid)
    return inode is not None and (inode.type, inode.mode, inode.uid, inode.gid) == wanted


def _attributes(f: GuestFile) -> tuple[bytes, int, int, int]:
    return f.content, f.mode, f.uid, f.gid


def _digest(f: GuestFile) -> str:
    return hashlib.sha256(b"%o %d %d " % (f.mode, f.uid, f.gid) + f.content).hexdigest()


def digest_of(files: Iterable[GuestFile]) -> dict[str, str]:
    """Path to digest of content, mode and owner."""
    return {f.path: _digest(f) for f in files}


def _fingerprint(host: HostView, disk: Path) -> list[int] | None:
    status = host.files.status(disk)
    return None if status is None else [status.inode, status.size_bytes, status.mtime_ns]
