"""The device mapper by its ioctls: `banger.host.Mapper`. No dmsetup(8) is needed, but each change is logged as one.

With or without udev(7) it is the same: /dev/mapper/NAME is there when `create` returns and gone when `remove` does, and
nobody looks into what is a guest's disk.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from banger.errors import BangerError, Busy, HostError
from banger.host import MapperDevice, Target
from banger.linux import dm_ioctl
from banger.linux.dm_ioctl import Answer, Command

__all__ = ["LinuxMapper", "create_command", "remove_command"]

_log = logging.getLogger(__name__)

_LINKS = Path("/dev/mapper")
_BLOCK = Path("/sys/block")
_UDEV_FLAGS = 0x40 | 0x1 | 0x2 | 0x4 | 0x8
"""libdevmapper.h: the event is an original one; and for it neither device-mapper, subsystem, disk nor other rules. The
first would have udev take away the name of a device when its successor of that name has long been made; the rest would
have blkid(8) read a guest's disk while it is being removed, and activate what LVM finds on it."""
_BUSY_TIMEOUT_S = 1.0
_PAUSE_S = 0.01
_NO_DRIVER = {errno.ENOENT, errno.ENODEV, errno.ENXIO}
"""Opening the control device, where the kernel has no device mapper."""
_NO_PERMISSION = {errno.EACCES, errno.EPERM}

_STORE = struct.Struct("<II")
"""The beginning of struct disk_header of drivers/md/dm-snap-persistent.c: magic, valid."""
_STORE_MAGIC = 0x70416E53


def create_command(name: str, table: Sequence[Target], *, uuid: str, read_only: bool = False) -> str:
    """The dmsetup(8) command line that makes this device, to be shown or pasted."""
    options = ["--uuid", uuid, *(["--readonly"] if read_only else [])]
    if len(table) == 1:
        return shlex.join(["dmsetup", "create", name, *options, "--table", str(table[0])])
    lines = shlex.join(["printf", r"%s\n", *map(str, table)])
    return f"{lines} | {shlex.join(['dmsetup', 'create', name, *options])}"


def remove_command(name: str) -> str:
    """The dmsetup(8) command line that takes this device away."""
    return shlex.join(["dmsetup", "remove", name])


