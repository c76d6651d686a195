"""What every storage plugin's root disk has in common: one file of a VM's own that belongs to one image.

A plugin says how it is made; when it is whole, when it may grow in place and when only a new one will do is said here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from banger import diskfile
from banger.host import Host, HostView
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import Image, Problem, Vm


def image_note(root_disk: Path) -> Path:
    """Where it is noted for which image a root disk was made."""
    return root_disk.with_suffix(".image")


def image_of(host: HostView, root_disk: Path) -> str | None:
    """The digest of the image that a VM's root disk was made for; None without such a disk."""
    words = note_of(host, root_disk)
    return _digest(words) if len(words) > 1 else None


def note_of(host: HostView, root_disk: Path) -> list[str]:
    """The words noted of a root disk: its kind, its image (DIGEST or DIGEST.BUILD), what its storage adds; or none."""
    note = image_note(root_disk)
    if host.files.status(root_disk) is None or host.files.status(note) is None:
        return []
    return host.files.read(note).decode("utf-8", "replace").split()


def unbounded(vm: Vm, storage: str) -> list[Problem]:
    """The problem of a VM that wants its `overlay` bounded by a storage that cannot do it."""
    if vm.storage != storage or vm.overlay_bytes is None:
        return []
    message = f"'overlay' of the VM '{vm.name}' cannot be bounded by storage {storage}"
    return [Problem(vm.place_of("overlay"), message, "leave it out, or say storage: dm")]


@dataclass(frozen=True)
class RootDiskFile(Resource):
    """An ext4 image at `path`, made for the image of this digest."""

    key: str
    needs: tuple[str, ...]
    path: Path
    image: Image
    size_bytes: int
    stage = "prepare_root_disk"
    reads_image: ClassVar[bool] = True
    """Whether the disk is nothing without its image's file: then it is good for that very build of it only."""

    @classmethod
    def of(cls, vm: Vm, image: Image, part: str) -> Self:
        """This VM's; `part` is the last word of its key."""
        return cls(f"{vm.name}/root/{part}", (vm.directory_key,), vm.root_overlay, image, vm.root_disk_bytes)

    @property
    def image_note(self) -> Path:
        """Says which image the disk was made for. Written first, so that no disk is without it."""
        return image_note(self.path)

    @abstractmethod
    def make(self, host: Host, stage: Stage) -> None:
        """Make the file at `path`, of `size_bytes`. There is none when this is called."""

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        if host.files.status(self.path) is None:
            return Absent()
        made_for = note_of(host, self.path)[:2]
        if made_for != self.note:
            return Drifted({}, (self._mismatch(made_for),), in_place=False, usable=False)
        return self.observe_size(host) or Present()

    def observe_size(self, host: HostView) -> Drifted | None:
        """How a whole disk of the right image differs; None when it does not."""
        return diskfile.observe_size(host, self.path, self.size_bytes, "root_disk")

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        """The disk gets its name last, so it is whole when it is there."""
        self.remove(host, None, stage)
        diskfile.sweep(host, self.path.parent)
        replace(self, path=self._unfinished).make(host, stage)
        host.files.write(self.image_note, " ".join(self.note).encode())
        host.files.rename(self._unfinished, self.path)
        return {}

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        stage("growing the root disk")
        diskfile.grow(host, self.path, self.size_bytes)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        diskfile.remove(host, self.path)
        host.files.remove(self._unfinished)
        host.files.remove(self.image_note)

    @property
    def _unfinished(self) -> Path:
        return self.path.with_suffix(".new")

    @property
    def note(self) -> list[str]:
        """What kind of disk this is, and the image it was made for; of which build, as long as it reads that."""
        build = self.image.facts.build if self.reads_image else ""
        return [self.key.rpartition("/")[2], f"{self.image.digest}.{build}" if build else self.image.digest]

    def _mismatch(self, made_for: list[str]) -> str:
        if len(made_for) < 2:
            return f"{self.image_note} does not say what it was made for"
        if made_for[0] != self.note[0]:
            return "made for another storage"
        if _digest(made_for) != self.image.digest:
            return "made for another image"
        return "its image is gone" if not self.image.facts.build else "its image was built anew"


def _digest(note: list[str]) -> str:
    return note[1].partition(".")[0]
