"""The file that a snapshot keeps what its VM wrote in: how large it must be, and what its note says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from banger.host import Host, HostView
from banger.resource import Drifted, Handle, Stage
from banger.rootdisk import RootDiskFile, note_of
from banger.scalars import human
from banger.types import Image, Size, Vm

__all__ = ["CHUNK_BYTES", "CHUNK_SECTORS", "CowFile", "overlay_size"]

CHUNK_BYTES = 4096
CHUNK_SECTORS = CHUNK_BYTES // 512
_EXCEPTION_BYTES = 16
_AREA_CHUNKS = CHUNK_BYTES // _EXCEPTION_BYTES
"""The layout of drivers/md/dm-snap-persistent.c: one chunk of header, then again and again one chunk of table and the
chunks that it tells of, one for each of its entries. When a table is full, the next one is cleared at once."""
_STEP_BYTES = 2**20
_GROWING = "growing"
_GIVEN_UP = "the kernel gave its overlay up when writing to it failed (is the host's disk full?)"


def overlay_size(disk_bytes: int, asked_bytes: int | None) -> int:
    """How large the file must be, in bytes: as asked, else so that a disk of `disk_bytes` can be all rewritten.

    A file that ends just where the table after a full one would begin is given one chunk more: the kernel clears that
    table all the same, fails beyond the end, and gives the whole snapshot up instead of calling it full (Linux 6.1).
    A file of 256 MiB is such a one.
    """
    if asked_bytes is None:
        data = -(-disk_bytes // CHUNK_BYTES)
        tables = data // _AREA_CHUNKS + 1
        asked_bytes = -(-(1 + tables + data + 1) * CHUNK_BYTES // _STEP_BYTES) * _STEP_BYTES
    chunks = -(-asked_bytes // CHUNK_BYTES)
    return (chunks + (chunks % (_AREA_CHUNKS + 1) == 1)) * CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Filled:
    """How far the file system on a root disk reaches. `growing`: it is being enlarged to this, or that was cut off."""

    size_bytes: int
    growing: bool = False


@dataclass(frozen=True)
class CowFile(RootDiskFile):
    """A sparse file for what a VM writes to its root disk. It is made once, and may grow (seed S8).

    Its note has two more words once the root disk has become larger than its image: how far the file system reaches,
    and `growing` as long as that is not yet so.
    """

    root_disk_bytes: int = 0
    overlay_bytes: int | None = None

    @classmethod
    def of_vm(cls, vm: Vm, image: Image) -> CowFile:
        disk_bytes = max(vm.root_disk_bytes, image.facts.rootfs_bytes)
        return replace(
            cls.of(vm, image, "cow"),
            size_bytes=overlay_size(disk_bytes, vm.overlay_bytes),
            root_disk_bytes=vm.root_disk_bytes,
            overlay_bytes=vm.overlay_bytes,
        )

    def make(self, host: Host, stage: Stage) -> None:
        stage("making the overlay")
        host.files.allocate(self.path, self.size_bytes)

    def observe_size(self, host: HostView) -> Drifted | None:
        status = host.files.status(self.path)
        assert status is not None, "asked only of what is there"
        filled_bytes = self.filled(host).size_bytes
        grown_disk = f"root_disk {Size(filled_bytes)} -> {Size(self.root_disk_bytes)}"
        differences: list[str] = []
        in_place = True
        valid = host.mapper.store_is_valid(self.path)
        if not valid:
            differences.append(_GIVEN_UP)
        if self.root_disk_bytes < filled_bytes:
            differences.append(grown_disk)
            in_place = False
        if status.size_bytes != self.size_bytes and self.overlay_bytes is not None:
            differences.append(f"overlay {human(status.size_bytes)} -> {human(self.size_bytes)}")
            in_place = in_place and status.size_bytes < self.size_bytes
        elif status.size_bytes < self.size_bytes:
            same_disk = self.root_disk_bytes == filled_bytes
            differences.append("overlay as large as root_disk" if same_disk else grown_disk)
        return Drifted({}, tuple(differences), in_place=in_place, usable=valid) if differences else None

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        """Enlarge the file; one that was given up holds all that had been written by then, so it is taken up again."""
        if not host.mapper.store_is_valid(self.path):
            stage("taking the overlay up again")
            host.mapper.revive_store(self.path)
        status = host.files.status(self.path)
        if status is not None and status.size_bytes < self.size_bytes:
            stage("enlarging the overlay")
            host.files.allocate(self.path, self.size_bytes)
        return {}

    def describe(self, host: HostView, handle: Handle) -> dict[str, str]:
        """What it takes on the host's disk; how full it is for the guest only a running snapshot knows."""
        status = host.files.status(self.path)
        if status is None:
            return {}
        if not host.mapper.store_is_valid(self.path):
            return {"overlay": _GIVEN_UP}
        return {"overlay": f"{human(status.allocated_bytes)} of {human(status.size_bytes)} on disk"}

    def filled(self, host: HostView) -> Filled:
        """How far the file system reaches; at first as far as the image's."""
        words = note_of(host, self.path)[2:]
        if not words or not words[0].isdecimal():
            return Filled(self.image.facts.rootfs_bytes)
        return Filled(int(words[0]), words[1:] == [_GROWING])

    def note_filled(self, host: Host, filled: Filled) -> None:
        words = [*self.note, str(filled.size_bytes), *([_GROWING] if filled.growing else [])]
        host.files.write(self.image_note, " ".join(words).encode())
