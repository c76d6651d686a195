"""What a resource may ask of a host, and nothing else: the seam between banger and the machine.

Two faces. `HostView` only looks; planning is given one of these, so that a plan cannot change anything. `Host` can
also act. `banger.linux.host` is the real one; `banger.testing` has a simulated one with the same manners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from banger.identity import ProcessIdentity, SshEndpoint

if TYPE_CHECKING:
    from banger.errors import HostError
    from banger.types import GuestFile

__all__ = [
    "Ext4", "Ext4View", "FileStatus", "Files", "FilesView", "Host", "HostView", "Http", "HttpView", "Inode", "Link",
    "Links", "LinksView", "LoopDevice", "Loops", "LoopsView", "Mapper", "MapperDevice", "MapperView",
    "NetworkState", "NetworkView", "Node", "NodeType", "ProcessIdentity", "Processes", "ProcessesView", "Qmp",
    "QmpView", "Route", "Target", "Tools", "ToolsView",
]  # fmt: skip

MOST_READ_BYTES = 64 * 2**20
"""More than files that people write into guests have, and little enough to be had in memory."""

NodeType = Literal["file", "directory", "symlink", "character", "block", "fifo", "socket"]


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What stat(2) says of a host path, as far as anyone here needs it."""

    size_bytes: int
    allocated_bytes: int
    mtime_ns: int
    inode: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode of an ext4 image. `mode` is permission bits only; `target` is a symlink's text."""

    type: NodeType
    mode: int
    uid: int
    gid: int
    size_bytes: int = 0
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """Something to put into a new ext4 image. `path` is absolute in it; `content` is for files, `target` for links."""

    path: str
    type: Literal["file", "directory", "symlink"]
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    content: bytes = field(default=b"", repr=False)
    target: str = ""


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A loop device, loop(4): a file as a block device. `number` is `major:minor`, as device-mapper tables have it."""

    path: Path
    number: str
    backing: Path
    """The file, by the name that the kernel has for it."""
    size_bytes: int
    read_only: bool
    autoclear: bool
    """Whether it disappears by itself with its last user."""


@dataclass(frozen=True, slots=True)
class Target:
    """A line of a device-mapper table (dmsetup(8)); `start` and `length` in sectors of 512 bytes.

    In a status, `parameters` is what the target says of itself.
    """

    start: int
    length: int
    type: str
    parameters: str = ""

    def __str__(self) -> str:
        return f"{self.start} {self.length} {self.type} {self.parameters}".rstrip()


@dataclass(frozen=True, slots=True)
class MapperDevice:
    """A device of the device mapper. `path` is /dev/dm-N, `number` its `major:minor`."""

    name: str
    uuid: str
    path: Path
    number: str
    read_only: bool
    open_count: int
    """How many hold it open; other devices that stand on it count."""
    linked: bool
    """Whether /dev/mapper/NAME leads to it."""
    table: tuple[Target, ...]
    """What it does now; empty for one that was never finished."""

    @property
    def size_bytes(self) -> int:
        return sum(target.length for target in self.table) * 512


@dataclass(frozen=True, slots=True)
class Link:
    """A network device, ip-link(8). `kind` is empty for a physical one, else `bridge`, `tap`, `veth`, …"""

    name: str
    index: int
    kind: str
    mac: str
    up: bool
    alias: str = ""
    master: str = ""
    """The bridge it is a port of."""
    isolated: bool = False
    """As a port: whether it is kept from other isolated ports."""
    learns_linklocal: bool = False
    """As a bridge: whether it learns who is where also from frames that are for it alone (IEEE 802.1D, 7.12.6)."""
    owner: int | None = None
    """The user id that may open a tap; None: any."""
    addresses: tuple[str, ...] = ()
    """IPv4, with prefix lengths."""


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What a network namespace has. `tables`: the comment of each nftables table, by `family name`."""

    links: Mapping[str, Link]
    tables: Mapping[str, str]
    forwards: bool
    """Whether packets are passed on from one device to another (net.ipv4.ip_forward)."""


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route: where to (`172.16.0.0/24`), and by which device; empty: by none, or by several."""

    destination: str
    device: str


@dataclass(frozen=True, slots=True)
class Memory:
    """A host's memory, proc_meminfo(5): MemTotal and MemAvailable."""

    total_bytes: int
    available_bytes: int


