"""The VMM `firecracker`: a microVM under KVM, told what to be over its API, with a tap for a network and a vsock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from banger.errors import PlaybookError
from banger.hooks import hookimpl
from banger.host import HostView
from banger.needs import Finding, Need, device, program
from banger.resource import Handle, Resource
from banger.types import Disk, Image, Problem, TapAttachment, UserAttachment, Vm, VmFiles
from banger.vmmprocess import has_handle_of

from .jail import JAILER, Jail
from .kernel import KernelElf
from .machine import Machine
from .process import NAME, FirecrackerProcess, version_refusal

MOST_VCPUS = 32
_GET_FIRECRACKER = "install a release from https://github.com/firecracker-microvm/firecracker/releases on PATH"
_GET_KVM = "enable virtualisation in the firmware, then modprobe kvm_intel or kvm_amd"


@hookimpl
def register_needs() -> Sequence[Need]:
    return [
        program(NAME, _GET_FIRECRACKER),
        Need("firecracker version", _version),
        device("/dev/kvm", _GET_KVM),
        program("lz4", "apt install lz4"),
        Need("zstd", _zstd),
        Need(JAILER, _jailer),
    ]


@hookimpl
def validate_vm(vm: Vm, image: Image) -> Sequence[Problem]:
    """What Firecracker cannot be: beyond these it is found out when it is told."""
    if vm.vmm != NAME:
        return []
    problems = []
    if vm.nic.plugin == "user":
        problems.append(_no_user_network(vm))
    if vm.vcpus > MOST_VCPUS:
        message = f"Firecracker gives a guest at most {MOST_VCPUS} processors, and '{vm.name}' wants {vm.vcpus}"
        problems.append(Problem(vm.place_of("vcpus"), message, "change its vcpus, or write vmm: qemu"))
    return problems


@hookimpl
def launch_vmm(
    vm: Vm,
    image: Image,
    disks: Sequence[Disk],
    attachment: UserAttachment | TapAttachment,
    kernel_arguments: Sequence[str],
    needs: tuple[str, ...],
) -> Sequence[Resource]:
    if not isinstance(attachment, TapAttachment):
        raise PlaybookError([_no_user_network(vm)])
    if vm.jailed and any(disk.read_only for disk in disks):
        message = f"the VM '{vm.name}' is to be jailed, and with storage: {vm.storage} it reads a disk of others too"
        raise PlaybookError(
            [Problem(vm.place_of("jailed"), message, "write storage: dm or storage: file, or leave jailed out")]
        )
    kernel = KernelElf(image)
    machine = Machine(
        vcpus=vm.vcpus,
        memory_bytes=vm.memory_bytes,
        kernel=kernel.path,
        initrd=image.initrd,
        kernel_arguments=tuple(kernel_arguments),
        disks=tuple(disks),
        tap=attachment.device,
        mac=vm.nic.mac,
        vsock_cid=vm.vsock_cid,
        vsock_socket=vm.vsock_socket,
    )
    return [kernel, replace(_process(vm), needs=(*needs, kernel.key), netns=attachment.netns, machine=machine)]


@hookimpl
def teardown_handles(vm: Vm, handles: dict[str, Handle]) -> Sequence[Resource]:
    """Also of a handle that is only announced, which says nothing yet."""
    return [_process(vm)] if has_handle_of(NAME, vm, handles) else []


def _process(vm: Vm) -> FirecrackerProcess:
    jail = None if vm.vmm_uid is None else Jail(vm.jail, vm.id, vm.vmm_uid)
    return FirecrackerProcess(vm.vmm_key, VmFiles(vm.directory), vm_id=vm.id, jail=jail)


def _no_user_network(vm: Vm) -> Problem:
    message = f"the VM '{vm.name}' is on the user-mode network '{vm.nic.network}', which Firecracker has not"
    return Problem(vm.place_of("network"), message, "write network: tap, or vmm: qemu")


def _zstd(host: HostView) -> Finding:
    path = host.tools.which("zstd")
    return Finding(True, str(path) if path else "not installed; only kernels packed with it need it")


def _jailer(host: HostView) -> Finding:
    path = host.tools.which(JAILER)
    return Finding(True, str(path) if path else "not installed; only VMs with `jailed` need it")


def _version(host: HostView) -> Finding:
    said = host.tools.version(NAME)
    if said is None:
        return Finding(False, "unknown", _GET_FIRECRACKER)
    version = said.rpartition(" ")[2].removeprefix("v")
    refusal = version_refusal(version)
    return Finding(not refusal, refusal or version, _GET_FIRECRACKER if refusal else "")
