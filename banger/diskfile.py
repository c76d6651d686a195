"""A disk that is one ext4 image file of a VM's own: its size, and growing it so that a crash is noticed."""

from __future__ import annotations

from pathlib import Path

from banger.host import Host, HostView
from banger.resource import Drifted
from banger.types import Size


def observe_size(host: HostView, path: Path, wanted_bytes: int, what: str) -> Drifted | None:
    """How the file at `path` differs from its wanted size, in the words of the playbook's key `what`; None if it fits.

    It may grow in place; too large, it stays usable as it is.
    """
    status = host.files.status(path)
    assert status is not None, "asked only of what is there"
    if host.files.status(_growing(path)) is not None:
        return Drifted({}, (f"{what}: growing it was interrupted",), usable=False)
    if status.size_bytes == wanted_bytes:
        return None
    difference = f"{what} {Size(status.size_bytes)} -> {Size(wanted_bytes)}"
    return Drifted({}, (difference,), in_place=status.size_bytes < wanted_bytes)


def grow(host: Host, path: Path, size_bytes: int) -> None:
    """Enlarge file and file system. The file alone may be large already, after a crash, so a note lies beside it.

    The note says also that the file system was sound when that began: whatever is wrong with it after is mended.
    """
    interrupted = host.files.status(_growing(path)) is not None
    if not interrupted:
        host.ext4.recover(path, thoroughly=True)
        host.files.write(_growing(path), b"")
    status = host.files.status(path)
    host.ext4.grow(path, max(size_bytes, status.size_bytes if status else 0), interrupted=interrupted)
    host.files.remove(_growing(path))


def remove(host: Host, path: Path) -> None:
    """The file and its note; already gone is success."""
    host.files.remove(path)
    host.files.remove(_growing(path))


def sweep(host: Host, directory: Path) -> None:
    """Clear away what a killed command left half made in a VM's directory; the caller holds the VM's lock."""
    for path in host.files.list(directory):
        if path.name.startswith(".banger-stage-"):
            host.files.remove_tree(path)
        elif path.name.startswith(".") and path.name.endswith(".tmp"):
            host.files.remove(path)


def _growing(path: Path) -> Path:
    return path.with_suffix(".growing")