class FilesView(Protocol):
    """Looking at host files."""

    def status(self, path: Path) -> FileStatus | None:
        """None when there is nothing there."""

    def read(self, path: Path) -> bytes: ...

    def writable(self, path: Path) -> bool:
        """Whether we may read and write what is there (access(2))."""

    def list(self, directory: Path) -> list[Path]:
        """Sorted; empty when the directory is not there."""

    def free_bytes(self, path: Path) -> int:
        """How much we may still write to the file system that this is on, or will be once it is made."""

    def mount_options(self, path: Path) -> set[str]:
        """Which of `nodev` and `noexec`, mount(8), the file system has that this is on."""


class Files(FilesView, Protocol):
    """Changing host files."""

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """With its parents; an existing one is kept."""

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        """Whole or not at all: temporary file, fsync, rename, directory fsync."""

    def remove(self, path: Path) -> None:
        """A file or socket; already gone is success."""

    def remove_tree(self, path: Path) -> None:
        """A directory and all in it; already gone is success; symbolic links are not followed."""

    def allocate(self, path: Path, size_bytes: int) -> None:
        """A new sparse file of this size (mode 0600); an existing longer or shorter one is set to it."""

    def clone(self, source: Path, destination: Path) -> Literal["reflink", "sparse"]:
        """Copy a file: share its extents where the file system can, else copy data and keep holes."""

    def rename(self, source: Path, destination: Path) -> None:
        """Replaces the destination in one step and makes it durable."""

    def link(self, target: Path, path: Path) -> None:
        """Make a symbolic link to `target` at `path`, in place of one that is there."""

    def share(self, source: Path, path: Path, owner: int) -> None:
        """Make a second name for a file (link(2)) or a block device (mknod(2)), and make it `owner`'s."""

    def give(self, path: Path, owner: int) -> None:
        """Make a file or directory belong to this user id and the group of the same number."""


class LoopsView(Protocol):
    """Looking at loop devices."""

    def of(self, backing: Path, *, number: str = "") -> list[LoopDevice]:
        """Those that this very file is attached to; with `number`, only that device is looked at."""

    def devices(self) -> list[LoopDevice]:
        """All that are attached, by number; `backing` of a file that was removed since ends in ` (deleted)`."""


class Loops(LoopsView, Protocol):
    """Files as block devices. Raises HostError where there are none to be had."""

    def attached(
        self, backing: Path, *, read_only: bool = False, share: bool = False, direct: bool = False
    ) -> AbstractContextManager[LoopDevice]:
        """A loop device of the whole file, held for the length of the block; it goes by itself with its last user.

        So what is to keep it (a device-mapper table) must have opened it by then, and a kill at any moment leaves none
        behind. `share`: a read-only one that is already there is used. `direct`: the file is read and written past the
        host's page cache, where its file system can.
        """

    def detach(self, device: LoopDevice) -> None:
        """Take one away that nobody uses; already gone is success. Busy when somebody does."""


class MapperView(Protocol):
    """Looking at the device mapper. Where the kernel has none, there simply are no devices."""

    def device(self, name: str) -> MapperDevice | None:
        """None when there is none of this name."""

    def status(self, name: str) -> tuple[Target, ...]:
        """What the targets of a device say of themselves; empty when there is none of this name."""

    def names(self, prefix: str = "") -> list[str]:
        """The names of all devices that begin so, sorted."""

    def supports(self, target: str) -> bool:
        """Whether the kernel has this type of target; it loads the module as it would when one is made."""

    def store_is_valid(self, cow: Path) -> bool:
        """Whether a snapshot can be made of this file or device again; one never used can.

        The kernel gives a snapshot up for good, by a mark in its store, when writing to the store fails.
        """


class Mapper(MapperView, Protocol):
    """Changing what the device mapper does. Raises HostError, with the cure, where the kernel has none."""

    def create(self, name: str, table: Sequence[Target], *, uuid: str, read_only: bool = False) -> MapperDevice:
        """Make a device and its /dev/mapper/NAME; on failure there is none.

        One of the same name and uuid that was never finished is finished. Busy when there is another of this name.
        """

    def remove(self, name: str) -> None:
        """Take a device away, and its /dev/mapper/NAME; already gone is success. Busy when it is open."""

    def revive_store(self, cow: Path) -> None:
        """Take back the mark of a store that was given up. What had been written by then is all there."""


