"""New ext4 images by one `mke2fs -d`, needing no privilege.

What goes in is laid out in a directory that only we can read; owners and modes, which an ordinary user could not give
there, are set in the image by one debugfs run. The image appears under its name whole or not at all.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.errors import DiskError
from banger.host import Node, NodeType
from banger.linux import debugfs, fsck
from banger.linux.debugfs import Entry, Status, attributes, quote
from banger.linux.ext4_view import DiskView
from banger.linux.guest_paths import follow, parents
from banger.linux.publish import publishing
from banger.linux.run import run
from banger.scalars import MOST_LEVELS

_TIMEOUT_S = 3600.0
_EXTENDED = "lazy_itable_init=0,lazy_journal_init=1,discard,root_owner=0:0"
"""On a new sparse file: discarding makes the inode tables known zeros, so neither mke2fs nor the guest's kernel writes
them, and the journal's blocks are zeros already. A 4 GiB image takes 2 MiB and 10 ms."""


@dataclass(frozen=True, slots=True)
class _Attributes:
    type: NodeType
    mode: int
    uid: int
    gid: int


_ROOT = _Attributes("directory", 0o755, 0, 0)


def make(path: Path, size_bytes: int, nodes: Sequence[Node], *, label: str, uuid: str | None) -> None:
    """See `banger.host.Ext4.make`. Raises DiskError, CommandError, OSError; nothing is left then."""
    with tempfile.TemporaryDirectory(prefix=".banger-stage-", dir=path.parent) as directory:
        stage = Path(directory)
        given: dict[str, _Attributes] = {"/": _ROOT}
        for node in sorted(nodes, key=lambda node: node.path):
            where = _inside(stage, node.path)
            for above in parents(node.path):
                if given.setdefault(above, _ROOT).type != "directory":  # a symlink would lead out of the stage
                    raise DiskError(f"{node.path} cannot be in an image: {above} is a {given[above].type} there")
                _inside(stage, above).mkdir(exist_ok=True)
            _lay_out(node, where)
            mode = 0o777 if node.type == "symlink" else node.mode
            given[posixpath.normpath(node.path)] = _Attributes(node.type, mode, node.uid, node.gid)
        _build(path, size_bytes, stage, given, [], label=label, uuid=uuid)


def _inside(stage: Path, path: str) -> Path:
    parts = path.split("/")
    if parts[0] or ".." in parts:
        raise ValueError(f"{path!r} is not an absolute path without '..'")
    return stage.joinpath(*parts)


def _lay_out(node: Node, where: Path) -> None:
    if node.type == "directory":
        where.mkdir(exist_ok=True)
    elif node.type == "symlink":
        where.symlink_to(node.target)
    else:
        with where.open("xb") as file:
            file.write(node.content)


def _build(
    path: Path,
    size_bytes: int,
    stage: Path,
    given: dict[str, _Attributes],
    special: Sequence[str],
    *,
    label: str,
    uuid: str | None,
) -> None:
    commands = [command for at, a in given.items() for command in attributes(at, a.type, a.mode, a.uid, a.gid)]
    with publishing(path) as image:
        os.truncate(image, size_bytes)
        identity = ["-L", label, *(["-U", uuid] if uuid else [])]
        run(["mke2fs", "-q", "-F", "-t", "ext4", *identity, "-E", _EXTENDED, "-d", stage, image], timeout_s=_TIMEOUT_S)
        debugfs.change(image, [*special, *commands])
        fsck.verify(image, "making it")


# --- a tree of another image -------------------------------------------------------------------------------------


