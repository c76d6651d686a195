"""What the tests have tried, counted: the numbers that the documentation tells come from a run, not from memory."""

from __future__ import annotations

import json
import os


def tally(row: str, **counts: int) -> None:
    """Add to one row of the table, as in `tally("bad state files", tried=3, lost=0)`.

    With the environment's BANGER_TEST_TALLY=FILE a JSON line `{"row": …, "tried": 3, "lost": 0}` is appended to that
    file by one write(2), so that processes may share it; whoever reads adds up the lines of a row. Without, nothing.
    """
    if not (file := os.environ.get("BANGER_TEST_TALLY")):
        return
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, json.dumps({"row": row, **counts}).encode() + b"\n")
    finally:
        os.close(descriptor)