class LinksView(Protocol):
    """Looking at network devices and what belongs to them. `netns`: a namespace (ip-netns(8)); empty: our own."""

    def look(self, netns: str = "") -> NetworkState | None:
        """What is there; None when there is no namespace of this name. Raises HostError when we may not look."""

    def routes(self, netns: str = "") -> list[Route]:
        """Every IPv4 route, of every table; none where there is no such namespace."""

    def namespaces(self) -> list[str]:
        """The names of all namespaces, sorted."""

    def refusal(self, rules: str = "") -> HostError | None:
        """Why a tap, a bridge, or a firewall of these rules (nft(8)) cannot be had here; None: they can.

        Found by making them where nobody sees them.
        """


class Links(LinksView, Protocol):
    """Changing network devices. Raises HostError with the kernel's own words, Busy for what is in use."""

    def add_namespace(self, name: str, alias: str) -> None:
        """A new namespace, whose `lo` is up and has this alias as soon as the name is there."""

    def remove_namespace(self, name: str) -> None:
        """With all that is in it; already gone is success."""

    def add_bridge(self, name: str, mac: str, *, netns: str = "") -> None:
        """A bridge that is down, forwards at once (no spanning tree), and has this address from the beginning.

        It learns nothing from link-local frames.
        """

    def add_tap(self, name: str, alias: str, *, owner: int | None = None, netns: str = "") -> None:
        """A tap that stays, is down, and has its alias as soon as it stays; there must be no device of this name.

        `owner`: the user id that may open it; None: ours.
        """

    def change(
        self,
        name: str,
        *,
        alias: str | None = None,
        addresses: Sequence[str] | None = None,
        master: str | None = None,
        isolated: bool | None = None,
        learns_linklocal: bool | None = None,
        up: bool | None = None,
        netns: str = "",
    ) -> None:
        """Make a device so, in this order. `addresses`: these, with prefix lengths, and no other IPv4 ones."""

    def remove(self, name: str, *, netns: str = "") -> None:
        """Already gone is success."""

    def load_rules(self, rules: str, *, netns: str = "") -> None:
        """Commands of nft(8), all of them or none."""

    def forward(self, *, netns: str) -> None:
        """Let this namespace pass packets on from one device to another."""


class Ext4View(Protocol):
    """Looking into an ext4 image or device without mounting it."""

    def lookup(
        self, disk: Path, paths: Iterable[str], *, prefix: str = "", base: Path | None = None
    ) -> dict[str, Inode | None]:
        """Each path's own inode on this disk (a final symlink is not followed; symlinks in its directories are).

        With `prefix` and `base`, as for `Ext4.patch`: the paths are the guest's, and a symlinked directory that only
        `base` has is followed too, so that what was written to `/bin/x` is found where it went. What only `base` has
        is None.
        """

    def read(
        self,
        disk: Path,
        paths: Iterable[str],
        *,
        prefix: str = "",
        base: Path | None = None,
        most_bytes: int = MOST_READ_BYTES,
    ) -> dict[str, GuestFile | None]:
        """Each regular file whole, with mode and owner; None where there is no regular file. Paths as for `lookup`.

        How large a file is its guest decides. Raises DiskError when all together have more than `most_bytes`.
        """

    def differing(
        self, disk: Path, files: Sequence[GuestFile], *, prefix: str = "", base: Path | None = None
    ) -> list[GuestFile]:
        """Those of these files that are not there with this content, mode and owner. Paths as for `lookup`.

        What has another size is not read.
        """

    def resolve(self, disk: Path, path: str) -> str:
        """The path with every symlink in its *directories* followed inside the image (like a chroot)."""