def copy_tree(source: Path, directory: str, destination: Path, size_bytes: int, *, label: str, uuid: str) -> None:
    """See `banger.host.Ext4.copy_tree`. Sockets are left out: they mean nothing without their listener."""
    top = _directory(source, directory)
    entries = _walk(source, top.number)
    given = {"/": _attributes_of(top.inode.mode, top.inode.uid, top.inode.gid, "directory")}
    for path, entry in entries.items():
        quote(path)  # what debugfs cannot express is refused before anything is copied
        inode = entry.inode
        if inode.type != "socket":
            given[path] = _attributes_of(inode.mode, inode.uid, inode.gid, inode.type)
    details = _details(source, entries)
    with tempfile.TemporaryDirectory(prefix=".banger-stage-", dir=destination.parent) as name:
        special = _lay_out_tree(source, entries, details, Path(name))
        _build(destination, size_bytes, Path(name), given, special, label=label, uuid=uuid)


def _attributes_of(mode: int, uid: int, gid: int, node_type: NodeType) -> _Attributes:
    return _Attributes(node_type, mode, uid, gid)


def _directory(source: Path, directory: str) -> Status:
    view = DiskView(source)
    real = follow([directory], view.look, final=True)[directory]
    view.look([real])
    status = view.on_disk(real)
    if status is None or status.inode.type != "directory":
        raise DiskError(f"{directory} of {source} is not a directory")
    return status


def _walk(source: Path, top: int) -> dict[str, Entry]:
    """All names below a directory by their path from it, directories before what is in them; a run per depth."""
    found: dict[str, Entry] = {}
    level = {top: ""}
    seen = {top}
    depth = 0
    while level:
        next_level: dict[int, str] = {}
        for number, entries in debugfs.listings(source, list(level)).items():
            for entry in entries:
                path = f"{level[number]}/{entry.name}"
                if path == "/lost+found" and entry.inode.type == "directory":
                    continue  # the new file system has its own
                if path in found:  # laid out, the one might lead the other out of the stage
                    raise DiskError(f"{source} has two entries {path}", hint=f"e2fsck -f {source}")
                found[path] = entry
                if entry.inode.type == "directory":
                    if entry.number in seen:
                        raise DiskError(f"{source} has a directory in two places: {path}", hint=f"e2fsck -f {source}")
                    seen.add(entry.number)
                    next_level[entry.number] = path
        level = next_level
        depth += 1
        if depth > MOST_LEVELS:
            raise DiskError(f"{source} has directories nested more than {MOST_LEVELS} deep")
    return found


def _details(source: Path, entries: dict[str, Entry]) -> dict[str, Status]:
    """Symlink texts and device numbers, which a directory listing does not tell."""
    wanted = [f"<{e.number}>" for e in entries.values() if e.inode.type in ("symlink", "character", "block")]
    return {name: status for name, status in debugfs.statuses(source, wanted).items() if status}


def _lay_out_tree(source: Path, entries: dict[str, Entry], details: dict[str, Status], stage: Path) -> list[str]:
    """Fill the stage; the commands for what cannot be made there without privilege."""
    special: list[str] = []
    first: dict[int, Path] = {}
    links: list[tuple[Path, Path]] = []
    files: list[tuple[int, Path, int]] = []
    for path, entry in entries.items():
        where = stage / path.lstrip("/")
        status = details.get(f"<{entry.number}>")
        match entry.inode.type:
            case "directory":
                where.mkdir()
            case "symlink":
                where.symlink_to((status.inode.target if status else None) or "")
            case "file" if entry.number in first:
                links.append((first[entry.number], where))
            case "file":
                first[entry.number] = where
                files.append((entry.number, where, entry.inode.size_bytes))
            case "fifo" | "character" | "block":
                special += _make_special(path, entry, status)
            case "socket":
                pass
    debugfs.dump(source, files)
    for target, where in links:
        os.link(target, where)
    return special


def _make_special(path: str, entry: Entry, status: Status | None) -> list[str]:
    """mknod of debugfs takes a name, not a path: it would link a name with slashes in it."""
    kind = {"fifo": "p", "character": "c", "block": "b"}[entry.inode.type]
    numbers = " ".join(str(number) for number in status.device) if status and status.device else ""
    parent, name = posixpath.split(path)
    return [f"cd {quote(parent)}", f"mknod {quote(name)} {kind} {numbers}".rstrip()]
