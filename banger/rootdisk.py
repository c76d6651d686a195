"""What every storage plugin's root disk has in common: one file of a VM's own that belongs to one image.

A plugin says how it is made; when it is whole, when it may grow in place and when only a new one will do is said here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from banger.host import Host, HostView
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import Image, Size, Vm


@dataclass(frozen=True)
class RootDiskFile(Resource):
    """An ext4 image at `path`, made for the image of this digest."""

    key: str
    needs: tuple[str, ...]
    path: Path
    image: Image
    size_bytes: int
    stage = "prepare_root_disk"

    @classmethod
    def of(cls, vm: Vm, image: Image, part: str) -> Self:
        """This VM's; `part` is the last word of its key."""
        return cls(f"{vm.name}/root/{part}", (vm.directory_key,), vm.root_overlay, image, vm.root_disk_bytes)

    @property
    def image_note(self) -> Path:
        """Says which image the disk was made for. Written last, so a disk is whole when it is there."""
        return self.path.with_suffix(".image")

    @abstractmethod
    def make(self, host: Host, stage: Stage) -> None:
        """Make the file at `path`, of `size_bytes`; what half of it an earlier try has left is in the way of nobody."""

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        status = host.files.status(self.path)
        if status is None or host.files.status(self.image_note) is None:
            return Absent()
        if host.files.read(self.image_note).decode() != self.image.digest:
            return Drifted({}, ("made for another image",), in_place=False)
        if status.size_bytes != self.size_bytes:
            difference = f"root_disk {Size(status.size_bytes)} -> {Size(self.size_bytes)}"
            return Drifted({}, (difference,), in_place=status.size_bytes < self.size_bytes)
        return Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        host.files.remove(self.image_note)
        self.make(host, stage)
        host.files.write(self.image_note, self.image.digest.encode())
        return {}

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        stage("growing the root disk")
        host.ext4.grow(self.path, self.size_bytes)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove(self.image_note)
        host.files.remove(self.path)
