"""The VMM `qemu`: a q35 machine, under KVM where a guest really boots with it, else in software (tcg). No root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from banger.hooks import hookimpl
from banger.resource import Handle, Resource
from banger.types import Disk, Image, TapAttachment, UserAttachment, Vm

from .machine import Machine
from .process import QemuProcess


@hookimpl
def launch_vmm(
    vm: Vm,
    image: Image,
    disks: Sequence[Disk],
    attachment: UserAttachment | TapAttachment,
    kernel_arguments: Sequence[str],
    needs: tuple[str, ...],
) -> Sequence[Resource]:
    machine = Machine(
        name=vm.name,
        vcpus=vm.vcpus,
        memory_bytes=vm.memory_bytes,
        kernel=image.kernel,
        initrd=image.initrd,
        kernel_arguments=tuple(kernel_arguments),
        disks=tuple(disks),
        mac=vm.nic.mac,
        guest_ip=vm.nic.ip,
        attachment=attachment,
        console_log=vm.console_log,
    )
    return [QemuProcess(vm.vmm_key, vm.directory, vm.api_socket, needs, machine)]


@hookimpl
def teardown_handles(vm: Vm, handles: dict[str, Handle]) -> Sequence[Resource]:
    return [
        QemuProcess(key, vm.directory, Path(handle["api_socket"]))
        for key, handle in handles.items()
        if key.endswith("/vmm") and "api_socket" in handle
    ]
