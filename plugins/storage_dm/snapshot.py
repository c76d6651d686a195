"""A VM's root disk as a device: a snapshot of the image's file system that keeps what is written in the VM's overlay.

    overlay file -- loop ----------------------------- banger-ID-root (snapshot)
    image ------ loop, one for all VMs of the image --/   or, for a disk larger than the image,
                   \\-- banger-ID-root-base (linear, then zeros, read-only) --/

All of it is found by the VM's id and the overlay's path alone. The loops go by themselves with what stands on them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from banger.errors import DiskError
from banger.host import Host, HostView, LoopDevice, MapperDevice, Target
from banger.resource import Absent, Drifted, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.scalars import human
from banger.types import Size, Vm

from .overlay import CHUNK_BYTES, CHUNK_SECTORS, CowFile, Filled

__all__ = ["Snapshot"]

_SECTOR_BYTES = 512
_OVERFLOW = "Overflow"
"""What the kernel says of a snapshot that could not write something for want of room; reading goes on."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What there is of it: the snapshot, what makes the image as large as the disk, and the loops beneath them."""

    device: MapperDevice | None
    base: MapperDevice | None
    origin: LoopDevice | None
    cow: LoopDevice | None


@dataclass(frozen=True, slots=True)
class _Usage:
    """What a snapshot says of itself. Without numbers it does not work any more, and `said` is why."""

    said: str
    used_bytes: int = 0
    total_bytes: int = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another chunk."""
        return self.said == _OVERFLOW or (self.total_bytes > 0 and self.used_bytes + CHUNK_BYTES > self.total_bytes)


@dataclass(frozen=True)
class Snapshot(Resource):
    """The devices. Without `overlay` (made from a recorded handle) they can be looked for and removed, not made."""

    key: str
    needs: tuple[str, ...]
    vm_id: str
    cow: Path
    overlay: CowFile | None = None
    lifetime = Lifetime.BOOT
    stage = "prepare_root_disk"

    @classmethod
    def of(cls, vm: Vm, overlay: CowFile | None = None) -> Snapshot:
        needs = (overlay.key,) if overlay else ()
        return cls(f"{vm.name}/root/snapshot", needs, vm.id, vm.root_overlay, overlay)

    @property
    def name(self) -> str:
        return f"banger-{self.vm_id}-root"

    @property
    def path(self) -> Path:
        """The device, by the name that leads to it however it is numbered."""
        return Path("/dev/mapper") / self.name

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        parts = self._parts(host)
        if parts.device is None and parts.base is None:
            return Absent()
        handle = self._handle(parts)
        if self.overlay is None:
            return Present(handle)
        differences = self._differences(host, self.overlay, parts)
        return Drifted(handle, differences, usable=False) if differences else Present(handle)

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if self.overlay is None:
            raise ValueError(f"{self.key} was made from a handle and cannot be made")
        self.remove(host, None, stage)
        image = self.overlay.image
        with ExitStack() as held:
            with host.locked(f"base-{image.digest}"):  # or two at once would each attach it
                origin = held.enter_context(host.loops.attached(image.rootfs, read_only=True, share=True))
            cow = held.enter_context(host.loops.attached(self.cow, direct=True))
            self._map(host, origin, cow, self._size_bytes(self.overlay, self.overlay.filled(host), origin))
        self._refuse_unusable(host)
        self._fill(host, self.overlay, stage)
        return self._handle(self._parts(host))

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        """Make it anew: nothing lasts in a device, and whoever has it open keeps it from going (Busy)."""
        return self.create(host, {}, stage)

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.mapper.remove(self.name)
        host.mapper.remove(self._base_name)
        for loop in host.loops.of(self.cow):  # attached by somebody else; ours have gone
            host.loops.detach(loop)

    def describe(self, host: HostView, handle: Handle) -> dict[str, str]:
        usage = self._usage(host)
        if usage is None:
            return {}
        if problem := self._problem(host, usage):
            return {"overlay": problem}
        share = 100 * usage.used_bytes / usage.total_bytes
        return {"overlay": f"{human(usage.used_bytes)} of {human(usage.total_bytes)} ({share:.1f}%)"}

    def by_hand(self, host: HostView) -> Sequence[str]:
        """The loops' numbers are not known before they are there, so the shell is to fill them in.

        Before the image is built nobody knows how large it will be.
        """
        if self.overlay is None or not self.overlay.image.facts.rootfs_bytes:
            return ()
        image, facts = self.overlay.image, self.overlay.image.facts
        filled_bytes = self.overlay.filled(host).size_bytes
        size_bytes = max(self.overlay.root_disk_bytes // CHUNK_BYTES * CHUNK_BYTES, facts.rootfs_bytes, filled_bytes)
        commands = [
            f"base=$(losetup --find --show --read-only {shlex.quote(str(image.rootfs))})",
            f"cow=$(losetup --find --show --direct-io=on {shlex.quote(str(self.cow))})",
        ]
        origin = "$base"
        if size_bytes > facts.rootfs_bytes:
            origin = f"/dev/mapper/{self._base_name}"
            table = "\\n".join(map(str, _base_table("$base", facts.rootfs_bytes, size_bytes)))
            commands.append(f'printf "{table}" | {self._dmsetup(self._base_name)} --readonly')
        (target,) = _snapshot_table(origin, "$cow", size_bytes)
        return (*commands, f'{self._dmsetup(self.name)} --table "{target}"')

    def undo_by_hand(self) -> Sequence[str]:
        cow = shlex.quote(str(self.cow))
        return (
            f"for name in {self.name} {self._base_name}; do",
            '    if grep -qsx "$name" /sys/block/dm-*/dm/name; then',
            '        dmsetup remove --retry "$name" || exit 1',
            "    fi",
            '    rm -f "/dev/mapper/$name"',
            "done",
            f"if [ -e {cow} ] && command -v losetup >/dev/null; then",
            f"    for device in $(losetup --noheadings --output NAME --associated {cow}); do",
            '        losetup --detach "$device" || exit 1',
            "    done",
            "fi",
        )

    @property
    def _base_name(self) -> str:
        return f"{self.name}-base"

    def _uuid(self, name: str) -> str:
        return f"BANGER-{name.removeprefix('banger-')}"

    def _dmsetup(self, name: str) -> str:
        return f"dmsetup create {name} --uuid {self._uuid(name)}"

    def _map(self, host: Host, origin: LoopDevice, cow: LoopDevice, size_bytes: int) -> None:
        number = origin.number
        if size_bytes > origin.size_bytes:
            table = _base_table(origin.number, origin.size_bytes, size_bytes)
            number = host.mapper.create(self._base_name, table, uuid=self._uuid(self._base_name), read_only=True).number
        host.mapper.create(self.name, _snapshot_table(number, cow.number, size_bytes), uuid=self._uuid(self.name))

    @staticmethod
    def _size_bytes(overlay: CowFile, filled: Filled, origin: LoopDevice) -> int:
        """As large as wanted, in whole chunks; never smaller than the file system that is on it."""
        wanted_bytes = overlay.root_disk_bytes // CHUNK_BYTES * CHUNK_BYTES
        return max(wanted_bytes, filled.size_bytes, origin.size_bytes)

    def _fill(self, host: Host, overlay: CowFile, stage: Stage) -> None:
        """Let the file system reach to the device's end. What it is being enlarged to is noted before that begins.

        The note says also that the file system was sound then: whatever is wrong with it after is mended.
        """
        device = host.mapper.device(self.name)
        assert device is not None, "it was made just now"
        filled = overlay.filled(host)
        if device.size_bytes > filled.size_bytes or filled.growing:
            stage("growing the root disk")
            try:
                if not filled.growing:
                    host.ext4.recover(self.path, thoroughly=True)
                overlay.note_filled(host, Filled(device.size_bytes, growing=True))
                host.ext4.grow(self.path, device.size_bytes, interrupted=filled.growing)
            except DiskError:
                self._refuse_unusable(host)
                raise
            overlay.note_filled(host, Filled(device.size_bytes))

    def _parts(self, host: HostView) -> _Parts:
        device, base = host.mapper.device(self.name), host.mapper.device(self._base_name)
        words = device.table[0].parameters.split() if device and device.table else []
        beneath = base.table[0].parameters.split() if base and base.table else words
        origin = host.loops.of(self.overlay.image.rootfs, number=beneath[0]) if self.overlay and beneath else []
        cow = host.loops.of(self.cow, number=words[1]) if len(words) > 1 else []
        return _Parts(device, base, next(iter(origin), None), next(iter(cow), None))

    def _differences(self, host: HostView, overlay: CowFile, parts: _Parts) -> tuple[str, ...]:
        device, base, origin, cow = parts.device, parts.base, parts.origin, parts.cow
        if device is None or not device.table or not device.linked:
            return ("was not finished",)
        if origin is None:
            return ("is of another image",)
        if cow is None:
            return ("keeps what is written in another file",)
        filled = overlay.filled(host)
        size_bytes = self._size_bytes(overlay, filled, origin)
        if device.size_bytes != size_bytes:
            return (f"root_disk {Size(device.size_bytes)} -> {Size(size_bytes)}",)
        larger = size_bytes > origin.size_bytes
        number = base.number if base and larger else origin.number
        expected = (
            _base_table(origin.number, origin.size_bytes, size_bytes) if larger else (),
            _snapshot_table(number, cow.number, size_bytes),
        )
        if (base.table if base else (), device.table) != expected:
            return ("its devices are put together differently",)
        if (usage := self._usage(host)) and (problem := self._problem(host, usage)):
            return (problem,)
        if filled.growing or filled.size_bytes < size_bytes:
            return ("growing the root disk was interrupted",)
        return ()

    def _refuse_unusable(self, host: HostView) -> None:
        if (usage := self._usage(host)) and (problem := self._problem(host, usage)):
            raise DiskError(f"{self.key}: {problem}")

    def _problem(self, host: HostView, usage: _Usage) -> str:
        """What keeps the snapshot from working, in the playbook's words; empty when nothing does."""
        if usage.is_full:
            status = host.files.status(self.cow)
            size = human(status.size_bytes) if status else ""
            return f"its overlay is full{size and f' ({size} of {size})'}: raise `overlay`, then apply --restart"
        if not usage.total_bytes:
            return f"the kernel gave its overlay up ({usage.said}) when writing to it failed (is the host's disk full?)"
        return ""

    def _usage(self, host: HostView) -> _Usage | None:
        """From the status of the target `snapshot`: `USED/TOTAL METADATA` in sectors, or a word that says why not."""
        status = host.mapper.status(self.name)
        if not status:
            return None
        said = status[0].parameters
        used, _, rest = said.partition("/")
        total = rest.partition(" ")[0]
        if not (used.isdecimal() and total.isdecimal()):
            return _Usage(said)
        return _Usage(said, int(used) * _SECTOR_BYTES, int(total) * _SECTOR_BYTES)

    def _handle(self, parts: _Parts) -> Handle:
        """What the kernel called the parts that are there (seed S1)."""
        devices = {"base_loop": parts.origin, "cow_loop": parts.cow, "dm_device": parts.device}
        return {"dm_name": self.name} | {word: str(device.path) for word, device in devices.items() if device}


def _base_table(origin: str, image_bytes: int, size_bytes: int) -> tuple[Target, ...]:
    """The image, and zeros up to the disk's size."""
    image_sectors = image_bytes // _SECTOR_BYTES
    more_sectors = size_bytes // _SECTOR_BYTES - image_sectors
    return (Target(0, image_sectors, "linear", f"{origin} 0"), Target(image_sectors, more_sectors, "zero"))


def _snapshot_table(origin: str, cow: str, size_bytes: int) -> tuple[Target, ...]:
    """P: what is written lasts. O: a store without room fails what needs more, and keeps what it has."""
    return (Target(0, size_bytes // _SECTOR_BYTES, "snapshot", f"{origin} {cow} PO {CHUNK_SECTORS}"),)