class LinuxMapper:
    """See `banger.host.Mapper`."""

    def device(self, name: str) -> MapperDevice | None:
        """None when there is none of this name, or no device mapper at all. HostError when we may not look."""
        answer = self._look(name, dm_ioctl.STATUS_TABLE)
        return None if answer is None else _device(answer)

    def status(self, name: str) -> tuple[Target, ...]:
        """What the targets of a device say of themselves."""
        answer = self._look(name, dm_ioctl.NO_FLUSH)
        return () if answer is None else answer.targets()

    def names(self, prefix: str = "") -> list[str]:
        """The names of all devices that begin so; an ordinary user is told only of finished ones (sysfs)."""
        try:
            names = list(dm_ioctl.call(Command.LIST_DEVICES).names())
        except OSError as error:
            if error.errno not in _NO_DRIVER | _NO_PERMISSION:
                raise BangerError(f"cannot list the devices of the device mapper: {error.strerror}") from error
            names = [path.read_text().strip() for path in _BLOCK.glob("dm-*/dm/name")]
        return sorted(name for name in names if name.startswith(prefix))

    def supports(self, target: str) -> bool:
        """Whether the kernel has this type of target; False where we may not ask."""
        try:
            dm_ioctl.call(Command.GET_TARGET_VERSION, target)
        except OSError:
            return False
        return True

    def store_is_valid(self, cow: Path) -> bool:
        """Whether the store's header lacks the mark of having been given up."""
        magic, valid = self._store_header(cow)
        return magic != _STORE_MAGIC or bool(valid)

    def create(self, name: str, table: Sequence[Target], *, uuid: str, read_only: bool = False) -> MapperDevice:
        """Make a device and its /dev/mapper/NAME; what was begun is undone on failure."""
        _log.debug("run: %s", create_command(name, table, uuid=uuid, read_only=read_only))
        with _explained(f"make the device {name}"):
            self._begin(name, uuid)
            try:
                flags = dm_ioctl.READ_ONLY if read_only else 0
                dm_ioctl.call(Command.TABLE_LOAD, name, flags=flags, targets=table)
                device = dm_ioctl.call(Command.DEV_SUSPEND, name, udev_flags=_UDEV_FLAGS).device
                _link(name, device)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    dm_ioctl.call(Command.DEV_REMOVE, name, udev_flags=_UDEV_FLAGS)
                self._explain_refusal(error, table)
                raise
        made = self.device(name)
        assert made is not None, "it is there until somebody removes it"
        return made

    def remove(self, name: str) -> None:
        """Take a device away; one that is open only for a moment (udev) is waited for."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                with _explained(f"remove the device {name}"):
                    self._remove(name)
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                break
        with _explained(f"remove {_LINKS / name}"):
            for link in (_LINKS / name, _unfinished(name)):
                link.unlink(missing_ok=True)

    def revive_store(self, cow: Path) -> None:
        """Set the store's mark back to valid. Raises BangerError for what is no store."""
        magic, valid = self._store_header(cow)
        if magic != _STORE_MAGIC:
            raise BangerError(f"{cow} is no store of a snapshot")
        if valid:
            return
        with _explained(f"mend {cow}"):
            descriptor = os.open(cow, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, _STORE.pack(magic, 1), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _look(self, name: str, flags: int) -> Answer | None:
        try:
            return dm_ioctl.call(Command.TABLE_STATUS, name, flags=flags)
        except OSError as error:
            if error.errno in _NO_DRIVER:
                return None
            if error.errno in _NO_PERMISSION and name not in self.names(name):
                return None
            hint = "run as root" if error.errno in _NO_PERMISSION else None
            raise HostError(f"cannot look at the device {name}: {error.strerror}", hint=hint) from error

    def _begin(self, name: str, uuid: str) -> None:
        try:
            dm_ioctl.call(Command.DEV_CREATE, name, uuid=uuid)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            there = self.device(name)
            if there is None or there.uuid != uuid or there.table:
                raise Busy(
                    f"cannot make the device {name}: there is one of this name or uuid already",
                    hint=f"see which: dmsetup info {name}",
                ) from error

    def _remove(self, name: str) -> None:
        try:
            dm_ioctl.call(Command.DEV_REMOVE, name, udev_flags=_UDEV_FLAGS)
        except OSError as error:
            if error.errno not in _NO_DRIVER:
                raise
        else:
            _log.debug("run: %s", remove_command(name))

    def _explain_refusal(self, error: BaseException, table: Sequence[Target]) -> None:
        """The kernel says EINVAL for whatever it dislikes in a table. Raises HostError where a module is missing."""
        if isinstance(error, OSError) and error.errno == errno.EINVAL:
            missing = sorted({target.type for target in table if not self.supports(target.type)})
            if missing:
                modules = " ".join(f"dm_{kind.replace('-', '_')}" for kind in missing)
                raise HostError(
                    f"this kernel has no device-mapper target {', '.join(missing)}", hint=f"modprobe -a {modules}"
                ) from error

    def _store_header(self, cow: Path) -> tuple[int, int]:
        with _explained(f"read {cow}"):
            descriptor = os.open(cow, os.O_RDONLY | os.O_CLOEXEC)
            try:
                magic, valid = _STORE.unpack(os.pread(descriptor, _STORE.size, 0).ljust(_STORE.size, b"\0"))
            finally:
                os.close(descriptor)
        return magic, valid


def _device(answer: Answer) -> MapperDevice:
    major, minor = os.major(answer.device), os.minor(answer.device)
    return MapperDevice(
        name=answer.name,
        uuid=answer.uuid,
        path=Path(f"/dev/dm-{minor}"),
        number=f"{major}:{minor}",
        read_only=bool(answer.flags & dm_ioctl.READ_ONLY),
        open_count=answer.open_count,
        linked=_leads_to(_LINKS / answer.name, answer.device),
        table=answer.targets(),
    )


def _link(name: str, device: int) -> None:
    """/dev/mapper/NAME, as udev makes it for others."""
    link = _LINKS / name
    if _leads_to(link, device):
        return
    temporary = _unfinished(name)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"../dm-{os.minor(device)}")
    temporary.replace(link)


def _unfinished(name: str) -> Path:
    """What becomes /dev/mapper/NAME by rename(2), so that there always is the old or the new one."""
    return _LINKS / f".{name}.new"


def _leads_to(path: Path, device: int) -> bool:
    try:
        return path.stat().st_rdev == device
    except OSError:
        return False


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_PERMISSION:
            raise HostError(f"cannot {what}: {error.strerror}", hint="run as root") from error
        if error.errno in _NO_DRIVER and str(error.filename) == str(dm_ioctl.CONTROL):
            raise HostError(f"cannot {what}: this kernel has no device mapper", hint="modprobe dm_snapshot") from error
        if error.errno == errno.EBUSY:
            raise Busy(f"cannot {what}: it is in use") from error
        hint = "the kernel's reason: dmesg | tail" if error.errno == errno.EINVAL else None
        raise BangerError(f"cannot {what}: {error.strerror}", hint=hint) from error
