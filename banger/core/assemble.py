"""From a VM's record, its image and its tasks to the resources it consists of. Pure: it reads and changes nothing.

The order a VM is put together in is written here once: directory, root disk and its guest files, work disk and its
guest files, network, VMM, answering guest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.core import fstab
from banger.core.guest_files import FSTAB, GuestFiles, is_below
from banger.core.plugins import Plugins
from banger.core.ready import GuestReady
from banger.core.state import VmRecord
from banger.errors import Place, PluginError, Problem
from banger.guestconfig import GuestConfig
from banger.host import Host, HostView, Node
from banger.resource import Absent, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import WORK_MOUNT_POINT, GuestDisk, GuestFile, HostKey, Image, Mount, Network, Vm


@dataclass(frozen=True)
class VmDirectory(Resource):
    """The directory that holds all of a VM's files. Removing it removes whatever is still in it."""

    key: str
    path: Path
    needs = ()
    stage = "prepare_directory"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Absent() if host.files.status(self.path) is None else Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        host.files.make_directory(self.path)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove_tree(self.path)


def vm_of(
    record: VmRecord, plugins: Plugins, *, running: bool, host_key: HostKey, authorized_keys: Sequence[str]
) -> Vm:
    """The VM a record stands for."""
    return Vm(
        id=record.id,
        name=record.name,
        directory=record.directory,
        image=record.image,
        vcpus=record.vcpus,
        memory_bytes=record.memory_bytes,
        root_disk_bytes=record.root_disk_bytes,
        work_disk_bytes=record.work_disk_bytes,
        storage=record.storage,
        workdisk=record.workdisk,
        vmm=record.vmm,
        nic=record.nic,
        overlay_bytes=record.overlay_bytes,
        vsock_cid=record.runtime.vsock_cid,
        jailed=record.jailed,
        authorized_keys=tuple(authorized_keys),
        host_key=host_key,
        running=running,
        network=Network(record.nic.network, record.nic.plugin, network_options(record, plugins)),
    )


def network_options(record: VmRecord, plugins: Plugins) -> Any:
    """As the network's plugin types them; None when it is gone, or has other options by now."""
    kind = plugins.network_kinds().get(record.nic.plugin)
    try:
        return kind.options(**record.network_options) if kind else None
    except TypeError:
        return None


def assemble(vm: Vm, image: Image, config: GuestConfig, plugins: Plugins, ssh_key: Path) -> list[Resource]:
    """All resources of a running VM, in order. `config` already has what plugins and tasks contributed.

    `ssh_key`: the private key that opens the guest.
    """
    table = fstab.render_fstab(image.facts.fstab, config.dropped_mounts, config.mounts)
    files = (*config.files(), GuestFile(FSTAB, table.encode(), origin="fstab", no_log=bool(config.no_log_mounts)))
    on_work = [f for f in files if vm.work_disk_bytes is not None and is_below(f.path, WORK_MOUNT_POINT)]
    on_root = [f for f in files if f not in on_work]
    directories = config.directories()
    resources: list[Resource] = [VmDirectory(vm.directory_key, vm.directory)]

    below_root = [node for node in directories if not (vm.work_disk_bytes and is_below(node.path, WORK_MOUNT_POINT))]
    root = plugins.prepare_root_disk(vm, image, on_root, below_root)
    resources += root.resources
    disks = list(root.disks)
    resources.append(_guest_files(vm, "root", root.resources, root.guest_disk, on_root, below_root))

    if vm.work_disk_bytes is not None:
        work = plugins.prepare_work_disk(vm, image, on_work)
        resources += work.resources
        disks.append(work.disk)
        # sshd's StrictModes looks at the home directory too, and that is this disk's root.
        home = Node(WORK_MOUNT_POINT, "directory", 0o700)
        below_home = [home, *(node for node in directories if node not in below_root and node.path != home.path)]
        resources.append(_guest_files(vm, "work", work.resources, work.guest_disk, on_work, below_home))

    network = plugins.setup_network(vm)
    resources += network.resources
    arguments = (*root.kernel_arguments, *config.kernel_arguments)
    keys = tuple(resource.key for resource in resources)
    resources += plugins.launch_vmm(vm, image, disks, network.attachment, arguments, keys)
    resources.append(GuestReady(vm, ssh_key))
    return resources


def split_by_wish(resources: Sequence[Resource], *, running: bool) -> tuple[list[Resource], list[Resource]]:
    """(wanted, unwanted): a stopped VM keeps its disks and nothing that lives only until a reboot."""
    if running:
        return list(resources), []
    disks = [resource for resource in resources if resource.lifetime is Lifetime.DISK]
    return disks, [resource for resource in resources if resource.lifetime is Lifetime.BOOT]


def problems_of_files(config: GuestConfig, image_mounts: Sequence[Mount], places: Sequence[Place]) -> list[Problem]:
    """What is wrong with the files of tasks at these places.

    Those that cannot both be there, and those a guest would never see, because a tmpfs is mounted over them.
    """
    by_origin = {str(place): place for place in places}
    try:
        files = config.files()
    except PluginError as error:
        place = next((place for origin, place in by_origin.items() if origin in error.message), None)
        return [Problem(place, error.message, error.hint)]
    of_image = [mount for mount in image_mounts if mount.target not in config.dropped_mounts]
    tmpfs = [mount for mount in (*config.mounts, *of_image) if mount.fstype == "tmpfs"]
    problems = []
    for f in files:
        mount = next((mount for mount in tmpfs if is_below(f.path, mount.target)), None)
        if mount and f.origin in by_origin:
            message = f"{f.path} would be hidden in the guest: a tmpfs is mounted on {mount.target}"
            problems.append(Problem(by_origin[f.origin], message, "write it elsewhere, or unmount that"))
    return problems


def _guest_files(
    vm: Vm,
    name: str,
    disk_resources: Sequence[Resource],
    disk: GuestDisk,
    files: Sequence[GuestFile],
    directories: Sequence[Node],
) -> GuestFiles:
    return GuestFiles(
        key=f"{vm.name}/{name}/guest-files",
        needs=tuple(resource.key for resource in disk_resources),
        disk=disk,
        files=tuple(files),
        directories=tuple(directories),
        manifest=vm.directory / f"guest-files-{name}.json",
    )