class Ext4(Ext4View, Protocol):
    """Changing an ext4 image or device without mounting it. Each raises DiskError and names the step that failed."""

    def make(
        self, path: Path, size_bytes: int, nodes: Sequence[Node] = (), *, label: str = "", uuid: str | None = None
    ) -> None:
        """A new sparse image (0600) with `nodes` in it, whole or not at all; missing parents become 0755 root:root."""

    def recover(self, disk: Path, *, thoroughly: bool = False) -> None:
        """Replay the journal of a file system whose guest was stopped hard (e2fsck -p). Busy when it is in use.

        `thoroughly`: check all of it, also where it says that it is clean.
        """

    def patch(
        self,
        disk: Path,
        writes: Sequence[GuestFile],
        removals: Sequence[str] = (),
        *,
        directories: Sequence[Node] = (),
        base: Path | None = None,
        prefix: str = "",
    ) -> None:
        """Replace or make files and remove others, in one run, then prove the image clean.

        All paths are the guest's; `prefix` is the directory of this disk that stands for the guest's root
        (an overlay's `/upper`). `directories` are made or corrected to their mode and owner. Other missing parents
        take type, owner and mode from the same path in `base` (0755 root:root without). Replays the journal first;
        refuses a disk that is mounted or in use (Busy).
        """

    def grow(self, path: Path, size_bytes: int, *, interrupted: bool = False) -> None:
        """Check and enlarge an image file to this size; of a device, its file system to the device's own size.

        `interrupted`: it was sound before an enlarging of it that was broken off, and what that left is mended.
        """

    def set_identity(self, disk: Path, *, label: str, uuid: str) -> None:
        """Give an existing file system its label and UUID."""

    def flatten(self, disk: Path, directory: str) -> int:
        """Move everything in top-level `directory` up to the root and remove it; how many entries moved.

        Modes and owners are kept. Where both levels have a name: directories are merged; of two files the nested one
        takes the name and the other is kept beside it as `NAME.before-flatten`. 0 when there is no such directory.
        """

    def copy_tree(
        self, source: Path, directory: str, destination: Path, size_bytes: int, *, label: str, uuid: str
    ) -> None:
        """A new image at `destination` whose root is `directory` of `source`: contents, modes and owners.

        Whole or not at all.
        """


class ProcessesView(Protocol):
    """Looking at processes."""

    def find(self, socket: str, hint: ProcessIdentity | None = None) -> ProcessIdentity | None:
        """The live VMM whose command line says that it listens on this socket. A zombie is dead.

        It runs as the owner of the directory that the socket is in, as root, or as the user of the jail of the VM whose
        directory that is: a command line of anyone else proves nothing.

        `hint` is looked at first; it counts only when pid, start time and command line all agree. What the kernel says
        wins. Only when the hint fails are all command lines read.
        """

    def listening_below(self, directory: Path) -> dict[Path, ProcessIdentity]:
        """The live VMMs whose command lines say that they listen on a socket below this directory, by socket.

        They run as those of `find`.
        Only of our own PID namespace: in another one, a container say, the same path is another place.
        """

    def refresh(self) -> None:
        """Whoever is looked for from now on is found, or not, as of now or later: for when a lock was taken."""

    def arguments(self, process: ProcessIdentity) -> list[str] | None:
        """Its command line, the program's name first; None when it is gone."""


STARTED_AGAIN = "--- started again ---"
"""A line in a console or a log; what is above it is of earlier starts."""


class Processes(ProcessesView, Protocol):
    """Starting and ending processes."""

    def start(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        netns: str = "",
        console: Path | None = None,
        pipes: Mapping[Path, Path] | None = None,
        owner: int | None = None,
    ) -> ProcessIdentity:
        """Start a process of its own session that outlives us, output appended to `log`.

        `netns`: the network namespace (ip-netns(8)) it runs in; empty: ours. `console`: where its stdout goes instead,
        of which only the newest part is kept, a megabyte or so; where it or the log has something of an earlier start,
        a line says where this one begins (STARTED_AGAIN). `pipes`: named pipes (fifo(7)) made for it, by each
        the file that what it writes there is kept in likewise; whoever ends the process removes them. `owner`: the
        user id that may open the pipes; None: ours.
        """

    def wait(self, process: ProcessIdentity, timeout_s: float) -> bool:
        """Whether it ended within the time."""

    def console_ended(self, console: Path, timeout_s: float) -> bool:
        """Whether, within the time, nobody has this console any more, and all that was said is there.

        One that somebody has tells of a process that `find` may not find yet: between fork(2) and execve(2) it has the
        command line of whoever starts it.
        """

    def kill(self, process: ProcessIdentity, timeout_s: float = 5.0) -> None:
        """SIGKILL through a pidfd, and proof of death: returns only when it is gone, else raises Busy."""


