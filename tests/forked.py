"""The `banger` command without the cost of starting a Python for each: a fork of this one runs it.

What a fork does to itself (its user, its umask, the mounts it sees) ends with it.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")

_CLONE_NEWNS = 0x00020000  # unshare(2)
_DEADLINE_S = 120


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


@cache
def _import_all() -> None:
    """Once, before the first fork: every module of the program, and every plugin."""
    from banger.cli import COMMANDS
    from banger.core.plugins import Plugins

    for place, _ in COMMANDS.values():
        import_module(place.partition(":")[0])
    Plugins.load(frozenset())


def banger(home: Path, *arguments: str | Path, before: Callable[[], object] = lambda: None) -> Done:
    """Run `banger ARGUMENTS` on this home; `before` is called first, in the process that runs it."""
    _import_all()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pid = _fork()
        if pid == 0:
            try:
                signal.alarm(_DEADLINE_S)
                os.setsid()
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                sys.stdout, sys.stderr = (os.fdopen(fd, "w", errors="backslashreplace", closefd=False) for fd in (1, 2))
                os.environ["BANGER_HOME"] = str(home)
                sys.argv = ["banger", *map(str, arguments)]
                before()
                code = _main()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code if "code" in locals() else 99)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = []
        for stream in (stdout, stderr):
            stream.seek(0)
            said.append(stream.read().decode("utf-8", "replace"))
    return Done(code, *said)


def _main() -> int:
    from banger.cli import main

    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001  # as the interpreter tells of it
        traceback.print_exc()
        return 1


def elsewhere(work: Callable[[], Answer]) -> Answer:
    """What `work` answers, called in a process that may change its user or umask."""
    reading, writing = os.pipe()
    pid = _fork()
    if pid == 0:
        os.close(reading)
        try:
            answer: tuple[bool, object] = (True, work())
        except BaseException:  # noqa: BLE001  # told below
            answer = (False, traceback.format_exc())
        with os.fdopen(writing, "wb") as stream:
            stream.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        told = stream.read()
    os.waitpid(pid, 0)
    went_well, value = pickle.loads(told)
    assert went_well, value
    return value  # type: ignore[no-any-return]


def own_mounts() -> None:
    """From here on this process has mounts of its own. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    private = 1 << 18 | 1 << 14  # mount(2): MS_PRIVATE | MS_REC
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, private, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop_privileges() -> None:
    """From here on what other users keep from us is kept from us, though we be root: no capability is left."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2): _LINUX_CAPABILITY_VERSION_3, ourselves
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which from 3.12 on is warned of
        return os.fork()
