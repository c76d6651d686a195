"""Every hook, in the order of a VM's life; nothing else.

The verb is the contract: `register_…` declares, `validate_…` checks, `contribute_…` fills a builder, `prepare_…`,
`setup_…` and `launch_…` return resources, `teardown_…` names what recorded handles stand for. None of them touches the
host but by what the resources they return do later.

Where exactly one plugin must answer, it is asked by name and no other is called: a playbook's `storage: overlay` asks
the plugin `storage_overlay`, `source: debootstrap` asks `image_debootstrap`, and so on for `network_`, `workdisk_`
and `vmm_`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from banger.guestconfig import GuestConfig
    from banger.host import HostView, Node
    from banger.needs import Need
    from banger.resource import Handle, Leftover, Resource
    from banger.types import (
        Disk,
        GuestFile,
        GuestModule,
        Image,
        ImageSource,
        ImageSpec,
        Network,
        NetworkKind,
        NetworkSetup,
        Nic,
        Problem,
        RootDisk,
        TapAttachment,
        UserAttachment,
        Vm,
        WorkDisk,
    )

hookspec = pluggy.HookspecMarker("banger")
hookimpl = pluggy.HookimplMarker("banger")


# --- declare ---------------------------------------------------------------------------------------------------------


@hookspec
def register_guest_modules() -> Sequence[GuestModule]:  # type: ignore[empty-body]  # a specification has no body
    """The task verbs this plugin adds (`file`, `mount`, …). Called once, before a playbook is checked."""


@hookspec
def register_image_source() -> ImageSource:  # type: ignore[empty-body]
    """This plugin's `source:` name and its options. Called once, before a playbook is checked."""


@hookspec
def register_network_kind() -> NetworkKind:  # type: ignore[empty-body]
    """This plugin's `plugin:` name for networks and its options. Called once, before a playbook is checked."""


@hookspec
def register_needs() -> Sequence[Need]:  # type: ignore[empty-body]
    """What this plugin needs of the host it is used on; for `banger doctor`, for `auto`, and before an apply."""


# --- check -----------------------------------------------------------------------------------------------------------


@hookspec
def validate_vm(vm: Vm, image: Image) -> Sequence[Problem]:  # type: ignore[empty-body]
    """What is wrong with this VM, in this plugin's eyes. Called for every VM before anything is planned.

    `vm.place_of("vcpus")` is where that key's value stands. The facts of an image that is not built yet are empty, with
    sizes of 0; VMs are checked again when it is. Where there is no host (`banger validate`) the id, the directory and
    the addresses stand for others, what is `auto` is called so, and `vm.network` is None.
    """


@hookspec
def allocate_nic(network: Network, vm_id: str, taken: Sequence[Nic], host: HostView) -> Nic:  # type: ignore[empty-body]
    """Choose a new VM's addresses on this network, once; `taken` are all cards already given out on this host.

    Asked of the network's own plugin. The answer goes into the durable record.
    """


# --- image -----------------------------------------------------------------------------------------------------------


@hookspec
def image_recipe(spec: ImageSpec, digest_of: Callable[[Path], str]) -> dict[str, Any]:  # type: ignore[empty-body]
    """Everything that decides what comes out, as JSON values; its digest names the image. Asked of the source.

    `digest_of` is the sha256 of a file, which is read only when it is not the one that was read before; `banger
    validate` only looks whether it can be read.
    """


@hookspec
def prepare_image(spec: ImageSpec, directory: Path) -> Sequence[Resource]:  # type: ignore[empty-body]
    """The resources that leave `rootfs.ext4`, `vmlinuz`, `initrd.img` and `facts.json` in `directory`.

    `facts.json` is the JSON of `ImageFacts` (without a work seed, with a `build` from
    `banger.imagedirectory.new_build()`) and is written last: an image is there when it is.
    Customisation by tasks and the work seed are the core's. Asked of the source.
    """


# --- guest -----------------------------------------------------------------------------------------------------------


@hookspec
def contribute_guest_config(builder: GuestConfig, vm: Vm, image: Image) -> None:
    """Fill the builder: files, mounts, dropped mounts, kernel arguments. Every plugin is asked.

    Also by `banger validate`, of a VM whose keys, id and addresses stand for others.
    """


# --- host ------------------------------------------------------------------------------------------------------------


@hookspec
def setup_network(vm: Vm) -> NetworkSetup:  # type: ignore[empty-body]
    """The host's side of a VM's card. Asked of the network's plugin."""


@hookspec
def prepare_root_disk(  # type: ignore[empty-body]
    vm: Vm, image: Image, files: Sequence[GuestFile], directories: Sequence[Node]
) -> RootDisk:
    """The VM's root disk. Asked of the storage plugin.

    `files` and `directories` may be written while it is made: all of them, when the handle that `create` answers with
    has `HAS_GUEST_FILES`. Otherwise, and ever after, the core makes sure of them.
    """


@hookspec
def prepare_work_disk(vm: Vm, image: Image, files: Sequence[GuestFile]) -> WorkDisk:  # type: ignore[empty-body]
    """The disk that lasts, mounted on /root. Called only for VMs that want one. Asked of the work disk plugin."""


@hookspec
def launch_vmm(  # type: ignore[empty-body]
    vm: Vm,
    image: Image,
    disks: Sequence[Disk],
    attachment: UserAttachment | TapAttachment,
    kernel_arguments: Sequence[str],
    needs: tuple[str, ...],
) -> Sequence[Resource]:
    """The running virtual machine, on these disks. Asked of the VMM plugin.

    Its keys must include `vm.vmm_key`. `needs` are the keys of everything it stands on: pass them on.
    """


# --- end -------------------------------------------------------------------------------------------------------------


@hookspec
def teardown_handles(vm: Vm, handles: dict[str, Handle]) -> Sequence[Resource]:  # type: ignore[empty-body]
    """The resources that these recorded handles (by key) stand for, so that they can be removed without a playbook.

    Every plugin is asked; answer only for your own.
    """


@hookspec
def find_leftovers(vms: Path, known: Collection[str], host: HostView) -> Sequence[Leftover]:  # type: ignore[empty-body]
    """What this plugin once made, by its mark on the host, and that is of none of the VMs `known`, by id.

    `vms`: the directory of this home in which each VM's directory is, named after its id. What another home may have
    made has no `resource`. What stands on files in a VM's directory `needs` the key `ID/directory`. Processes are the
    core's. Every plugin is asked, by `banger gc`.
    """
