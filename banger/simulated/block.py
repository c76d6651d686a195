"""Loop devices and the device mapper in memory. A part of `banger.testing`.

A snapshot shows its origin's tree overlaid by what was written to it, and keeps that in the file of its store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from banger.errors import BangerError, Busy, DiskError, HostError
from banger.host import LoopDevice, MapperDevice, Target
from banger.simulated.files import File, Store
from banger.simulated.tree import Entry, Tree

if TYPE_CHECKING:
    from banger.testing import SimulatedHost

_SECTOR_BYTES = 512
_CHUNK_BYTES = 4096
_CHUNK_SECTORS = _CHUNK_BYTES // _SECTOR_BYTES
_FIRST_CHUNKS = 2
"""The header of a snapshot's store, and the first of its tables."""


@dataclass
class _Loop:
    device: LoopDevice
    file: File
    held: int = 0


class SimulatedLoops:
    """`banger.host.Loops` in memory. `direct`: the files that were attached to be read and written past the cache."""

    def __init__(self, host: SimulatedHost) -> None:
        self.direct: set[Path] = set()
        self._host = host
        self._attached: dict[str, _Loop] = {}

    @property
    def all(self) -> list[LoopDevice]:
        """Every one that is attached, for tests."""
        return [loop.device for loop in self._attached.values()]

    def of(self, backing: Path, *, number: str = "") -> list[LoopDevice]:
        file = self._host.files.file(backing)
        found = [loop.device for loop in self._attached.values() if loop.file is file]
        return [device for device in found if number in ("", device.number)]

    def devices(self) -> list[LoopDevice]:
        """A file that is not where it was attached from was removed since."""
        return [
            loop.device
            if self._host.files.file(loop.device.backing) is loop.file
            else replace(loop.device, backing=Path(f"{loop.device.backing} (deleted)"))
            for _, loop in sorted(self._attached.items(), key=lambda item: int(item[0].partition(":")[2]))
        ]

    @contextlib.contextmanager
    def attached(
        self, backing: Path, *, read_only: bool = False, share: bool = False, direct: bool = False
    ) -> Iterator[LoopDevice]:
        held: list[_Loop] = []
        try:
            there = [each for each in self.of(backing) if each.read_only] if share and read_only else []
            if there:
                self._hold(there[0].number, held)
            else:
                with self._host.effect(f"loops.attach {backing}"):
                    self.direct |= {backing} if direct else set()
                    self._hold(self.add(backing, read_only=read_only, autoclear=True).number, held)
            yield held[0].device
        finally:  # as the kernel does when a process ends, however it does
            for loop in held:
                loop.held -= 1
            self.clear_unused()

    def detach(self, device: LoopDevice) -> None:
        with self._host.effect(f"loops.detach {device.path}"):
            loop = self._attached.get(device.number)
            if loop is None or loop.device.backing != device.backing:
                return
            loop.device = replace(loop.device, autoclear=True)
            self.clear_unused()
            if device.number in self._attached:
                raise Busy(f"{device.path} of {device.backing} is in use")

    def add(self, backing: Path, *, read_only: bool = False, autoclear: bool = False) -> LoopDevice:
        """One attached by somebody else; no effect is counted."""
        file = self._host.files.file(backing)
        if file is None:
            raise BangerError(f"cannot attach {backing} to a loop device: No such file or directory")
        minor = next(n for n in range(len(self._attached) + 1) if f"7:{n}" not in self._attached)
        size_bytes = file.size_bytes // _SECTOR_BYTES * _SECTOR_BYTES
        device = LoopDevice(Path(f"/dev/loop{minor}"), f"7:{minor}", backing, size_bytes, read_only, autoclear)
        self._attached[device.number] = _Loop(device, file)
        return device

    def file(self, number: str) -> File | None:
        """The file behind a device."""
        loop = self._attached.get(number)
        return loop.file if loop else None

    def size_bytes(self, number: str) -> int:
        return self._attached[number].device.size_bytes

    def number(self, path: Path) -> str:
        """Of the device with this path; empty when there is none."""
        return next((device.number for device in self.all if device.path == path), "")

    def clear_unused(self) -> None:
        """What the kernel does when a device's last user goes."""
        for number, loop in list(self._attached.items()):
            if loop.device.autoclear and not loop.held and not self._host.mapper.uses(number):
                self._attached.pop(number, None)

    def clear(self) -> None:
        self._attached.clear()

    def _hold(self, number: str, held: list[_Loop]) -> None:
        self._attached[number].held += 1
        held.append(self._attached[number])


