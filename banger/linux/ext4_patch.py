"""Guest files into an existing ext4 file system: everything is looked at first, then one debugfs run changes it.

debugfs(8) goes on after a failure and leaves what it did, so what could go wrong is found before: directories in the
way, too little room. What it wrote is compared in the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from banger.errors import DiskError
from banger.host import Node
from banger.linux import debugfs
from banger.linux.debugfs import Status, attributes, quote
from banger.linux.ext4_view import DiskView, is_whiteout
from banger.linux.guest_paths import follow, parents
from banger.linux.unnamed import AT_ONCE, fill, path_of, unnamed_files
from banger.types import GuestFile

_OPAQUE = "trusted.overlay.opaque"
"""An overlay's directory that hides the one of the same name beneath it."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory as it must become; `hides` what lies under it in an overlay."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    hides: bool = False


@dataclass
class _Plan:
    """What to do, by real guest path. Directories are in the order they must be made."""

    writes: dict[str, GuestFile] = field(default_factory=dict)
    removals: set[str] = field(default_factory=set)
    directories: dict[str, _Directory] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)


def patch(view: DiskView, writes: Sequence[GuestFile], removals: Sequence[str], directories: Sequence[Node]) -> None:
    """Make the disk of `view` hold `writes` and `directories`, and none of `removals`. Raises DiskError."""
    plan = _plan(view, writes, removals, directories)
    if not (plan.writes or plan.removals or plan.directories):
        return
    _check_room(view, plan)
    commands, files = _commands(view, plan), list(plan.writes.items())
    for begin in range(0, len(files) or 1, AT_ONCE):
        _change(view, commands, files[begin : begin + AT_ONCE])
        commands = []


def _change(view: DiskView, commands: Sequence[str], writes: Sequence[tuple[str, GuestFile]]) -> None:
    """Run `commands` and write files. What is written may be secret: it goes through memory, so no kill leaves it."""
    with unnamed_files(len(writes)) as sources:
        written: list[str] = []
        for (path, file), source in zip(writes, sources, strict=True):
            fill(source, file.content)
            written += _write(view.at(path), file, source)
        checks = [f"stat {quote(view.at(path))}" for path, _ in writes]
        said = debugfs.change(view.disk, [*commands, *written], checks, [source.fileno() for source in sources])
    for (path, file), text in zip(writes, said, strict=True):
        _compare(view.disk, file, debugfs.parse_status(text, view.disk, path))


# --- what to do --------------------------------------------------------------------------------------------------


def _plan(view: DiskView, writes: Sequence[GuestFile], removals: Sequence[str], directories: Sequence[Node]) -> _Plan:
    named = [*(file.path for file in writes), *removals, *(node.path for node in directories)]
    view.look([*view_of_prefix(view), *(above for path in named for above in parents(path)), *named])
    real = follow([*(file.path for file in writes), *removals], view.look)
    real_directories = follow([node.path for node in directories], view.look, final=True)
    targets = [*real.values(), *real_directories.values()]
    view.look([*(above for path in targets for above in parents(path)), *targets])

    plan = _Plan()
    for node in directories:
        path = real_directories[node.path]
        _add_parents(view, plan, path)
        _add_directory(view, plan, path, _Directory(node.mode, node.uid, node.gid))
    for file in writes:
        _add_write(view, plan, real[file.path], file)
    for path in (real[removal] for removal in removals):
        status = view.on_disk(path)
        if status is not None and path not in plan.writes and not is_whiteout(status):
            _refuse_directory(view, path, status)
            plan.removals.add(path)
    return plan


def view_of_prefix(view: DiskView) -> list[str]:
    """The guest's root, when it is not the disk's own root and so may be missing."""
    return ["/"] if view.prefix else []


def _add_write(view: DiskView, plan: _Plan, path: str, file: GuestFile) -> None:
    earlier = plan.writes.get(path)
    if earlier is not None and (earlier.content, earlier.mode, earlier.uid, earlier.gid) != (
        *(file.content, file.mode, file.uid, file.gid),
    ):
        raise DiskError(f"{earlier.path} and {file.path} are both {path} on {view.disk}, and differ")
    if path in plan.directories or path == "/":
        raise DiskError(f"{file.path} cannot be a file on {view.disk}: it is a directory")
    status = view.on_disk(path)
    if status is not None:
        _refuse_directory(view, path, status)
        plan.removals.add(path)  # `write` never replaces, and `rm` takes a symlink itself
    _add_parents(view, plan, path)
    plan.writes[path] = file


