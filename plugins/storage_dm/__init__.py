"""Root disks as dm-snapshots: every VM of an image shares it, block by block, and keeps what it changes to itself.

Needs root and the kernel's device mapper. The guest sees one plain disk, so any initrd will do; nothing is copied
when a VM is made; and `overlay` bounds what it can take of the host's disk.

What makes a disk is loaded to make one: most runs have none of this storage.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from banger.hooks import hookimpl
from banger.host import HostView
from banger.needs import Finding, Need, capability, device
from banger.resource import Handle, Leftover, Resource
from banger.types import Disk, GuestDisk, Image, Problem, RootDisk, Size, Vm

_TARGETS = ("snapshot", "linear", "zero")
_CONTROL = Path("/dev/mapper/control")


@hookimpl
def register_needs() -> Sequence[Need]:
    return [
        capability("CAP_SYS_ADMIN"),
        device("/dev/loop-control", "modprobe loop"),
        device(str(_CONTROL), "modprobe dm_snapshot"),
        Need("device-mapper snapshots", _find_targets),
    ]


def _find_targets(host: HostView) -> Finding:
    missing = [target for target in _TARGETS if not host.mapper.supports(target)]
    if not missing:
        return Finding(True, f"{', '.join(_TARGETS)} are there")
    if host.files.status(_CONTROL) is not None and not host.files.writable(_CONTROL):
        return Finding(False, "an ordinary user may not ask", "run as root")
    return Finding(False, f"not there: {', '.join(missing)}", "modprobe -a dm_snapshot dm_zero")


@hookimpl
def validate_vm(vm: Vm, image: Image) -> Sequence[Problem]:
    if vm.storage != "dm" or vm.root_disk_bytes >= image.facts.rootfs_bytes:
        return []
    smallest = Size(image.facts.rootfs_bytes)
    message = f"root_disk {Size(vm.root_disk_bytes)} is smaller than its image, {smallest}"
    return [Problem(vm.place_of("root_disk"), message, f"root_disk: {smallest} or more")]


@hookimpl
def prepare_root_disk(vm: Vm, image: Image) -> RootDisk:
    from .overlay import CowFile
    from .snapshot import Snapshot

    overlay = CowFile.of_vm(vm, image)
    snapshot = Snapshot.of(vm, overlay)
    return RootDisk(
        resources=(overlay, snapshot),
        disks=(Disk(snapshot.path, role="root"),),
        guest_disk=GuestDisk(snapshot.path, base=image.rootfs, backing=vm.root_overlay),
        kernel_arguments=("banger.root=/dev/vda", "root=/dev/vda", "rw"),
    )


@hookimpl
def teardown_handles(vm: Vm, handles: dict[str, Handle]) -> Sequence[Resource]:
    if not handles:
        return []
    from .snapshot import Snapshot

    snapshot = Snapshot.of(vm)
    return [snapshot] if snapshot.key in handles else []


@hookimpl
def find_leftovers(vms: Path, known: Collection[str], host: HostView) -> Sequence[Leftover]:
    from .leftovers import leftovers

    return leftovers(vms, known, host)