@dataclass
class _Mapped:
    name: str
    uuid: str
    minor: int
    read_only: bool = False
    loaded: tuple[Target, ...] = ()
    table: tuple[Target, ...] = ()
    linked: bool = False
    overflowed: bool = False

    @property
    def number(self) -> str:
        return f"254:{self.minor}"

    @property
    def paths(self) -> set[Path]:
        return {Path(f"/dev/dm-{self.minor}"), *({Path("/dev/mapper", self.name)} if self.linked else ())}

    @property
    def stands_on(self) -> set[str]:
        """The devices named in its tables."""
        return {word for target in (*self.table, *self.loaded) for word in target.parameters.split() if ":" in word}


@dataclass
class SimulatedMapper:
    """`banger.host.Mapper` in memory.

    `available`: whether this kernel has a device mapper; `targets`: the types it has; `opened`: names of devices that
    somebody holds open. A live process holds those in its command line.
    """

    _host: SimulatedHost
    available: bool = True
    targets: set[str] = field(default_factory=lambda: {"linear", "snapshot", "zero"})
    opened: set[str] = field(default_factory=set)
    _devices: dict[str, _Mapped] = field(default_factory=dict)

    def device(self, name: str) -> MapperDevice | None:
        mapped = self._devices.get(name)
        if mapped is None:
            return None
        return MapperDevice(
            mapped.name,
            mapped.uuid,
            Path(f"/dev/dm-{mapped.minor}"),
            mapped.number,
            mapped.read_only,
            self._open_count(mapped),
            mapped.linked,
            mapped.table,
        )

    def status(self, name: str) -> tuple[Target, ...]:
        mapped = self._devices.get(name)
        if mapped is None:
            return ()
        return tuple(replace(target, parameters=self._said(mapped, target)) for target in mapped.table)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self._devices if name.startswith(prefix))

    def supports(self, target: str) -> bool:
        return self.available and target in self.targets

    def store_is_valid(self, cow: Path) -> bool:
        file = self._host.files.file(cow)
        if file is None:
            raise BangerError(f"cannot read {cow}: No such file or directory")
        return file.store is None or file.store.valid

    def create(self, name: str, table: Sequence[Target], *, uuid: str, read_only: bool = False) -> MapperDevice:
        if not self.available:
            raise HostError(f"cannot make the device {name}: this kernel has no device mapper")
        self._begin(name, uuid)
        try:
            with self._host.effect(f"mapper.load {name}"):
                self._load(self._devices[name], table, read_only)
            with self._host.effect(f"mapper.resume {name}"):
                mapped = self._devices[name]
                mapped.table, mapped.loaded = mapped.loaded, ()
            with self._host.effect(f"mapper.link {name}"):
                self._devices[name].linked = True
        except BangerError:
            self._devices.pop(name, None)
            raise
        made = self.device(name)
        assert made is not None
        return made

    def remove(self, name: str) -> None:
        with self._host.effect(f"mapper.remove {name}"):
            mapped = self._devices.get(name)
            if mapped is not None and self._open_count(mapped):
                raise Busy(f"cannot remove the device {name}: it is in use")
            self._devices.pop(name, None)
            self._host.loops.clear_unused()

    def revive_store(self, cow: Path) -> None:
        with self._host.effect(f"mapper.revive_store {cow}"):
            file = self._host.files.file(cow)
            if file is None or file.store is None:
                raise BangerError(f"{cow} is no store of a snapshot")
            file.store.valid = True

    def give_up(self, name: str) -> None:
        """Writing to a snapshot's store fails, as on a full disk: the kernel gives the snapshot up."""
        store = self._store(self._devices[name])
        assert store is not None, f"{name} is no snapshot"
        store.valid = False

    def file(self, path: Path) -> File | None:
        """The file that what is written to this device ends up in; None for what is no device."""
        mapped = self._by_path(path)
        return self._behind(mapped.number if mapped else self._host.loops.number(path))

    def size_bytes(self, path: Path) -> int | None:
        """Of a device; None for what is none."""
        mapped = self._by_path(path)
        if mapped is not None:
            return sum(target.length for target in mapped.table) * _SECTOR_BYTES
        number = self._host.loops.number(path)
        return self._host.loops.size_bytes(number) if number else None

    def is_open(self, path: Path) -> bool:
        mapped = self._by_path(path)
        return mapped is not None and self._open_count(mapped) > 0

    def uses(self, number: str) -> bool:
        """Whether a device stands on the one of this number."""
        return any(number in mapped.stands_on for mapped in self._devices.values())

    def take_room(self, path: Path, changed: Tree) -> None:
        """A device is about to hold this. Raises DiskError when a snapshot's store is too small for it."""
        mapped = self._by_path(path)
        store = self._store(mapped) if mapped else None
        if mapped is None or store is None:
            return
        mapped.overflowed |= _used_sectors(changed, store.origin) > self._store_sectors(mapped)
        if mapped.overflowed:
            raise DiskError(f"cannot write to {path}: Input/output error")

    def clear(self) -> None:
        self._devices.clear()

    def _begin(self, name: str, uuid: str) -> None:
        there = [each for each in self._devices.values() if name == each.name or uuid == each.uuid]
        if there and ((there[0].name, there[0].uuid) != (name, uuid) or there[0].table):
            raise Busy(f"cannot make the device {name}: there is one of this name or uuid already")
        if there:
            return
        with self._host.effect(f"mapper.create {name}"):
            minors = {each.minor for each in self._devices.values()}
            minor = next(n for n in range(len(minors) + 1) if n not in minors)
            self._devices[name] = _Mapped(name, uuid, minor)

    def _load(self, mapped: _Mapped, table: Sequence[Target], read_only: bool) -> None:
        if missing := sorted({target.type for target in table} - self.targets):
            raise HostError(f"this kernel has no device-mapper target {', '.join(missing)}")
        mapped.loaded, mapped.read_only = tuple(table), read_only
        for number in mapped.stands_on:
            if self._behind(number) is None:
                raise BangerError(f"cannot make the device {mapped.name}: No such device or address")
        snapshot = _snapshot_numbers(mapped.loaded)
        if snapshot is not None:
            origin, cow = (self._behind(number) for number in snapshot)
            assert origin is not None and cow is not None
            if not isinstance(origin.content, Tree):
                raise AssertionError("a simulated snapshot is of a simulated file system")
            cow.store = cow.store or Store(origin.content.copy(), origin.content)

    def _behind(self, number: str) -> File | None:
        """The file behind a device: a snapshot's store, else what its first line stands on."""
        mapped = next((each for each in self._devices.values() if each.number == number), None)
        if mapped is None:
            return self._host.loops.file(number)
        first = mapped.table[0].parameters.split()[:1] if mapped.table else []
        numbers = _snapshot_numbers(mapped.table) or first
        return self._behind(numbers[-1]) if numbers else None

    def _store(self, mapped: _Mapped) -> Store | None:
        file = self._behind(mapped.number) if _snapshot_numbers(mapped.table) else None
        return file.store if file else None

    def _store_sectors(self, mapped: _Mapped) -> int:
        file = self._behind(mapped.number)
        return file.size_bytes // _SECTOR_BYTES if file else 0

    def _said(self, mapped: _Mapped, target: Target) -> str:
        store = self._store(mapped)
        if target.type != "snapshot" or store is None:
            return ""
        if not store.valid:
            return "Invalid"
        if mapped.overflowed:
            return "Overflow"
        used = _used_sectors(store.tree, store.origin)
        return f"{used}/{self._store_sectors(mapped)} {_FIRST_CHUNKS * _CHUNK_SECTORS}"

    def _open_count(self, mapped: _Mapped) -> int:
        used = any(self._host.processes.uses(path) for path in mapped.paths)
        return used + self.uses(mapped.number) + (mapped.name in self.opened)

    def _by_path(self, path: Path) -> _Mapped | None:
        return next((each for each in self._devices.values() if path in each.paths), None)


def _snapshot_numbers(table: Sequence[Target]) -> tuple[str, str] | None:
    """Origin and store of a snapshot's table."""
    if not table or table[0].type != "snapshot":
        return None
    origin, cow = table[0].parameters.split()[:2]
    return origin, cow


def _used_sectors(tree: Tree, origin: Tree) -> int:
    """What of a store is taken by what differs: each changed inode, and its content."""
    paths = tree.entries.keys() | origin.entries.keys()
    changed = [path for path in paths if tree.entries.get(path) != origin.entries.get(path)]
    contents = [tree.entries.get(path, Entry("file")).content for path in changed]
    chunks = sum(1 + -(-len(content) // _CHUNK_BYTES) for content in contents)
    return (_FIRST_CHUNKS + chunks) * _CHUNK_SECTORS