def _add_parents(view: DiskView, plan: _Plan, path: str) -> None:
    for above in (*view_of_prefix(view), *parents(path)):
        status = view.on_disk(above)
        if above in plan.writes:
            raise DiskError(f"{above} would have to be both a file and a directory on {view.disk}")
        if status is None or is_whiteout(status):
            if above not in plan.directories:
                _add_directory(view, plan, above, _inherited(view, above))
        elif status.inode.type != "directory":
            raise DiskError(f"{path} cannot be written to {view.disk}: {above} is a {status.inode.type} there")


def _inherited(view: DiskView, path: str) -> _Directory:
    under = view.beneath(path)
    if under is None:
        return _Directory()
    if under.inode.type != "directory":
        raise DiskError(f"{path} cannot be a directory on {view.disk}: it is a {under.inode.type} in {view.base}")
    return _Directory(under.inode.mode, under.inode.uid, under.inode.gid)


def _add_directory(view: DiskView, plan: _Plan, path: str, wanted: _Directory) -> None:
    status = view.on_disk(path)
    if status is None:
        plan.new.add(path)
    elif is_whiteout(status):  # the guest removed the image's directory; what was in that must not come back
        plan.removals.add(path)
        plan.new.add(path)
        wanted = _Directory(wanted.mode, wanted.uid, wanted.gid, hides=True)
    elif status.inode.type != "directory":
        raise DiskError(f"{path} cannot be a directory on {view.disk}: it is a {status.inode.type} there")
    plan.directories[path] = wanted


def _refuse_directory(view: DiskView, path: str, status: Status) -> None:
    if status.inode.type == "directory":
        raise DiskError(f"{path} on {view.disk} is a directory; only files are replaced or removed")


# --- doing it ----------------------------------------------------------------------------------------------------


def _commands(view: DiskView, plan: _Plan) -> list[str]:
    """What is done before the files are written."""
    commands = [f"rm {quote(view.at(path))}" for path in sorted(plan.removals)]
    for path, directory in plan.directories.items():
        target = view.at(path)
        if path in plan.new:
            made = [target] if path != "/" else [*parents(target), target]
            commands += [f"mkdir {quote(each)}" for each in made]
        commands += attributes(target, "directory", directory.mode, directory.uid, directory.gid)
        if directory.hides:
            commands.append(f"ea_set {quote(target)} {_OPAQUE} y")
    return commands


def _write(target: str, file: GuestFile, source: IO[bytes]) -> list[str]:
    return [
        f"write {path_of(source)} {quote(target)}",
        *attributes(target, "file", file.mode, file.uid, file.gid),
    ]


def _check_room(view: DiskView, plan: _Plan) -> None:
    """debugfs would leave a truncated file that e2fsck(8) calls clean."""
    free = debugfs.free_space(view.disk)
    gone = [status for path in plan.removals if (status := view.on_disk(path)) is not None and status.links == 1]
    freed_blocks = sum(status.allocated_bytes for status in gone) // free.block_bytes
    names = len(plan.writes) + len(plan.new)
    data_blocks = sum(-(-len(file.content) // free.block_bytes) + 1 for file in plan.writes.values())
    directory_blocks = 2 * len(plan.new) + -(-264 * names // free.block_bytes) + 1
    if data_blocks + directory_blocks > free.blocks + freed_blocks or names > free.inodes + len(gone):
        needed_bytes = (data_blocks + directory_blocks - freed_blocks) * free.block_bytes
        raise DiskError(
            f"{view.disk} has no room for {len(plan.writes)} files: {max(0, needed_bytes)} bytes and {names} inodes "
            f"are needed, {free.blocks * free.block_bytes} bytes and {free.inodes} inodes are free",
            hint="give the VM a larger disk",
        )


def _compare(disk: Path, file: GuestFile, status: Status | None) -> None:
    wanted = ("file", file.mode, file.uid, file.gid, len(file.content))
    inode = status.inode if status else None
    if inode is None or (inode.type, inode.mode, inode.uid, inode.gid, inode.size_bytes) != wanted:
        raise DiskError(f"{file.path} did not come out right on {disk}: wanted {wanted}, it is {inode}")
