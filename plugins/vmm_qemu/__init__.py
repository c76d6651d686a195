"""The VMM `qemu`: a q35 machine, under KVM where a guest really boots with it, else in software (tcg). No root."""

from __future__ import annotations

from collections.abc import Sequence

from banger.hooks import hookimpl
from banger.host import HostView
from banger.needs import Finding, Need, device, program
from banger.resource import Handle, Resource
from banger.types import Disk, Image, Problem, TapAttachment, UserAttachment, Vm, VmFiles
from banger.vmmprocess import has_handle_of

from .machine import PROGRAM, Machine
from .process import NAME, QemuProcess

_GET_QEMU = "apt install qemu-system-x86"


@hookimpl
def register_needs() -> Sequence[Need]:
    return [program(PROGRAM, _GET_QEMU), Need("qemu version", _version), Need("/dev/kvm", _kvm)]


@hookimpl
def validate_vm(vm: Vm, image: Image) -> Sequence[Problem]:
    if vm.vmm != NAME or not vm.jailed:
        return []
    message = f"the VM '{vm.name}' is to be jailed, and QEMU has no jailer"
    return [Problem(vm.place_of("jailed"), message, "leave jailed out, or write vmm: firecracker")]


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
    )
    netns = attachment.netns if isinstance(attachment, TapAttachment) else ""
    return [QemuProcess(vm.vmm_key, VmFiles(vm.directory), needs, netns, machine=machine)]


@hookimpl
def teardown_handles(vm: Vm, handles: dict[str, Handle]) -> Sequence[Resource]:
    """Also of a handle that is only announced, which says nothing yet."""
    return [QemuProcess(vm.vmm_key, VmFiles(vm.directory))] if has_handle_of(NAME, vm, handles) else []


def _version(host: HostView) -> Finding:
    said = host.tools.version(PROGRAM)
    return Finding(said is not None, said or "unknown", "" if said else _GET_QEMU)


def _kvm(host: HostView) -> Finding:
    """For information: without KVM a guest is emulated, which is slow and else the same."""
    finding = device("/dev/kvm", "").check(host)
    return Finding(True, finding.found if finding.met else f"{finding.found}; guests are emulated, which is slow")
