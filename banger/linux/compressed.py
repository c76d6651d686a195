"""What others compressed, taken into memory up to a bound: a few KiB can hold gigabytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BufferedIOBase
from typing import IO

from banger.errors import DiskError
from banger.linux.pipe import reading
from banger.linux.unnamed import fill, unnamed_files
from banger.scalars import human


def whole(stream: IO[bytes] | BufferedIOBase, name: str, most_bytes: int) -> bytes:
    """All that a stream gives. Raises DiskError, with this name, when that is more than `most_bytes`."""
    return bounded(stream.read(most_bytes + 1), name, most_bytes)


def bounded(unpacked: bytes, name: str, most_bytes: int) -> bytes:
    """The same, when it has no more than `most_bytes`; else raises DiskError with this name."""
    if len(unpacked) > most_bytes:
        raise DiskError(f"{name} unpacks to more than {human(most_bytes)}, the most that one may have")
    return unpacked


def by_program(argv: Sequence[str], packed: bytes, name: str, most_bytes: int) -> bytes:
    """What a program that unpacks its stdin makes of this; it is ended when that is too much.

    Raises DiskError like `whole`, HostError when the program is missing, CommandError when it fails.
    """
    with unnamed_files(1) as (file,):
        fill(file, packed)
        file.seek(0)
        with reading(argv, stdin=file) as unpacked:
            return whole(unpacked, name, most_bytes)
