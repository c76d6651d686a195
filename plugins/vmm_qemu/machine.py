"""What a QEMU machine consists of, and the command line that makes it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from banger.types import Disk, TapAttachment, UserAttachment

__all__ = ["KERNEL_ARGUMENTS", "PROGRAM", "Accelerator", "Machine", "command", "started_with"]

Accelerator = Literal["kvm", "tcg"]
PROGRAM = "qemu-system-x86_64"

KERNEL_ARGUMENTS = ("console=ttyS0", "net.ifnames=0", "panic=-1")
"""The console is the serial port that is logged; the one card is eth0; a panic ends the machine, as a reboot does."""
SLOW_UNDER_TCG = (
    "kvm_amd", "aesni_intel", "crct10dif_pclmul", "crc32_pclmul", "ghash_clmulni_intel",
    "sha1_ssse3", "sha256_ssse3", "sha512_ssse3",
)  # fmt: skip
"""Modules that udev loads because the emulated processor has the instructions; emulated, they only cost time."""
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's parts; `disks` are the guest's vda, vdb, … in order."""

    name: str
    vcpus: int
    memory_bytes: int
    kernel: Path
    initrd: Path
    kernel_arguments: tuple[str, ...]
    disks: tuple[Disk, ...]
    mac: str
    guest_ip: str
    attachment: UserAttachment | TapAttachment


def command(machine: Machine, api_socket: Path, accelerator: Accelerator) -> list[str]:
    """The command line (qemu(1)). Nothing is there but what is named: no default devices, no user's own settings."""
    argv = [PROGRAM, "-name", f"guest={_value(machine.name)}", "-nodefaults", "-no-user-config"]
    argv += ["-display", "none", "-sandbox", _SANDBOX, "-M", "q35", "-no-reboot"]
    argv += ["-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi"]
    argv += ["-cpu", "host" if accelerator == "kvm" else "max"]
    argv += ["-smp", str(machine.vcpus), "-m", f"{machine.memory_bytes // 2**20}M"]
    argv += ["-kernel", str(machine.kernel), "-initrd", str(machine.initrd)]
    blacklist = (f"modprobe.blacklist={','.join(SLOW_UNDER_TCG)}",) if accelerator == "tcg" else ()
    argv += ["-append", " ".join((*KERNEL_ARGUMENTS, *blacklist, *machine.kernel_arguments))]
    for number, disk in enumerate(machine.disks):
        access = "readonly=on" if disk.read_only else "discard=unmap"
        argv += ["-drive", f"if=none,id=disk{number},format=raw,{access},file={_value(disk.path)}"]
        argv += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    argv += ["-netdev", _netdev(machine.attachment, machine.guest_ip)]
    argv += ["-device", f"virtio-net-pci,netdev=net0,mac={machine.mac},romfile="]  # no boot ROM: nothing boots from it
    argv += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]  # whoever starts it keeps stdout
    argv += ["-qmp", f"unix:{_value(api_socket)},server=on,wait=off"]
    return argv


def started_with(arguments: Sequence[str]) -> tuple[int, int]:
    """How many processors and bytes of memory a command line of ours gave its machine; 0 for what it does not say."""
    values = dict(pairwise(arguments))
    vcpus, memory = values.get("-smp", "0"), values.get("-m", "0M")
    return int(vcpus), int(memory.removesuffix("M")) * 2**20


def _netdev(attachment: UserAttachment | TapAttachment, guest_ip: str) -> str:
    if isinstance(attachment, TapAttachment):
        return f"tap,id=net0,ifname={_value(attachment.device)},script=no,downscript=no"
    forwards = "".join(f",hostfwd=tcp:{host}:{port}-{guest_ip}:{to}" for host, port, to in attachment.forwards)
    return f"user,id=net0,ipv6=off,restrict={'off' if attachment.outbound else 'on'}{forwards}"


def _value(text: str | Path) -> str:
    """A value in one of QEMU's option lists, where a comma is written twice."""
    return str(text).replace(",", ",,")
