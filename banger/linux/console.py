"""A VMM's endless output kept within bounds: its console, and what it writes to named pipes, by a relay of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from banger.host import STARTED_AGAIN
from banger.linux import console_relay
from banger.linux.process import until_named

CONSOLE_BYTES = 2**20
"""The most that is kept of each output; at least the newer half of it is always there."""
_RELAY = Path(console_relay.__file__)
_MARK = f"{STARTED_AGAIN}\n".encode()


@contextlib.contextmanager
def relayed(console: Path, pipes: Mapping[Path, Path], owner: int | None = None) -> Iterator[int]:
    """A descriptor to be a program's stdout, whose output ends up in `console`; see `banger.host.Processes.start`.

    The relay is there before the block, so that the program finds a reader, and whoever looks for the one or the other
    finds one at every moment. It lives as long as the program does. If the block fails, so that there is no program, it
    ends with it; killed on the way, so does it too.
    """
    with contextlib.ExitStack() as opened:
        reading, writing = os.pipe()
        opened.callback(os.close, writing)
        with contextlib.ExitStack() as given:
            given.callback(os.close, reading)
            pairs = [
                (0, _file(console, given)),
                *((_pipe(each, owner, given), _file(pipes[each], given)) for each in pipes),
            ]
            relay = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", _RELAY, str(CONSOLE_BYTES), console),
                    *(f"{source}:{file}" for source, file in pairs),
                ],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[descriptor for pair in pairs for descriptor in pair if descriptor],
                cwd="/",
                start_new_session=True,
            )
        try:
            until_named(relay.pid)
            yield writing
        except BaseException:
            opened.close()
            relay.wait()
            raise
        relay.returncode = 0  # it is meant to outlive this object; whoever waits for it reaps it


def set_apart(path: Path) -> None:
    """Say in this file that what was said until now is of an earlier start."""
    with contextlib.ExitStack() as given:
        file = _file(path, given)
        size = os.fstat(file).st_size
        end = os.pread(file, len(_MARK), max(0, size - len(_MARK))) if size else b""
        if end not in (b"", _MARK):
            console_relay.append(file, _MARK if end.endswith(b"\n") else b"\n" + _MARK, CONSOLE_BYTES)


def is_relay(arguments: list[bytes], console: Path) -> bool:
    """Whether a command line is of this console's relay."""
    return os.fsencode(_RELAY) in arguments and os.fsencode(console) in arguments


def _file(path: Path, given: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    given.callback(os.close, descriptor)
    return descriptor


def _pipe(path: Path, owner: int | None, given: contextlib.ExitStack) -> int:
    """A new named pipe, fifo(7). Held for writing too, so that it has no end with whoever writes to it."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    if owner is not None:
        os.chown(path, owner, owner)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    given.callback(os.close, descriptor)
    return descriptor
