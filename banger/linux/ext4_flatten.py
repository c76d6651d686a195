"""A nested home laid flat: everything in one top-level directory moves up to the root of the file system.

Only names move, in a copy that replaces the disk when it is proven clean: no inode is made anew, so contents, owners,
modes, times, extended attributes and hard links are what they were. Seed rule: nothing is lost where both levels
have a name.
"""

from __future__ import annotations

import os
from pathlib import Path

from banger.errors import DiskError
from banger.linux import debugfs, fsck
from banger.linux.copying import copy_into
from banger.linux.debugfs import Entry, attributes, quote
from banger.linux.publish import publishing

_ROOT = 2
"""The root's inode number in every ext4 file system."""
_ASIDE = ".before-flatten"
_NAME_BYTES = 255


def flatten(disk: Path, directory: str) -> int:
    """See `banger.host.Ext4.flatten`. Merged directories take mode and owner of the nested one, the root as well."""
    name = directory.strip("/")
    if not name or "/" in name:
        raise ValueError(f"{directory!r} is not a top-level directory")
    listing = debugfs.listings(disk, [_ROOT])[_ROOT]
    nested = next((entry for entry in listing if entry.name == name and entry.inode.type == "directory"), None)
    if nested is None:
        return 0
    if not disk.is_file():
        raise DiskError(f"{disk} is not an image file; only those are flattened")
    top = [entry for entry in listing if entry.number != nested.number]
    inside = debugfs.listings(disk, [nested.number])[nested.number]
    # It goes by another name meanwhile, because it can itself hold an entry of its own name.
    moving = "/" + _free_name(name, {entry.name for entry in (*listing, *inside)})
    commands = [f"ln <{nested.number}> {quote(moving)}", f"unlink {quote('/' + name)}"]
    commands += _merge(disk, moving, inside, "", top, debugfs.free_space(disk).block_bytes)
    commands += [*_same_attributes("/", nested), f"rmdir {quote(moving)}"]
    with publishing(disk, disk.stat().st_mode & 0o777) as copy:
        copy_into(disk, copy)
        debugfs.change(copy, commands)
        fsck.mend(copy)  # the moved directories' `..` and their parents' link counts
        fsck.verify(copy, "moving a nested home up")
    return len(inside)


def _merge(
    disk: Path, source: str, entries: list[Entry], target: str, there: list[Entry], block_bytes: int
) -> list[str]:
    """Commands that move `entries` of the directory `source` into the directory `target`, which has `there`."""
    by_name = {entry.name: entry for entry in there}
    taken = set(by_name) | {entry.name for entry in entries} | {source.rpartition("/")[2]}
    commands = _room_for_names(target, entries, block_bytes)
    for entry in entries:
        old, new = f"{source}/{entry.name}", f"{target}/{entry.name}"
        other = by_name.get(entry.name)
        if other is not None and other.inode.type == entry.inode.type == "directory":
            both = debugfs.listings(disk, [entry.number, other.number])
            commands += _merge(disk, old, both[entry.number], new, both[other.number], block_bytes)
            commands += [*_same_attributes(new, entry), f"rmdir {quote(old)}"]
            continue
        if other is not None:
            aside = _free_name(entry.name, taken)
            taken.add(aside)
            commands += _move(other.number, new, f"{target}/{aside}")
        commands += _move(entry.number, old, new)
    return commands


def _room_for_names(directory: str, entries: list[Entry], block_bytes: int) -> list[str]:
    """`ln` does not enlarge a full directory, so that is done before: for each name, and one it may displace."""
    sizes = [8 + len(os.fsencode(entry.name)) + len(_ASIDE) + 8 for entry in entries]
    blocks = -(-2 * sum(sizes) // (block_bytes - _NAME_BYTES - 8))
    return [f"expand_dir {quote(directory or '/')}"] * blocks


def _move(number: int, old: str, new: str) -> list[str]:
    """Neither command touches the inode's count of names, so the two together keep it."""
    return [f"unlink {quote(old)}", f"ln <{number}> {quote(new)}"]


def _same_attributes(path: str, entry: Entry) -> list[str]:
    return attributes(path, "directory", entry.inode.mode, entry.inode.uid, entry.inode.gid)


def _free_name(name: str, taken: set[str]) -> str:
    """`NAME.before-flatten`, with a number when that is taken too, the name cut when it would be too long."""
    count = 1
    while True:
        suffix = _ASIDE if count == 1 else f"{_ASIDE}.{count}"
        kept = os.fsencode(name)[: _NAME_BYTES - len(suffix)].decode("utf-8", "ignore")
        if kept + suffix not in taken:
            return kept + suffix
        count += 1
