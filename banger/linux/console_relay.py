"""Keeps the last of what a program writes without end: `python -I -S console_relay.py MOST NAME IN:OUT …`.

IN and OUT are open file descriptors: a pipe that is read, and a file, opened to read and append, that gets what was
read and never has more than MOST bytes. A file that would is cut down to its newer half, at the beginning of a line.
The end of the first IN, when the program that writes to it has ended, is ours. NAME is for whoever looks for this
process.

A program of its own, for the program that writes outlives whoever started both, and a file that it wrote to by itself
would grow as a guest pleases. It imports next to nothing, because each VM has one; and it makes, opens and renames no
files, so it is in nobody's way who removes them.
"""

from __future__ import annotations

import os
import select
import sys

_READ_BYTES = 65536
"""The size of a pipe's buffer, pipe(7)."""


def relay(most: int, pairs: list[tuple[int, int]]) -> None:
    """Read until the first pipe ends. What a full disk does not take is lost; the program must go on."""
    poll = select.poll()
    for source, _ in pairs:
        poll.register(source, select.POLLIN)
    files = dict(pairs)
    first = pairs[0][0]
    while True:
        for source, _ in poll.poll():
            data = _read(source)
            if data:
                append(files[source], data, most)
            elif source == first:
                for other, file in pairs[1:]:
                    while data := _read(other):
                        append(file, data, most)
                return


def _read(source: int) -> bytes:
    try:
        return os.read(source, _READ_BYTES)
    except BlockingIOError:  # a named pipe has no end, for we hold its other end too
        return b""


def append(file: int, data: bytes, most: int) -> None:
    """Add to a file of which only the newest is kept; it is opened to read and append."""
    try:
        size = os.fstat(file).st_size
        if size + len(data) > most:
            data = (os.pread(file, most // 2, max(0, size - most // 2)) + data)[-most:]
            data = data[data.find(b"\n", 0, len(data) // 2) + 1 :]
            os.ftruncate(file, 0)
        os.write(file, data)
    except OSError:
        pass


if __name__ == "__main__":
    relay(int(sys.argv[1]), [(int(a), int(b)) for a, _, b in (word.partition(":") for word in sys.argv[3:])])
