"""Root disks as copies: a reflink of the image where the file system can, else a sparse copy, patched in place.

For guests whose initrd is not ours to make, and for whoever wants one plain file per VM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.errors import DiskError
from banger.hooks import hookimpl
from banger.host import Host, HostView
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import Disk, GuestDisk, GuestFile, Image, RootDisk, Size, Vm


@dataclass(frozen=True)
class RootCopy(Resource):
    """A VM's own whole copy of its image's root file system."""

    key: str
    needs: tuple[str, ...]
    path: Path
    base: Path
    base_digest: str
    base_bytes: int
    size_bytes: int
    stage = "prepare_root_disk"

    @property
    def base_note(self) -> Path:
        """Says which image was copied; written when the copy is whole."""
        return self.path.with_suffix(".base")

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        status = host.files.status(self.path)
        if status is None or host.files.status(self.base_note) is None:
            return Absent()
        if host.files.read(self.base_note).decode() != self.base_digest:
            return Drifted({}, ("made from another image",), in_place=False)
        if status.size_bytes != self.size_bytes:
            difference = f"root_disk {Size(status.size_bytes)} -> {Size(self.size_bytes)}"
            return Drifted({}, (difference,), in_place=status.size_bytes < self.size_bytes)
        return Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if self.size_bytes < self.base_bytes:
            raise DiskError(
                f"root_disk {Size(self.size_bytes)} is smaller than its image, {Size(self.base_bytes)}",
                hint=f"root_disk: {Size(self.base_bytes)}",
            )
        stage("copying the image")
        host.files.remove(self.base_note)
        host.files.clone(self.base, self.path)
        if self.size_bytes > self.base_bytes:
            stage("growing the root disk")
            host.ext4.grow(self.path, self.size_bytes)
        host.files.write(self.base_note, self.base_digest.encode())
        return {}

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        stage("growing the root disk")
        host.ext4.grow(self.path, self.size_bytes)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove(self.base_note)
        host.files.remove(self.path)


@hookimpl
def prepare_root_disk(vm: Vm, image: Image, files: Sequence[GuestFile]) -> RootDisk:
    copy = RootCopy(
        key=f"{vm.name}/root/copy",
        needs=(vm.directory_key,),
        path=vm.root_overlay,
        base=image.rootfs,
        base_digest=image.digest,
        base_bytes=image.facts.rootfs_bytes,
        size_bytes=vm.root_disk_bytes,
    )
    return RootDisk(
        resources=(copy,),
        disks=(Disk(vm.root_overlay, role="root"),),
        guest_disk=GuestDisk(vm.root_overlay, base=image.rootfs),
        kernel_arguments=("banger.root=/dev/vda", "root=/dev/vda", "rw"),
    )
