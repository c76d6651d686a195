"""The frozen values that cross a hook. Pure: no I/O, and nothing here changes once made.

Sizes are bytes (`…_bytes`), paths on the host are `Path`, paths inside a guest are `str` and absolute.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from banger.errors import Place, Problem
from banger.identity import Nic, SshEndpoint
from banger.scalars import FileMode, GuestFilePath, GuestPath, OwnerId, Size

__all__ = [
    "WORK_MOUNT_POINT",
    "Disk",
    "FileMode",
    "GuestDisk",
    "GuestFile",
    "GuestFilePath",
    "GuestModule",
    "GuestPath",
    "HostKey",
    "Image",
    "ImageFacts",
    "ImageSource",
    "ImageSpec",
    "ModuleContext",
    "Mount",
    "Network",
    "NetworkKind",
    "NetworkSetup",
    "Nic",
    "OwnerId",
    "Place",
    "Problem",
    "RootDisk",
    "Size",
    "SshEndpoint",
    "TapAttachment",
    "UserAttachment",
    "Vm", "VmFiles",
    "WorkDisk",
]  # fmt: skip

WORK_MOUNT_POINT = "/root"
"""Where a work disk is mounted in its guest."""


# --- what a guest gets -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GuestFile:
    """One regular file inside a guest: whole content, permission bits (without the type), numeric owner."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    origin: str = ""
    """Who asked for it: a plugin's name, or a place in a playbook."""
    no_log: bool = field(default=False, compare=False)
    """Its content is for nobody to see but the guest."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of a guest's fstab(5)."""

    source: str
    target: str
    fstype: str
    options: tuple[str, ...] = ("defaults",)
    dump: int = 0
    pass_number: int = 0


# --- images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image as a playbook asks for it. `options` is the source's own options object (see `ImageSource`)."""

    name: str
    source: str
    options: Any
    work_seed_bytes: int | None = None
    """Size of the image that work disks are cloned from, made of its /root; None: there is none."""
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)
    """Where the value of each of its keys stands, those of `options` too."""

    def place_of(self, key: str) -> Place | None:
        """Where a key's value stands in the playbook; the image's own place where it is not written."""
        return self.places.get(key, self.place)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What guest configuration needs to know of a built image, read once when it was built."""

    fstab: str | None
    """Its /etc/fstab; None when it has none."""
    kernel_release: str | None
    rootfs_bytes: int
    work_seed_bytes: int | None = None
    build: str = ""
    """Of this very build, drawn anew for each: two of one recipe need not have the same blocks."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image and where its files are. The directory is a pure function of the recipe's digest."""

    name: str
    digest: str
    directory: Path
    facts: ImageFacts

    @property
    def rootfs(self) -> Path:
        """The root file system: an ext4 image, never written once made."""
        return self.directory / "rootfs.ext4"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def work_seed(self) -> Path:
        """What work disks are cloned from; it is there only when `facts.work_seed_bytes` is set."""
        return self.directory / "work-seed.ext4"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Declares an image source: its name in `source:` and the dataclass that types its other keys."""

    name: str
    options: type


# --- networks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network:
    """A network as a playbook asks for it. `options` is an object of the kind's own dataclass."""

    name: str
    plugin: str
    options: Any
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class NetworkKind:
    """Declares a network kind: its name in `plugin:` and the dataclass that types its other keys."""

    name: str
    options: type


@dataclass(frozen=True, slots=True)
class UserAttachment:
    """A user-mode network inside the VMM: no kernel object at all. `forwards` are (host, host port, guest port)."""

    outbound: bool
    forwards: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class TapAttachment:
    """A tap device on the host, by name (at most 15 bytes), in this network namespace; empty: the host's own."""

    device: str
    netns: str = ""


# --- VMs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostKey:
    """A guest's own ed25519 host key, made on the host so that the first connection is already known."""

    private: str = field(repr=False)
    public: str


_JAIL_UIDS = range(0x70000000, 0x7FFFFFFF)
"""What systemd's list of user ids (UIDS-GIDS.md) leaves to nobody."""


def jail_uid(vm_id: str) -> int:
    """The user id that follows from a VM's id."""
    return _JAIL_UIDS[int(vm_id, 16) % len(_JAIL_UIDS)]


def jail_uid_of(socket: Path) -> int | None:
    """The user id of the jail of the VM in whose directory, named after its id, this socket is; None: it is no VM's."""
    vm_id = socket.parent.name
    return jail_uid(vm_id) if vm_id and not vm_id.strip("0123456789abcdef") else None


