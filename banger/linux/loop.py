"""Loop devices, loop(4), by their ioctls: `banger.host.Loops`.

Every device is made with LO_FLAGS_AUTOCLEAR and held open while it is handed on: the kernel takes it away with its last
user, whatever becomes of us. Numbers and layouts are those of linux/loop.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shlex
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from banger.errors import BangerError, Busy, HostError
from banger.host import LoopDevice

_log = logging.getLogger(__name__)

_CONTROL = Path("/dev/loop-control")
_BLOCK = Path("/sys/block")
_BY_NUMBER = Path("/sys/dev/block")
_SECTOR_BYTES = 512
_PAGE_BYTES = 4096
"""No attribute of sysfs is longer."""

_CONFIGURE = 0x4C0A  # Linux 5.8
_CLR_FD = 0x4C01
_GET_STATUS64 = 0x4C05
_GET_FREE = 0x4C82
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
"""struct loop_info64: device, inode, rdevice, offset, sizelimit, number, two of encryption, flags, names, key, init."""
_CONFIG = struct.Struct(f"=II{_INFO.size}s64x")
"""struct loop_config: fd, block_size, info, reserved."""

_TRIES = 64
_PAUSE_S = 0.005
_GONE_TIMEOUT_S = 1.0
_NOT_YET_OR_NO_MORE = {errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOENT}
"""Of a device that another took first, that is just being cleared, or whose node is not there yet."""


class LinuxLoops:
    """See `banger.host.Loops`."""

    def of(self, backing: Path, *, number: str = "") -> list[LoopDevice]:
        """Those that this very file is attached to: named so by sysfs, and confirmed by the device where we may ask."""
        try:
            wanted = backing.stat()
        except OSError:
            return []
        directories = [f"{_BY_NUMBER}/{number}"] if number else _directories()
        found = [_device(directory) for directory in directories if _names(directory, wanted)]
        return [device for device in found if device is not None and _confirms(device, wanted)]

    def devices(self) -> list[LoopDevice]:
        """All that are attached, as sysfs tells."""
        found = [device for directory in _directories() if (device := _device(directory))]
        return sorted(found, key=lambda device: int(device.number.partition(":")[2]))

    @contextlib.contextmanager
    def attached(
        self, backing: Path, *, read_only: bool = False, share: bool = False, direct: bool = False
    ) -> Iterator[LoopDevice]:
        """A loop device of the whole file, held for the length of the block; it goes by itself with its last user."""
        with _explained(f"attach {backing} to a loop device"):
            held = self._joined(backing) if share and read_only else None
            descriptor, device = held or _attach(backing, read_only, direct)
        try:
            yield device
        finally:
            os.close(descriptor)

    def detach(self, device: LoopDevice) -> None:
        """Clear a device, or have it cleared by its last user; Busy when that one takes longer than a moment."""
        with _explained(f"detach {device.path}"):
            _clear(device)
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        while self.of(device.backing, number=device.number):
            if time.monotonic() > deadline:
                raise Busy(f"{device.path} of {device.backing} is in use", hint=f"see who: lsof {device.path}")
            time.sleep(_PAUSE_S)

    def _joined(self, backing: Path) -> tuple[int, LoopDevice] | None:
        """A read-only device of the whole file that is there already, held open.

        While it was not held it could go, and its number be another's by now: what counts is what it says when it is.
        """
        wanted = backing.stat()
        size_bytes = wanted.st_size // _SECTOR_BYTES * _SECTOR_BYTES
        for device in self.of(backing):
            with contextlib.suppress(OSError):
                descriptor = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    kernel_device, inode, _, offset, limit, *_, flags = _INFO.unpack(_status(descriptor))[:9]
                    whole = (offset, limit, device.size_bytes) == (0, 0, size_bytes)
                    if whole and flags & _READ_ONLY and (kernel_device, inode) == (wanted.st_dev, wanted.st_ino):
                        return descriptor, device
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        return None


def _attach(backing: Path, read_only: bool, direct: bool) -> tuple[int, LoopDevice]:
    """A new device of a file, and the descriptor that holds it."""
    options = [*(["--read-only"] if read_only else []), *(["--direct-io=on"] if direct else [])]
    _log.debug("run: %s", shlex.join(["losetup", "--find", "--show", *options, str(backing)]))
    access = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0) | (_DIRECT_IO if direct else 0)
    name = os.fsencode(backing)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    with _opened(backing, access) as file, _opened(_CONTROL, os.O_RDWR | os.O_CLOEXEC) as control:
        for attempt in range(_TRIES):
            number = fcntl.ioctl(control, _GET_FREE)
            try:
                descriptor = _configured(Path(f"/dev/loop{number}"), access, _CONFIG.pack(file, 0, info))
            except OSError as error:
                if error.errno not in _NOT_YET_OR_NO_MORE or attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_S)
                continue
            device = _device(f"{_BLOCK}/loop{number}")
            assert device is not None, "we hold it"
            return descriptor, device
    raise AssertionError("the last attempt returns or raises")


def _configured(path: Path, access: int, config: bytes) -> int:
    descriptor = os.open(path, access)
    try:
        fcntl.ioctl(descriptor, _CONFIGURE, config)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _clear(device: LoopDevice) -> None:
    try:
        wanted = device.backing.stat()
        with _opened(device.path, os.O_RDONLY | os.O_CLOEXEC) as descriptor:
            if _INFO.unpack(_status(descriptor))[:2] == (wanted.st_dev, wanted.st_ino):
                _log.debug("run: %s", shlex.join(["losetup", "--detach", str(device.path)]))
                fcntl.ioctl(descriptor, _CLR_FD)
    except OSError as error:
        if error.errno not in _NOT_YET_OR_NO_MORE:
            raise


def _status(descriptor: int) -> bytes:
    info = bytearray(_INFO.size)
    fcntl.ioctl(descriptor, _GET_STATUS64, info)
    return bytes(info)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _directories() -> list[str]:
    return sorted(str(path) for path in _BLOCK.iterdir() if path.name.startswith("loop"))


def _names(directory: str, wanted: os.stat_result) -> bool:
    """Whether the device that a directory of sysfs stands for says that it is of this file, by name."""
    backing = _text(f"{directory}/loop/backing_file")
    try:
        return backing is not None and os.path.samestat(os.stat(backing), wanted)  # noqa: PTH116  # asked of every disk
    except OSError:
        return False


def _confirms(device: LoopDevice, wanted: os.stat_result) -> bool:
    """Whether the device itself says so; an ordinary user may not ask, and the name is all there is to go by."""
    try:
        with _opened(device.path, os.O_RDONLY | os.O_CLOEXEC) as descriptor:
            return _INFO.unpack(_status(descriptor))[:2] == (wanted.st_dev, wanted.st_ino)
    except PermissionError:
        return True
    except OSError:
        return False


def _device(directory: str) -> LoopDevice | None:
    """The attached device that a directory of sysfs stands for."""
    texts = [_text(f"{directory}/{name}") for name in ("loop/backing_file", "loop/autoclear", "dev", "size", "ro")]
    backing, autoclear, number, sectors, read_only = texts
    if not (backing and autoclear and number and sectors and read_only):
        return None
    path = Path("/dev", Path(directory).readlink().name)
    size_bytes = int(sectors) * _SECTOR_BYTES
    return LoopDevice(path, number, Path(backing), size_bytes, read_only == "1", autoclear == "1")


def _text(path: str) -> str | None:
    """An attribute of sysfs; None when nothing is attached, or not any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fsdecode(os.read(descriptor, _PAGE_BYTES)).removesuffix("\n")
    except OSError:
        return None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise HostError(f"cannot {what}: {error.strerror}", hint="run as root") from error
    except OSError as error:
        if str(error.filename) == str(_CONTROL):
            raise HostError(f"cannot {what}: this host has no loop devices", hint="modprobe loop") from error
        raise BangerError(f"cannot {what}: {error.strerror}") from error
