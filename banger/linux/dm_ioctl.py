"""The device mapper's ioctls on /dev/mapper/control: linux/dm-ioctl.h, packed and unpacked. One function talks."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from banger.host import Target

CONTROL = Path("/dev/mapper/control")

_HEADER = struct.Struct("=3IIIIiIIIQ128s129s7x")
"""struct dm_ioctl: version, data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid
(and seven bytes of data)."""
_SPEC = struct.Struct("=QQiI16s")
"""struct dm_target_spec: sector_start, length, status, next, target_type; its parameters follow as a C string."""
_NAME = struct.Struct("=QI")
"""The beginning of struct dm_name_list: dev, next; the name follows."""
_VERSION = (4, 0, 0)
_BUFFER_BYTES = 2048
_LARGEST_BUFFER_BYTES = 2**24
_NAME_BYTES, _UUID_BYTES = 127, 128

READ_ONLY = 1 << 0
STATUS_TABLE = 1 << 4
NO_FLUSH = 1 << 11
_BUFFER_FULL = 1 << 8


class Command(IntEnum):
    """Those that are used here. DEV_SUSPEND resumes, unless its flag says to suspend."""

    LIST_DEVICES = 2
    DEV_CREATE = 3
    DEV_REMOVE = 4
    DEV_SUSPEND = 6
    TABLE_LOAD = 9
    TABLE_STATUS = 12
    GET_TARGET_VERSION = 17


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel said; `device` is a device number as in st_rdev."""

    name: str
    uuid: str
    device: int
    flags: int
    open_count: int
    target_count: int
    data: bytes = field(repr=False)

    def targets(self) -> tuple[Target, ...]:
        """The table or status lines in `data`."""
        found, offset = [], 0
        for _ in range(self.target_count):
            start, length, _, following, kind = _SPEC.unpack_from(self.data, offset)
            found.append(Target(start, length, _text(kind), _text(self.data[offset + _SPEC.size :])))
            offset = following  # in an answer it counts from the beginning
        return tuple(found)

    def names(self) -> Iterator[str]:
        """The device names in `data`."""
        offset = 0
        while self.data and _NAME.unpack_from(self.data, offset)[0]:
            yield _text(self.data[offset + _NAME.size :])
            following = _NAME.unpack_from(self.data, offset)[1]
            if not following:
                return
            offset += following


def call(
    command: Command,
    name: str = "",
    *,
    uuid: str = "",
    flags: int = 0,
    targets: Sequence[Target] = (),
    udev_flags: int = 0,
) -> Answer:
    """Ask the kernel. `udev_flags` go to udev(7) with the event that the command causes.

    Raises OSError; its `filename` is `CONTROL` when the device mapper itself could not be opened. ENXIO: no such
    device.
    """
    encoded_name, encoded_uuid = os.fsencode(name), os.fsencode(uuid)
    if len(encoded_name) > _NAME_BYTES or len(encoded_uuid) > _UUID_BYTES:
        raise ValueError(f"{name!r} or its uuid {uuid!r} is too long for the device mapper")
    payload = b"".join(map(_packed, targets))
    size = max(_BUFFER_BYTES, _HEADER.size + len(payload))
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            header = (*_VERSION, size, _HEADER.size, len(targets), 0, flags, udev_flags << 16, 0, 0)
            buffer = bytearray(_HEADER.pack(*header, encoded_name, encoded_uuid) + payload).ljust(size, b"\0")
            fcntl.ioctl(control, request(command), buffer)
            answer = _answer(buffer)
            if not answer.flags & _BUFFER_FULL or size >= _LARGEST_BUFFER_BYTES:
                return answer
            size *= 4
    finally:
        os.close(control)


def request(command: Command) -> int:
    """A command's ioctl number: _IOWR(0xfd, command, struct dm_ioctl), asm-generic/ioctl.h."""
    return 3 << 30 | _HEADER.size << 16 | 0xFD << 8 | command


def _packed(target: Target) -> bytes:
    parameters = os.fsencode(target.parameters) + b"\0"
    parameters += bytes(-(_SPEC.size + len(parameters)) % 8)
    size = _SPEC.size + len(parameters)
    return _SPEC.pack(target.start, target.length, 0, size, target.type.encode()) + parameters


def _answer(buffer: bytearray) -> Answer:
    _, _, _, size, start, count, open_count, flags, _, _, device, name, uuid = _HEADER.unpack_from(buffer)
    return Answer(_text(name), _text(uuid), device, flags, open_count, count, bytes(buffer[start:size]))


def _text(field_or_rest: bytes) -> str:
    return os.fsdecode(field_or_rest.split(b"\0", 1)[0])
