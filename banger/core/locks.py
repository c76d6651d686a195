"""Locks that die with their process: flock(2) on a file of their own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from banger.errors import Busy, HomeError


def make_private(directory: Path) -> None:
    """Make a directory, and what is missing above it, for us alone (0700) whatever the umask. Raises OSError."""
    for missing in reversed([each for each in (directory, *directory.parents) if not each.is_dir()]):
        missing.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = True, purpose: str = "") -> Iterator[None]:
    """Hold the lock at `path` for the block.

    The holder's pid and purpose stand in the file, for the message of whoever does not get it. Raises Busy when
    `wait` is False and another process holds it.
    """
    try:
        make_private(path.parent)
        descriptor = _acquire(path, wait)
    except OSError as error:
        raise HomeError(
            f"cannot take the lock {path}: {error.strerror}", hint="choose another $BANGER_HOME, or mend that directory"
        ) from error
    try:
        with suppress(OSError):  # a full disk spoils the message for others, not the lock: room is made by removing
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} {purpose}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold the lock at `path` for the block, for what several VMs share; its file is gone when nobody holds it."""
    with locked(path, purpose="changing what VMs share"):
        try:
            yield
        finally:
            discard(path)


def discard(path: Path) -> None:
    """Remove a lock's file; call it only while holding the lock. Whoever waits for it takes a new file."""
    path.unlink(missing_ok=True)


def _acquire(path: Path, wait: bool) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise Busy(f"{path.stem} is locked by {holder}", hint="wait for it to end, then run this again") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder discarded the file while we waited


def _is(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
