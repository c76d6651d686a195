"""Processes to be found and ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting(*words: str, deaf: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these words in its command line. `deaf`: SIGTERM does not end it."""
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""
    code = f"import signal; {ignore}print(flush=True)\nwhile True: signal.pause()"
    with subprocess.Popen([sys.executable, "-S", "-c", code, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()
