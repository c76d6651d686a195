"""A file that appears under its name whole or not at all: made beside it, synced, renamed, directory synced."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def publishing(path: Path, mode: int = 0o600) -> Iterator[Path]:
    """Yields a new empty file beside `path` to fill; on leaving it becomes `path`, on an error it is removed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:200]}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def stage(path: Path) -> Iterator[Path]:
    """An empty directory at `path` for the block, 0700. What one that was killed there has left goes first.

    The caller holds the lock of what it makes, and gives that its name only after the block: so that whoever finds it
    missing, and makes it again, has cleared the remains away.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """fsync(2) of a file, or of a directory so that the names in it last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
