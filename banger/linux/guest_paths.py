"""Following symbolic links inside a file system that is not mounted, as the guest would. Pure: no I/O.

Whoever asks gives a function that looks at paths; all paths are followed together, so that looking is done in few runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from banger.errors import DiskError
from banger.host import Inode

MAX_LINKS = 40
"""As many as Linux follows in one path (path_resolution(7))."""

Look = Callable[[Iterable[str]], dict[str, Inode | None]]
"""The inode at each path. What it answers for a path beyond a symlink is never used, so it need not follow any."""


def follow(paths: Iterable[str], look: Look, *, final: bool = False) -> dict[str, str]:
    """By path, in the order asked: with the symlinks in its directories followed; with `final`, one at its end as well.

    `..` never leads above the root. What does not exist is taken as it is written. Raises DiskError for a loop.
    """
    known: dict[str, Inode | None] = {}
    followed: dict[str, str] = {}
    asked = waiting = list(dict.fromkeys(paths))
    while waiting:
        wanted: set[str] = set()
        for path in waiting:
            answer = _walk(path, known, final)
            if isinstance(answer, str):
                followed[path] = answer
            else:
                wanted.update(answer)
        waiting = [path for path in waiting if path not in followed]
        if waiting:
            known.update(look(sorted(wanted)))
    return {path: followed[path] for path in asked}


def _walk(path: str, known: dict[str, Inode | None], final: bool) -> str | list[str]:
    """The followed path, or the paths that must be looked at first."""
    done: list[str] = []
    left = _parts(path)
    links = 0
    while left:
        part = left.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = _join([*done, part])
        if not left and not final:
            return here
        if here not in known:
            return _ahead(done, [part, *left], final)
        inode = known[here]
        if inode is None or inode.type != "symlink":
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise DiskError(f"{path}: too many symbolic links, or a loop of them, at {here}")
        target = inode.target or ""
        done = [] if target.startswith("/") else done
        left = [*_parts(target), *left]
    return _join(done)


def _ahead(done: list[str], left: list[str], final: bool) -> list[str]:
    """All prefixes that will be needed if none of them is a symlink, so that one look is enough."""
    names = left[: left.index("..")] if ".." in left else left if final else left[:-1]
    return [_join([*done, *names[: count + 1]]) for count in range(len(names))]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _join(parts: list[str]) -> str:
    return "/" + "/".join(parts)


def parents(path: str) -> list[str]:
    """The directories above a path, the topmost first, without the root: `/a/b/c` has `/a` and `/a/b`."""
    parts = _parts(path)[:-1]
    return [_join(parts[: count + 1]) for count in range(len(parts))]
