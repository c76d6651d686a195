"""Files in memory that have no name: for content that a program reads or writes by path, and that no kill leaves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

AT_ONCE = 200
"""How many to have at a time: a process may have 1024 files open, unless told otherwise (getrlimit(2))."""


@contextlib.contextmanager
def unnamed_files(count: int) -> Iterator[list[IO[bytes]]]:
    """New empty files (memfd_create(2)), which are gone with the last process that has them open."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(os.fdopen(os.memfd_create("banger"), "r+b")) for _ in range(count)]


def fill(file: IO[bytes], content: bytes) -> None:
    """So that another who opens it finds this."""
    file.write(content)
    file.flush()


def path_of(file: IO[bytes], of: int | str = "self") -> str:
    """Where it is for a process that has the descriptor, proc(5); with our pid as `of`, for any other of our user."""
    return f"/proc/{of}/fd/{file.fileno()}"
