"""What a microVM consists of, the API calls that make it, and how one that runs differs from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.types import Disk, Size

__all__ = ["CARD", "KERNEL_ARGUMENTS", "START", "STOP", "Call", "Machine", "calls", "differences", "word"]

Call = tuple[str, dict[str, Any]]
"""The path and the body of one PUT (Firecracker's src/firecracker/swagger/firecracker.yaml)."""

KERNEL_ARGUMENTS = ("console=ttyS0", "reboot=k", "panic=1", "pci=off", "net.ifnames=0", "banger.vsock")
"""The console is the serial port that is kept; a reset by the keyboard controller is the only end that Firecracker
knows, and a panic comes to one; there is no PCI bus to look for; the one card is eth0; there is a vsock."""
CARD = "eth0"
_MOST = 2**32
"""More than any machine has processors or MiB of memory."""
_MOST_CHARACTERS = 80
START: Call = ("/actions", {"action_type": "InstanceStart"})
STOP: Call = ("/actions", {"action_type": "SendCtrlAltDel"})


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's parts; `disks` are the guest's vda, vdb, … in order. Paths are as Firecracker sees them."""

    vcpus: int
    memory_bytes: int
    kernel: Path
    initrd: Path
    kernel_arguments: tuple[str, ...]
    disks: tuple[Disk, ...]
    tap: str
    mac: str
    vsock_cid: int
    vsock_socket: Path

    @property
    def memory_mib(self) -> int:
        return self.memory_bytes // 2**20


def calls(machine: Machine) -> list[Call]:
    """Everything that Firecracker is told before the start, in order."""
    return [
        ("/machine-config", {"vcpu_count": machine.vcpus, "mem_size_mib": machine.memory_mib}),
        ("/boot-source", _boot_source(machine)),
        *((f"/drives/{drive['drive_id']}", drive) for drive in _drives(machine)),
        (f"/network-interfaces/{CARD}", _card(machine)),
        ("/vsock", _vsock(machine)),
        ("/entropy", {}),
    ]


def differences(machine: Machine, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the answer to `GET /vm/config` is not as wanted, in the user's words.

    Raises ValueError, as for any answer of another shape TypeError, KeyError or AttributeError.
    """
    found = config["machine-config"]
    vcpus, memory_mib = _number(found["vcpu_count"]), _number(found["mem_size_mib"])
    named = []
    if vcpus != machine.vcpus:
        named.append(f"vcpus {vcpus} -> {machine.vcpus}")
    if memory_mib != machine.memory_mib:
        named.append(f"memory {Size(memory_mib * 2**20)} -> {Size(machine.memory_bytes)}")
    parts = {
        "its kernel or kernel arguments have changed": ([_boot_source(machine)], [config["boot-source"]]),
        "its disks have changed": (_drives(machine), config["drives"]),
        "its network card has changed": ([_card(machine)], config["network-interfaces"]),
        "its vsock address has changed": ([_vsock(machine)], [config.get("vsock") or {}]),
    }
    return (*named, *(words for words, (wanted, there) in parts.items() if not _same(wanted, there)))


def word(value: object) -> str:
    """A word of an answer, to be shown. Raises ValueError for what is none."""
    if isinstance(value, str) and value.isprintable() and len(value) <= _MOST_CHARACTERS:
        return value
    raise ValueError("not a word")


def _number(value: object) -> int:
    if type(value) is int and 0 <= value <= _MOST:
        return value
    raise ValueError("not a number of processors or of MiB")


def _boot_source(machine: Machine) -> dict[str, Any]:
    return {
        "kernel_image_path": str(machine.kernel),
        "initrd_path": str(machine.initrd),
        "boot_args": " ".join((*KERNEL_ARGUMENTS, *machine.kernel_arguments)),
    }


def _drives(machine: Machine) -> list[dict[str, Any]]:
    """None is the root device: that would add a `root=` of Firecracker's own, and our initrd looks for its disks.

    A guest's flush reaches the disk (`Writeback`); by default it would end in the host's page cache.
    """
    return [
        {
            "drive_id": f"disk{number}",
            "path_on_host": str(disk.path),
            "is_root_device": False,
            "is_read_only": disk.read_only,
            "cache_type": "Unsafe" if disk.read_only else "Writeback",
        }
        for number, disk in enumerate(machine.disks)
    ]


def _card(machine: Machine) -> dict[str, Any]:
    return {"iface_id": CARD, "host_dev_name": machine.tap, "guest_mac": machine.mac}


def _vsock(machine: Machine) -> dict[str, Any]:
    return {"guest_cid": machine.vsock_cid, "uds_path": str(machine.vsock_socket)}


def _same(wanted: list[dict[str, Any]], found: list[Mapping[str, Any]]) -> bool:
    """Whether every value asked for is there; Firecracker tells of more than was asked."""
    return len(wanted) == len(found) and all(
        there.get(name) == value for want, there in zip(wanted, found, strict=True) for name, value in want.items()
    )
