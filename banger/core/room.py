"""Whether what a playbook asks for fits on this host: how far sparse disks can grow, how much memory guests take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.core.members import Member
from banger.errors import Problem
from banger.host import HostView, Memory
from banger.scalars import human


@dataclass(frozen=True, slots=True)
class Room:
    """In bytes: what the disks of some VMs may take yet and is free for them; what guests to be started take."""

    disks_bytes: int
    free_bytes: int
    directory: Path
    guests_bytes: int
    memory: Memory

    @classmethod
    def of(cls, members: Sequence[Member], host: HostView, directory: Path) -> Room:
        """`directory`: where the VMs are, or will be."""
        starting = [member.vm.memory_bytes for member in members if member.vm.running and member.vmm is None]
        growth = sum(_growth_bytes(member, host) for member in members)
        return cls(growth, host.files.free_bytes(directory), directory, sum(starting), host.memory())

    @property
    def warnings(self) -> list[str]:
        """What will not do when all of it is taken."""
        found = []
        if self.disks_bytes > self.free_bytes:
            found.append(
                f"the disks of these VMs can grow by {human(self.disks_bytes)}, and {self.directory} has "
                f"{human(self.free_bytes)} left"
            )
        if self.guests_bytes > self.memory.available_bytes:
            found.append(
                f"the guests to be started may take {human(self.guests_bytes)} of memory, and "
                f"{human(self.memory.available_bytes)} is available"
            )
        return found

    @property
    def event(self) -> dict[str, Any]:
        return {
            "type": "room",
            "subject": "",
            "disks_bytes": self.disks_bytes,
            "free_bytes": self.free_bytes,
            "guests_bytes": self.guests_bytes,
            "available_bytes": self.memory.available_bytes,
            "warnings": self.warnings,
        }


def problems_of_memory(members: Sequence[Member], memory: Memory) -> list[Problem]:
    """The VMs that could not even start."""
    return [
        Problem(
            member.request.place_of("memory"),
            f"the VM '{member.vm.name}' wants {human(member.vm.memory_bytes)} of memory, and this host has "
            f"{human(memory.total_bytes)}",
            "give it less memory",
        )
        for member in members
        if member.vm.running and member.vmm is None and member.vm.memory_bytes > memory.total_bytes
    ]


def _growth_bytes(member: Member, host: HostView) -> int:
    """What the guest may still write that takes room it has not taken yet."""
    vm = member.vm
    most = {vm.root_overlay: vm.overlay_bytes or vm.root_disk_bytes, vm.work_disk: vm.work_disk_bytes or 0}
    taken = {path: host.files.status(path) for path in most}
    return sum(max(0, most[path] - (found.allocated_bytes if found else 0)) for path, found in taken.items())
