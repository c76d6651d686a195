"""debugfs(8), one run for many commands, with every complaint tied to the command that caused it.

debugfs exits 0 whatever fails. But it echoes each command (`debugfs: <command>`) and does not buffer, so with both
streams in one, what stands between two echoes is what the first command said. A line longer than its 8 KiB buffer
crashes it with the image open for writing, and a newline cannot be expressed: both are refused here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from banger.errors import DiskError
from banger.host import Inode, NodeType
from banger.linux import blockdevice
from banger.linux.run import run, tail
from banger.linux.unnamed import AT_ONCE, path_of, unnamed_files

_LINE_BYTES = 4000
_LINK_BYTES = 4096
"""PATH_MAX, with its NUL: more is in no symlink(7)."""
_TIMEOUT_S = 600.0
_ECHO = b"debugfs: "
_CONTROL = re.compile(r"[\0\n\r]")
_CLOSE = "close_filesys"
"""Writes out what is cached, and tells when that fails; left to the end of the run, it would be told nowhere."""
_SILENT = re.compile(rb"(Allocated inode: \d+)?\s*")
"""What a changing command says when all went well."""

_TYPES: dict[bytes, NodeType] = {
    b"regular": "file",
    b"directory": "directory",
    b"symlink": "symlink",
    b"character special": "character",
    b"block special": "block",
    b"FIFO": "fifo",
    b"socket": "socket",
}
_TYPES_BY_FORMAT: dict[int, NodeType] = {
    0o100000: "file",
    0o040000: "directory",
    0o120000: "symlink",
    0o020000: "character",
    0o060000: "block",
    0o010000: "fifo",
    0o140000: "socket",
}
FORMATS: dict[NodeType, int] = {node_type: bits for bits, node_type in _TYPES_BY_FORMAT.items()}
"""The file type bits of a mode (inode(7)), which `set_inode_field` overwrites with the rest."""

_STAT = re.compile(
    rb"Inode: (?P<number>\d+) +Type: (?P<type>.+?) +Mode: +(?P<mode>[0-7]+) .*?"
    rb"\nUser: +(?P<uid>-?\d+) +Group: +(?P<gid>-?\d+) .*?Size: (?P<size>\d+)\n.*?"
    rb"\nLinks: (?P<links>\d+) +Blockcount: (?P<blocks>\d+)\n",
    re.DOTALL,
)
_NOTHING_THERE = (b"File not found", b"not a directory", b"Too many symbolic links")
_DEVICE = re.compile(rb"\n(?:\(New-style\) )?Device major/minor number: (\d+):(\d+) ")
_FAST_LINK = re.compile(rb'\nFast link dest: "(.*)"\s*\Z', re.DOTALL)
_ENTRY = re.compile(rb"/(\d+)/(\d{6})/(-?\d+)/(-?\d+)/([^/]*)/(\d*)/(?:\n|\Z)")


@dataclass(frozen=True, slots=True)
class Status:
    """An inode with its number in the image, its count of names, the space it takes, and a device's numbers."""

    number: int
    inode: Inode
    links: int
    allocated_bytes: int
    device: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory, as `ls -p` tells it. `inode` has no symlink text."""

    number: int
    name: str
    inode: Inode


def quote(text: str) -> str:
    """A path or name as one debugfs argument. Raises DiskError for what debugfs has no way to say."""
    if _CONTROL.search(text):
        raise DiskError(f"debugfs cannot express the name {text!r}: it holds a line break or a NUL")
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def look(disk: Path, commands: Sequence[str], inherit: Sequence[int] = ()) -> list[bytes]:
    """Run commands that change nothing; what each of them said, complaints included."""
    return _run(disk, commands, inherit, writing=False)


def change(disk: Path, commands: Sequence[str], checks: Sequence[str] = (), inherit: Sequence[int] = ()) -> list[bytes]:
    """Run commands that change the image, then looking ones; what the latter said.

    `inherit` are the descriptors of unnamed files that the commands read.
    Raises DiskError with each command that complained and what it said. debugfs goes on after a failure, so the
    image may then be half changed.
    """
    if not commands:
        return look(disk, checks)
    *said, closing = _run(disk, [*commands, *checks, _CLOSE], inherit, writing=True)
    told = [*zip(commands, said, strict=False), (_CLOSE, closing)]
    bad = [(command, text) for command, text in told if not _SILENT.fullmatch(text)]
    if bad:
        listed = "; ".join(f"`{command}`: {_text(text)}" for command, text in bad[:5])
        raise DiskError(f"cannot change {disk}: {listed}")
    return said[len(commands) :]


def _run(disk: Path, commands: Sequence[str], inherit: Sequence[int], *, writing: bool) -> list[bytes]:
    if not commands:
        return []
    lines = [os.fsencode(command) for command in commands]
    if too_long := next((command for command in lines if len(command) > _LINE_BYTES), None):
        raise DiskError(f"debugfs cannot take a line of {len(too_long)} bytes: {_text(too_long[:80])}…")
    argv: list[str | Path] = ["debugfs", *(["-w"] if writing else []), "-f", "-", disk]
    done = run(
        argv,
        input=b"\n".join(lines) + b"\n",
        timeout_s=_TIMEOUT_S,
        env={"DEBUGFS_PAGER": "__none__"},
        accept=None,
        merge=True,
        inherit=inherit,
    )
    preamble, said = _attribute(done.stdout, lines)
    if done.returncode != 0 or len(said) != len(lines) or preamble:
        reason = tail(_text(preamble or done.stdout), 5)
        raise DiskError(
            f"debugfs could not use {disk} (status {done.returncode}, {len(said)} of {len(lines)} commands): {reason}",
            hint=f"look at it: e2fsck -fn {disk}",
        )
    return said


def _attribute(output: bytes, lines: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """What came before the first echo but the version, and what followed the echo of each command."""
    preamble: list[bytes] = []
    said: list[list[bytes]] = []
    for line in output.split(b"\n"):
        if len(said) < len(lines) and line == _ECHO + lines[len(said)]:
            said.append([])
        elif said:
            said[-1].append(line)
        elif line.strip() and not line.startswith(b"debugfs 1."):
            preamble.append(line)
    return b"\n".join(preamble), [b"\n".join(part) for part in said]


def _id(said: bytes) -> int:
    """debugfs prints owners above 2^31 as negative numbers."""
    return int(said) & 0xFFFFFFFF


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace").strip()


# --- what they say -----------------------------------------------------------------------------------------------


def statuses(disk: Path, paths: Iterable[str]) -> dict[str, Status | None]:
    """The inode at each path, a final symlink not followed; None where there is nothing.

    One run, and a second one only when some symlink's text (60 bytes or more) is not in its inode.
    """
    wanted = list(dict.fromkeys(paths))
    said = look(disk, [f"stat {quote(path)}" for path in wanted])
    found = {path: parse_status(text, disk, path) for path, text in zip(wanted, said, strict=True)}
    return _with_long_links(disk, found)


def parse_status(said: bytes, disk: Path, path: str) -> Status | None:
    """What `stat` said of one path. Raises DiskError for anything but an inode or "not found"."""
    match = _STAT.match(said)
    if match is None:
        if any(reason in said for reason in _NOTHING_THERE):
            return None
        raise DiskError(f"cannot look at {path} in {disk}: {_text(said)}", hint=f"look at it: e2fsck -fn {disk}")
    node_type = _TYPES.get(match["type"])
    if node_type is None:
        raise DiskError(f"{path} in {disk} is of no known type", hint=f"mend it: e2fsck -f {disk}")
    device = _DEVICE.search(said)
    link = _FAST_LINK.search(said) if node_type == "symlink" else None
    inode = Inode(
        node_type,
        int(match["mode"], 8) & 0o7777,
        _id(match["uid"]),
        _id(match["gid"]),
        int(match["size"]),
        os.fsdecode(link[1]) if link else None,
    )
    numbers = (int(device[1]), int(device[2])) if device else None
    return Status(int(match["number"]), inode, int(match["links"]), int(match["blocks"]) * 512, numbers)


def _with_long_links(disk: Path, found: dict[str, Status | None]) -> dict[str, Status | None]:
    long = {
        path: status
        for path, status in found.items()
        if status is not None and status.inode.type == "symlink" and status.inode.target is None
    }
    if not long:
        return found
    for path, status in long.items():
        if status.inode.size_bytes > _LINK_BYTES:
            raise DiskError(
                f"the symlink {path} in {disk} has {status.inode.size_bytes} bytes", hint=f"e2fsck -f {disk}"
            )
    for (path, status), text in zip(long.items(), contents(disk, list(long.values())), strict=True):
        found[path] = replace(status, inode=replace(status.inode, target=os.fsdecode(text)))
    return found


def listings(disk: Path, directories: Sequence[int]) -> dict[int, list[Entry]]:
    """What is in each directory, by inode number, without `.` and `..`, sorted by name."""
    said = look(disk, [f"ls -p <{number}>" for number in directories])
    return {number: _entries(text, disk, number) for number, text in zip(directories, said, strict=True)}


def _entries(said: bytes, disk: Path, directory: int) -> list[Entry]:
    entries, end = [], 0
    for match in _ENTRY.finditer(said):
        if said[end : match.start()].strip():
            break
        end = match.end()
        if match[1] == b"0":  # the rest of a block whose names are gone
            continue
        mode, name = int(match[2], 8), os.fsdecode(match[5])
        node_type = _TYPES_BY_FORMAT.get(mode & 0o170000)
        if node_type is None:
            raise DiskError(f"{name!r} in {disk} is of no known type", hint=f"mend it: e2fsck -f {disk}")
        if name not in (".", ".."):
            inode = Inode(node_type, mode & 0o7777, _id(match[3]), _id(match[4]), int(match[6] or 0))
            entries.append(Entry(int(match[1]), name, inode))
    if said[end:].strip():
        raise DiskError(f"cannot list directory inode {directory} of {disk}: {_text(said[end:])}")
    return sorted(entries, key=lambda entry: entry.name)


def contents(disk: Path, files: Sequence[Status]) -> list[bytes]:
    """What is in these files. Raises DiskError. It goes through memory alone: it may be secret."""
    _check_claims(disk, [status.inode.size_bytes for status in files])
    found: list[bytes] = []
    for some in (files[begin : begin + AT_ONCE] for begin in range(0, len(files), AT_ONCE)):
        with unnamed_files(len(some)) as copies:
            wanted = [(s.number, Path(path_of(c)), s.inode.size_bytes) for s, c in zip(some, copies, strict=True)]
            _dump(disk, wanted, [copy.fileno() for copy in copies])
            found += [copy.read() for copy in copies]
    return found


def dump(disk: Path, files: Sequence[tuple[int, Path, int]]) -> None:
    """Copy files out: inode number, host path, the size it must have then. Raises DiskError."""
    _check_claims(disk, [size_bytes for _, _, size_bytes in files])
    _dump(disk, files)


def _check_claims(disk: Path, sizes_bytes: Sequence[int]) -> None:
    """debugfs writes holes out as zeros, and an inode may claim any size: no more is copied than the disk can hold."""
    total_bytes, room_bytes = sum(sizes_bytes), blockdevice.size_bytes(disk)
    if total_bytes > room_bytes:
        raise DiskError(f"files in {disk} claim {total_bytes} bytes, and it has {room_bytes}", hint=f"e2fsck -f {disk}")


def _dump(disk: Path, files: Sequence[tuple[int, Path, int]], inherit: Sequence[int] = ()) -> None:
    said = look(disk, [f"dump <{number}> {quote(str(path))}" for number, path, _ in files], inherit)
    for (number, path, size_bytes), text in zip(files, said, strict=True):
        if text.strip():
            raise DiskError(f"cannot read inode {number} of {disk}: {_text(text)}")
        if path.stat().st_size != size_bytes:
            raise DiskError(f"inode {number} of {disk} has {size_bytes} bytes, but {path.stat().st_size} could be read")


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What is left in a file system, and the size of its blocks."""

    blocks: int
    inodes: int
    block_bytes: int


def free_space(disk: Path) -> FreeSpace:
    """From its superblock (`stats -h`); reserved blocks count as free, as they do for root in the guest."""
    said = look(disk, ["stats -h"])[0]
    fields = dict(re.findall(rb"^(Free blocks|Free inodes|Block size): +(\d+)$", said, re.MULTILINE))
    try:
        return FreeSpace(int(fields[b"Free blocks"]), int(fields[b"Free inodes"]), int(fields[b"Block size"]))
    except KeyError as error:
        raise DiskError(f"cannot read the superblock of {disk}: {_text(said)}") from error


def attributes(path: str, node_type: NodeType, mode: int, uid: int, gid: int) -> list[str]:
    """The commands that give a path its whole mode, type bits included, and its owner."""
    target = quote(path)
    return [
        f"sif {target} mode 0{FORMATS[node_type] | mode:o}",
        f"sif {target} uid {uid}",
        f"sif {target} gid {gid}",
    ]
