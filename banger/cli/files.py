"""Files that a command is asked to write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from banger.errors import BangerError


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
