"""What Firecracker says when it refuses something, in the user's words and with the cure. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from banger.errors import BangerError, HostError, VmmError

__all__ = ["explained", "is_silence"]

_MISSING, _DENIED, _BUSY = r"No such file or directory", r"Permission denied", r"Resource busy"
_USE_QEMU = "enable virtualisation and load kvm_intel or kvm_amd, or write vmm: qemu"
_AS_ROOT = "run as root"
_APPLY_AGAIN = "apply the playbook again, which makes what is missing"


@dataclass(frozen=True, slots=True)
class Fault:
    """`pattern` is searched in Firecracker's words; what its groups found may stand in `message` and `hint`."""

    pattern: str
    message: str
    hint: str
    kind: type[BangerError] = HostError


FAULTS = (
    Fault(rf"backing file: {_MISSING}.* (?P<path>/.*) \(PUT", "the disk {path} is not there", _APPLY_AGAIN, VmmError),
    Fault(rf"backing file: {_DENIED}.* (?P<path>/.*) \(PUT", "Firecracker may not open the disk {path}", _AS_ROOT),
    Fault(
        r"backing file: (?P<why>.*) \(os error \d+\) (?P<path>/.*) \(PUT",
        "Firecracker cannot use the disk {path}: {why}",
        "see what is there (ls -lL {path}) and what the kernel says (dmesg | tail); "
        "a root disk, and no other, is made anew by banger apply --recreate",
        VmmError,
    ),
    Fault(rf"kernel file cannot be opened: {_MISSING}", "the image's kernel is not there", _APPLY_AGAIN, VmmError),
    Fault(r"kernel file cannot be opened", "Firecracker may not open the image's kernel", _AS_ROOT),
    Fault(rf"initrd file cannot be opened.*{_MISSING}", "the image's initrd is not there", _APPLY_AGAIN, VmmError),
    Fault(r"initrd file cannot be opened", "Firecracker may not open the image's initrd", _AS_ROOT),
    Fault(
        r"Unable to read kernel image|compute the initrd address",
        "the guest's memory is too small for its kernel and initrd",
        "give the VM more `memory`",
        VmmError,
    ),
    Fault(r"initrd initialization", "the image's initrd cannot be loaded", "is it an empty file? build the image anew"),
    Fault(
        r"invalid kernel image",
        "the image's kernel is none that Firecracker can load",
        "remove `vmlinux` from the image's directory and apply again, or take another kernel (for x86-64)",
        VmmError,
    ),
    Fault(
        r"kernel command line is invalid",
        "the guest's kernel arguments are too long for Firecracker, which takes 2047 bytes",
        "have fewer of them",
        VmmError,
    ),
    Fault(
        r"number of vCPUs",
        "Firecracker gives a guest 1 to 32 processors",
        "change the VM's `vcpus`, or write vmm: qemu",
        VmmError,
    ),
    Fault(r"memory size \(MiB\)", "Firecracker cannot give a guest this memory", "write `memory` in MiB", VmmError),
    Fault(
        r"Invalid Memory Configuration",
        "this host cannot give the guest its memory",
        "give the VM less `memory`, or stop others (banger vm stop)",
    ),
    Fault(rf"creating KVM object: {_MISSING}", "there is no /dev/kvm on this host", _USE_QEMU),
    Fault(rf"creating KVM object: {_DENIED}", "this user may not open /dev/kvm", "run as root, or join the group kvm"),
    Fault(r"Kvm error", "KVM does not work on this host", _USE_QEMU),
    Fault(
        rf"{_BUSY}.*Backend provided by (?P<tap>\S+)\. ",
        "the tap {tap} is in use by another process",
        "end that process (ps ax | grep firecracker)",
        VmmError,
    ),
    Fault(
        r"Operation not permitted.*Backend provided by (?P<tap>\S+)\. ",
        "this user may not use the tap {tap}",
        _AS_ROOT,
    ),
    Fault(
        r"Backend provided by (?P<tap>\S+)\. ",
        "{tap} is no tap device that Firecracker can use (it wants one queue)",
        "ip link delete it, and apply again",
        VmmError,
    ),
    Fault(rf"/dev/net/tun: {_MISSING}", "there is no /dev/net/tun on this host", "modprobe tun"),
    Fault(r"/dev/net/tun", "this user may not open /dev/net/tun", _AS_ROOT),
    Fault(r"Invalid interface name", "the tap's name is longer than 15 bytes", "give the network's tap a shorter one"),
    Fault(
        r"MAC address is invalid",
        "what the VM's card was given is not a card's address",
        "report it to the author of its network's plugin: see banger plugins list",
        VmmError,
    ),
    Fault(
        r"Unix socket: Address in use",
        "the VM's vsock socket is there already, and it is not this VMM's",
        "remove vsock.sock from the VM's directory",
        VmmError,
    ),
    Fault(r"shorter than SUN_LEN", "the path of the VM's vsock socket is too long", "choose a shorter $BANGER_HOME"),
    Fault(
        r"host-side Unix socket: (?P<why>.*) \(os error",
        "Firecracker cannot make the VM's vsock socket: {why}",
        "see the permissions of the VM's directory, and the disk it is on",
    ),
    Fault(
        r"MMIO Device .* resource is not available",
        "the VM has more devices than Firecracker can attach",
        "have fewer disks, or write vmm: qemu",
        VmmError,
    ),
    Fault(
        r"not supported (before|after) starting",
        "Firecracker is not in a state in which it could do that",
        "banger apply --restart",
        VmmError,
    ),
)
"""The first that fits is it."""


def is_silence(error: VmmError) -> bool:
    """Whether it is none of Firecracker's refusals: nobody answered (`banger.host.Http`)."""
    return error.message.startswith("nobody answered ")


def explained(error: VmmError, log: str) -> BangerError:
    """What its refusal means; Firecracker's own words at the end. `log`: where more may be found."""
    for fault in FAULTS:
        if match := re.search(fault.pattern, error.message, re.DOTALL):
            message, hint = (words.format(**match.groupdict()) for words in (fault.message, fault.hint))
            return fault.kind(f"{message} (Firecracker: {error.message})", hint=hint)
    return VmmError(f"Firecracker refused: {error.message}", hint=f"see {log}")
