"""Work disks: /root on an ext4 disk of its own, cloned from the image's seed or made of its /root (seed S12)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from banger import diskfile
from banger.errors import DiskError
from banger.guestconfig import GuestConfig
from banger.hooks import hookimpl
from banger.host import Host, HostView
from banger.needs import E2FSPROGS, Need, programs
from banger.resource import Absent, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import WORK_MOUNT_POINT, Disk, GuestDisk, GuestFile, Image, Mount, Problem, Size, Vm, WorkDisk

SMALLEST_BYTES = 16 * 2**20
_LABEL = "banger-work"
_NAMESPACE = uuid.UUID("5bd1d5a1-3f0e-5c57-9a3e-6f6a1c0c7a11")


def file_system_uuid(vm_id: str) -> str:
    """The UUID a VM's fstab mounts its work disk by: a pure function of the VM's id, whatever the disk is called."""
    return str(uuid.uuid5(_NAMESPACE, vm_id))


@dataclass(frozen=True)
class Ext4WorkDisk(Resource):
    """A VM's work disk. An existing one is kept, whatever is in it."""

    key: str
    needs: tuple[str, ...]
    path: Path
    size_bytes: int
    seed: Path | None
    seed_bytes: int
    rootfs: Path
    file_system_uuid: str
    stage = "prepare_work_disk"
    keeps = True

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        if host.files.status(self.path) is None:
            return Absent()
        return diskfile.observe_size(host, self.path, self.size_bytes, "work_disk") or Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        unfinished = self.path.with_suffix(".new")
        if self.seed is not None:
            self._clone_seed(host, self.seed, unfinished, stage)
        else:
            stage("creating empty work disk")
            stage("copying /root into work disk")
            host.ext4.copy_tree(
                self.rootfs, WORK_MOUNT_POINT, unfinished, self.size_bytes, label=_LABEL, uuid=self.file_system_uuid
            )
        host.files.rename(unfinished, self.path)
        return {}

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        stage("resizing work disk")
        diskfile.grow(host, self.path, self.size_bytes)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove(self.path.with_suffix(".new"))
        diskfile.remove(host, self.path)

    def _clone_seed(self, host: Host, seed: Path, unfinished: Path, stage: Stage) -> None:
        if self.size_bytes < self.seed_bytes:  # before anything is copied
            raise DiskError(
                f"work_disk {Size(self.size_bytes)} is smaller than the image's work seed, {Size(self.seed_bytes)}",
                hint=f"work_disk: {Size(self.seed_bytes)}",
            )
        stage("cloning work seed")
        host.files.clone(seed, unfinished)
        host.ext4.flatten(unfinished, WORK_MOUNT_POINT)
        if self.size_bytes > self.seed_bytes:
            stage("resizing work disk")
            host.ext4.grow(unfinished, self.size_bytes)
        host.ext4.set_identity(unfinished, label=_LABEL, uuid=self.file_system_uuid)


@hookimpl
def register_needs() -> Sequence[Need]:
    return programs(E2FSPROGS, "e2fsprogs")


@hookimpl
def validate_vm(vm: Vm) -> Sequence[Problem]:
    if vm.workdisk == "ext4" and vm.work_disk_bytes is not None and vm.work_disk_bytes < SMALLEST_BYTES:
        message = f"work_disk {Size(vm.work_disk_bytes)} is too small for a file system with a journal"
        return [Problem(vm.place_of("work_disk"), message, f"work_disk: {Size(SMALLEST_BYTES)} or more")]
    return []


@hookimpl
def contribute_guest_config(builder: GuestConfig, vm: Vm) -> None:
    """Mount it on /root. No fsck pass: the host has replayed its journal before every boot."""
    if vm.work_disk_bytes is not None and vm.workdisk == "ext4":
        builder.add_mount(Mount(f"UUID={file_system_uuid(vm.id)}", WORK_MOUNT_POINT, "ext4"))


@hookimpl
def prepare_work_disk(vm: Vm, image: Image, files: Sequence[GuestFile]) -> WorkDisk:
    assert vm.work_disk_bytes is not None, "asked only for VMs that want a work disk"
    disk = Ext4WorkDisk(
        key=f"{vm.name}/work/disk",
        needs=(vm.directory_key,),
        path=vm.work_disk,
        size_bytes=vm.work_disk_bytes,
        seed=image.work_seed if image.facts.work_seed_bytes is not None else None,
        seed_bytes=image.facts.work_seed_bytes or 0,
        rootfs=image.rootfs,
        file_system_uuid=file_system_uuid(vm.id),
    )
    return WorkDisk((disk,), Disk(vm.work_disk, role="work"), GuestDisk(vm.work_disk, mount_point=WORK_MOUNT_POINT))
