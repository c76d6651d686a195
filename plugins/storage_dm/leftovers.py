"""Snapshots and loop devices of VMs that are not known any more, each told by the file that it stands on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from banger.errors import HostError
from banger.host import HostView, LoopDevice
from banger.resource import Leftover
from banger.types import VmFiles

from .snapshot import Snapshot

__all__ = ["leftovers"]

_NAME = re.compile(r"banger-([0-9a-f]+)-root(-base)?")
_DELETED = " (deleted)"


def leftovers(vms: Path, known: Collection[str], host: HostView) -> list[Leftover]:
    """What of all homes carries our mark and is of no known VM; what is not provably of this home is only told of.

    It is this home's when the overlay beneath it lies in a directory here. A device without an overlay is one that was
    never finished, and its VM's id tells.
    """
    loops = {loop.number: loop for loop in host.loops.devices()}
    ids = sorted({match[1] for name in host.mapper.names("banger-") if (match := _NAME.fullmatch(name))} - {*known})
    found = [_of_vm(vm_id, vms, loops, host) for vm_id in ids]
    return [*found, *_bare_loops(vms, {*known, *ids}, loops)]


def _of_vm(vm_id: str, vms: Path, loops: Mapping[str, LoopDevice], host: HostView) -> Leftover:
    snapshot = Snapshot(f"{vm_id}/root/snapshot", (f"{vm_id}/directory",), vm_id, VmFiles(vms / vm_id).root_overlay)
    what = f"the device {snapshot.name}"
    try:
        overlay = _overlay(snapshot.name, loops, host)
    except HostError as error:
        return Leftover(what, vm_id=vm_id, why=error.message)
    if overlay is None and host.files.status(vms / vm_id) is None:
        return Leftover(what, vm_id=vm_id, why=f"it does not tell whose it is: dmsetup info {snapshot.name}")
    if overlay and snapshot.cow != (path := _path(overlay)) and overlay not in host.loops.of(snapshot.cow):
        return Leftover(what, vm_id=vm_id, why=f"another home's: it stands on {path}")
    return Leftover(what, snapshot, vm_id)


def _overlay(name: str, loops: Mapping[str, LoopDevice], host: HostView) -> LoopDevice | None:
    """The loop device of the file that a snapshot keeps its changes in."""
    device = host.mapper.device(name)
    for target in device.table if device else ():
        if target.type == "snapshot":
            return loops.get(target.parameters.split()[1])
    return None


def _path(loop: LoopDevice) -> Path:
    """Where its file is, or was."""
    return Path(str(loop.backing).removesuffix(_DELETED))


def _bare_loops(vms: Path, taken: Collection[str], loops: Mapping[str, LoopDevice]) -> Iterator[Leftover]:
    """Loop devices over overlays of VMs that have no snapshot, attached by hand."""
    for loop in loops.values():
        backing = _path(loop)
        vm_id = backing.parent.name
        if backing.parent.parent != vms or vm_id in taken or backing != VmFiles(vms / vm_id).root_overlay:
            continue
        what = f"the loop device {loop.path} of {backing}"
        if backing != loop.backing:
            why = f"its file is gone, so nobody but you can say that it may go: losetup --detach {loop.path}"
            yield Leftover(what, vm_id=vm_id, why=why)
        else:
            snapshot = Snapshot(f"{vm_id}/root/snapshot", (f"{vm_id}/directory",), vm_id, backing)
            yield Leftover(what, snapshot, vm_id)
