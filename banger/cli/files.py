"""Files that a command is asked to write: what of them may be written over, and how."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from banger.errors import BangerError, UsageError

Own = Callable[[str], bool]
"""Whether a text with this beginning is one of the kind that a command writes."""
HEAD_CHARACTERS = 64
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")
_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


def is_events(head: str) -> bool:
    """Whether a file with this beginning holds events."""
    return head.startswith('{"type": "version"')


def refuse_foreign(path: Path, own: Own, kind: str) -> None:
    """Raises UsageError where `path` holds something, and that is none of this `kind`: it may be anybody's work."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return
        with path.open("rb") as file:
            head = file.read(HEAD_CHARACTERS).decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unwritable(path, error) from error
    if not own(head):
        raise UsageError(
            f"{path} is there already, and is not {kind}: it is not written over",
            hint="give another file, or remove it",
        )


def write_private(path: Path, text: str) -> None:
    """Write it for nobody else to read, also where the file was there before. Raises BangerError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, 0o600)
            file.write(text)
    except OSError as error:
        raise BangerError(f"cannot write {path}: {error.strerror}", hint="give another file") from error


def open_for_events(path: Path) -> int:
    """A descriptor to write events to: a file of events anew, or one that is open already, where it stands.

    `/dev/fd/3` opened by its name would be emptied, and written from its beginning, under whoever else writes to it.
    Raises UsageError.
    """
    try:
        if (number := _number_of(path)) is not None:
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise UsageError(f"cannot write {path}: it is open for reading only", hint=f"{number}>FILE")
            return os.dup(number)
        refuse_foreign(path, is_events, "a file of events")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _number_of(path: Path) -> int | None:
    """Which open descriptor is meant by this name; None for a file's."""
    found = _DESCRIPTOR.fullmatch(str(path))
    return int(found[1]) if found else _STANDARD.get(str(path))


def _unwritable(path: Path, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) else error
    return UsageError(f"cannot write {path}: {reason}", hint="give another file")