class QmpView(Protocol):
    """Asking QEMU over its QMP socket."""

    def query(self, socket: Path, command: str, timeout_s: float = 5.0) -> Any:
        """The `return` of a `query-…` command. Raises VmmError when nobody answers."""


class Qmp(QmpView, Protocol):
    """Telling QEMU."""

    def execute(
        self, socket: Path, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        """Raises VmmError when it refuses or nobody answers."""


class HttpView(Protocol):
    """Asking who listens on a Unix socket, in JSON over HTTP. `timeout_s`: when the whole answer must be there."""

    def get(self, socket: Path, path: str, timeout_s: float = 5.0) -> Any:
        """The JSON of the answer. Raises VmmError with its own words when it refuses, and when nobody answers."""


class Http(HttpView, Protocol):
    """Telling it. Raises VmmError as `get` does."""

    def put(self, socket: Path, path: str, body: Mapping[str, Any], timeout_s: float = 5.0) -> None: ...


class NetworkView(Protocol):
    """Looking at the host's network."""

    def port_is_free(self, host: str, port: int) -> bool:
        """Whether a TCP listener could bind here now."""

    def ssh_banner(self, ssh: SshEndpoint, timeout_s: float) -> str | None:
        """The identification line of the ssh server that answers there; None when none does in time."""


class ToolsView(Protocol):
    """What programs this host has."""

    def which(self, program: str) -> Path | None: ...

    def version(self, program: str) -> str | None:
        """The first line of what `PROGRAM --version` says; None when it says nothing, or is not installed."""

    def kvm_boots(self, kernel: Path, initrd: Path) -> bool:
        """Whether a guest really boots under KVM here; found out once per host boot by booting one."""

    def vsock_proxy(self, socket: Path) -> str:
        """The ssh_config(5) ProxyCommand that reaches a guest's sshd over the VMM's vsock socket (ProxyUseFdpass)."""


class Tools(ToolsView, Protocol):
    """Programs that make small things, or do small things in a guest."""

    def unpack_kernel(self, source: Path, destination: Path) -> None:
        """The ELF file inside a compressed kernel (bzImage), whole or not at all; one that is an ELF file is linked.

        Raises HostError when it is no kernel, or packed in a way that this host has no program for, DiskError when
        more is packed in it than any kernel has.
        """

    def ssh(self, argv: Sequence[str], *, netns: str = "", timeout_s: float) -> bool:
        """Run an ssh(1) command line from this network namespace; whether it ended with 0 in time."""

    def make_ssh_key(self, path: Path, comment: str) -> None:
        """A new ed25519 key pair (ssh-keygen(1)), without passphrase: `path` (0600) and `path`.pub."""


class HostView(Protocol):
    """A host that can only be looked at."""

    @property
    def files(self) -> FilesView: ...
    @property
    def ext4(self) -> Ext4View: ...
    @property
    def links(self) -> LinksView: ...
    @property
    def loops(self) -> LoopsView: ...
    @property
    def mapper(self) -> MapperView: ...
    @property
    def processes(self) -> ProcessesView: ...
    @property
    def qmp(self) -> QmpView: ...
    @property
    def http(self) -> HttpView: ...
    @property
    def network(self) -> NetworkView: ...
    @property
    def tools(self) -> ToolsView: ...
    @property
    def boot_id(self) -> str:
        """random(4) boot id: everything of lifetime `boot` recorded under another one is gone."""

    def memory(self) -> Memory: ...


class Host(HostView, Protocol):
    """A host that can be changed."""

    @property
    def files(self) -> Files: ...
    @property
    def ext4(self) -> Ext4: ...
    @property
    def links(self) -> Links: ...
    @property
    def loops(self) -> Loops: ...
    @property
    def mapper(self) -> Mapper: ...
    @property
    def processes(self) -> Processes: ...
    @property
    def qmp(self) -> Qmp: ...
    @property
    def http(self) -> Http: ...
    @property
    def tools(self) -> Tools: ...
    def locked(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock of this name; every command on this host honours it, and it dies with its process.

        For what several VMs share (a bridge, a base loop): looked at, made and taken away while it is held.
        """
