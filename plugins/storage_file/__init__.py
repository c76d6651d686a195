"""Root disks as copies: a reflink of the image where the file system can, else a sparse copy, patched in place.

For guests whose initrd is not ours to make, and for whoever wants one plain file per VM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from banger.errors import DiskError
from banger.hooks import hookimpl
from banger.host import Host
from banger.needs import E2FSPROGS, Need, programs
from banger.resource import Stage
from banger.rootdisk import RootDiskFile, unbounded
from banger.types import Disk, GuestDisk, Image, Problem, RootDisk, Size, Vm


@dataclass(frozen=True)
class RootCopy(RootDiskFile):
    """A VM's own whole copy of its image's root file system."""

    reads_image = False

    def make(self, host: Host, stage: Stage) -> None:
        image_bytes = self.image.facts.rootfs_bytes
        if self.size_bytes < image_bytes:
            raise DiskError(
                f"root_disk {Size(self.size_bytes)} is smaller than its image, {Size(image_bytes)}",
                hint=f"root_disk: {Size(image_bytes)}",
            )
        stage("copying the image")
        host.files.clone(self.image.rootfs, self.path)
        if self.size_bytes > image_bytes:
            stage("growing the root disk")
            host.ext4.grow(self.path, self.size_bytes)


@hookimpl
def register_needs() -> Sequence[Need]:
    return programs(E2FSPROGS, "e2fsprogs")


@hookimpl
def validate_vm(vm: Vm, image: Image) -> Sequence[Problem]:
    problems = unbounded(vm, "file")
    if vm.storage != "file" or vm.root_disk_bytes >= image.facts.rootfs_bytes:
        return problems
    smallest = Size(image.facts.rootfs_bytes)
    message = f"root_disk {Size(vm.root_disk_bytes)} is smaller than its image, {smallest}"
    return [*problems, Problem(vm.place_of("root_disk"), message, f"root_disk: {smallest} or more")]


@hookimpl
def prepare_root_disk(vm: Vm, image: Image) -> RootDisk:
    return RootDisk(
        resources=(RootCopy.of(vm, image, "copy"),),
        disks=(Disk(vm.root_overlay, role="root"),),
        guest_disk=GuestDisk(vm.root_overlay, base=image.rootfs),
        kernel_arguments=("banger.root=/dev/vda", "root=/dev/vda", "rw"),
    )