def home_mark(vms: Path) -> str:
    """Tells what one home made from what another did, where there is no room for a path: eight hexadecimal digits.

    `vms`: the directory that the directories of all its VMs are in.
    """
    return hashlib.sha256(os.fsencode(vms)).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class VmFiles:
    """Where a VM's files lie: all in its directory, under names that are written here and nowhere else."""

    directory: Path

    @property
    def api_socket(self) -> Path:
        """The VMM's control socket; its path in a command line is what marks a process as this VM's VMM."""
        return self.directory / "api.sock"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def root_overlay(self) -> Path:
        """What this VM wrote to its root disk (or its whole copy of it)."""
        return self.directory / "root.ext4"

    @property
    def work_disk(self) -> Path:
        return self.directory / "work.ext4"

    @property
    def vsock_socket(self) -> Path:
        return self.directory / "vsock.sock"

    @property
    def log_pipe(self) -> Path:
        """Where a VMM writes its log, if it writes one to a file of its own."""
        return self.directory / "log.pipe"

    @property
    def metrics_pipe(self) -> Path:
        return self.directory / "metrics.pipe"

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def jail(self) -> Path:
        """The directory that a jailed VMM's root directory is in."""
        return self.directory / "jail"

    @property
    def of_a_run(self) -> tuple[Path, ...]:
        """The files that are there only while a VMM runs, whichever it is; so is the `jail`."""
        return (self.api_socket, self.vsock_socket, self.log_pipe, self.metrics_pipe)


@dataclass(frozen=True, slots=True)
class Vm(VmFiles):
    """A VM that should exist. Everything on the host that belongs to it is named by `id` or lies in `directory`."""

    id: str
    name: str
    image: str
    vcpus: int
    memory_bytes: int
    root_disk_bytes: int
    work_disk_bytes: int | None
    """None: this VM has no work disk, and /root is on its root disk."""
    storage: str
    workdisk: str
    vmm: str
    nic: Nic
    authorized_keys: tuple[str, ...]
    host_key: HostKey
    running: bool = True
    """Whether it should run; False: its disks and guest files are made, and it is not started."""
    overlay_bytes: int | None = None
    """How much the guest may write to its root disk, where its storage can bound that; None: all of it."""
    vsock_cid: int = 3
    """Its address for vsock(7), on VMMs that have one; 3 is the first that is a guest's."""
    jailed: bool = False
    """Whether its VMM is to run under a jailer of its own, where there is one."""
    network: Network | None = None
    place: Place | None = None
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)

    def place_of(self, key: str) -> Place | None:
        """Where a key's value stands in the playbook; the VM's own place where it is not written."""
        return self.places.get(key, self.place)

    @property
    def directory_key(self) -> str:
        """The resource that is this VM's directory; whatever lies in it needs this key."""
        return f"{self.name}/directory"

    @property
    def vmm_key(self) -> str:
        return f"{self.name}/vmm"

    @property
    def vmm_uid(self) -> int | None:
        """The user and group id that its VMM runs as, nobody else's; None: ours."""
        return jail_uid(self.id) if self.jailed else None


@dataclass(frozen=True, slots=True)
class Disk:
    """A block device of the guest: a raw image file or block device on the host. Order is the guest's vda, vdb, …"""

    path: Path
    read_only: bool = False
    role: Literal["root", "upper", "work", "data"] = "data"


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """Where guest files are written: an ext4 file system and the directory in it that is the guest's `mount_point`.

    `base` is what lies under it (an overlay's lower image): parents missing here take their type, owner and mode
    from there. `backing` is the file whose state tells whether the disk was written to since, for a `path` that is a
    device and there only while it is in use.
    """

    path: Path
    prefix: str = ""
    mount_point: str = "/"
    base: Path | None = None
    backing: Path | None = None


HAS_GUEST_FILES = "has_guest_files"
"""In the handle of a disk that was made just now: the guest's files and directories are on it, all of them."""


@dataclass(frozen=True, slots=True)
class RootDisk:
    """A storage plugin's answer: the resources to make, the disks to attach in order, how the guest joins them."""

    resources: tuple[Any, ...]
    disks: tuple[Disk, ...]
    guest_disk: GuestDisk
    kernel_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkDisk:
    """A work disk plugin's answer."""

    resources: tuple[Any, ...]
    disk: Disk
    guest_disk: GuestDisk


@dataclass(frozen=True, slots=True)
class NetworkSetup:
    """A network plugin's answer for one VM: the resources to make, and how the VMM attaches the card."""

    resources: tuple[Any, ...]
    attachment: UserAttachment | TapAttachment


# --- guest modules -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What a guest module may use while it contributes. `render` and `read_source` raise errors that have a place."""

    facts: Mapping[str, Any]
    """`vm` and `image`, as templates see them."""
    place: Place
    read_source: Callable[[str], bytes]
    """Reads a file named relative to the playbook that holds the task."""
    render: Callable[[str, str], str]
    """Renders template text; the second argument names it in errors."""


@dataclass(frozen=True, slots=True)
class GuestModule:
    """A task's verb. `options` is a dataclass whose fields are the task's keys; `contribute` fills the builder.

    `contribute(builder, options, context)` touches no host. `builder` is a `banger.guestconfig.GuestConfig`.
    """

    name: str
    options: type
    contribute: Callable[[Any, Any, ModuleContext], None]
