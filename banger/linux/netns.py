"""Network namespaces by name, as ip-netns(8) keeps them: the namespace is bind-mounted on a file in /run/netns.

setns(2) moves the calling thread alone. So whatever is to be done inside a namespace is done by a thread made for it,
and what that thread opens or starts (a socket, a process) belongs to the namespace for good.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import TypeVar

from banger.errors import HostError

NAMED = Path("/run/netns")
_OURS = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_SHARED = 1 << 12, 1 << 14, 1 << 20  # linux/mount.h
_MNT_DETACH = 2

T = TypeVar("T")


class NoSuchNamespace(HostError):
    """There is none of this name, or none any more."""


def call_inside(name: str, function: Callable[[], T]) -> T:
    """What `function` returns or raises when it runs in the namespace of this name; empty: where we are.

    Raises NoSuchNamespace when there is none, HostError when we may not enter it.
    """
    if not name:
        return function()

    def work() -> T:
        enter(name)
        return function()

    return _in_a_thread(work)


def call_in_a_new_one(function: Callable[[], T]) -> T:
    """What `function` returns or raises in a namespace that nobody else sees, and that ends with it.

    Raises OSError when none can be made.
    """

    def work() -> T:
        _libc("unshare", _CLONE_NEWNET)
        return function()

    return _in_a_thread(work)


def enter(name: str) -> None:
    """Move the calling thread into the namespace of this name, for good: setns(2)."""
    try:
        descriptor = os.open(NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _libc("setns", descriptor, _CLONE_NEWNET)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # EINVAL: a file that no namespace is mounted on
            message = f"there is no network namespace {name} on this host"
            raise NoSuchNamespace(message, hint=f"ip netns add {name}") from None
        raise HostError(f"cannot enter the network namespace {name}: {error.strerror}", hint="run as root") from error


def names() -> list[str]:
    """All that are there, sorted."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in NAMED.iterdir() if exists(entry.name))
    return []


def exists(name: str) -> bool:
    """Whether there is a namespace of this name, and not only the file that one was to be mounted on."""
    try:
        return (NAMED / name).stat().st_dev == Path(_OURS).stat().st_dev
    except FileNotFoundError:
        return False


def make(name: str, prepare: Callable[[], None]) -> None:
    """A new namespace. `prepare` runs in it before it gets its name: whoever sees it sees it prepared.

    Killed on the way, this leaves at most an empty file, which the next try takes over. Raises OSError, FileExistsError
    when there is one.
    """
    path = NAMED / name

    def work() -> None:
        prepare()
        with _directory():
            if exists(name):
                raise FileExistsError(errno.EEXIST, "there is a network namespace of this name", str(path))
            _share_directory()
            path.touch(mode=0o444)
            _libc("mount", _OURS.encode(), os.fsencode(path), b"none", _MS_BIND, None)

    call_in_a_new_one(work)


def remove(name: str) -> None:
    """Take the name away; the kernel ends the namespace when nobody is in it any more. Gone already is success."""
    path = NAMED / name
    with _directory():
        _unmount(path)
        path.unlink(missing_ok=True)
        if not any(NAMED.iterdir()):
            _unmount(NAMED)


@contextlib.contextmanager
def _directory() -> Iterator[None]:
    """/run/netns, locked against others who mount there; ip-netns(8) uses the same lock."""
    NAMED.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(NAMED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _share_directory() -> None:
    """Make /run/netns a shared mount of its own, as ip-netns(8) does: what is unmounted here is so everywhere.

    A mount namespace that had a private copy of a mount would keep the network namespace alive. And were it done only
    after the first namespace was mounted, a copy of that would remain beneath, and its file could not be removed.
    """
    directory = os.fsencode(NAMED)
    try:
        _libc("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: it is not a mount yet
            raise
        _libc("mount", directory, directory, b"none", _MS_BIND | _MS_REC, None)
        _libc("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)


def _unmount(path: Path) -> None:
    try:
        _libc("umount2", os.fsencode(path), _MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted, not there
            raise


def _in_a_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits for it
            failures.append(error)

    thread = Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _libc(function: str, *arguments: object) -> None:
    """Call a function of the C library that Python 3.11 has no name for. Raises OSError."""
    import ctypes  # 3 ms, and most commands enter no namespace

    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
