"""Root disks without root: one shared read-only image, a sparse upper disk per VM, overlayfs in the guest.

The upper disk is made by one mke2fs(8) run with the guest files already in it, on any file system. The image's initrd
mounts both and joins them (`banger.root=overlay`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

from banger.hooks import hookimpl
from banger.host import Host, HostView, Node
from banger.needs import E2FSPROGS, Need, programs
from banger.resource import Handle, Needs, Stage
from banger.rootdisk import RootDiskFile, unbounded
from banger.types import HAS_GUEST_FILES, Disk, GuestDisk, GuestFile, Image, Problem, RootDisk, Vm

UPPER = "/upper"
WORK = "/work"
_LABEL = "banger-upper"


@dataclass(frozen=True)
class UpperDisk(RootDiskFile):
    """A VM's own writes to its root file system, over its image."""

    files: tuple[GuestFile, ...] = ()
    directories: tuple[Node, ...] = ()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        return {**super().create(host, needs, stage), HAS_GUEST_FILES: True}

    def make(self, host: Host, stage: Stage) -> None:
        stage("making the upper disk")
        host.ext4.make(self.path, self.size_bytes, self._nodes(host), label=_LABEL)

    def _nodes(self, host: HostView) -> list[Node]:
        """What is wanted, parent directories as the image has them: overlayfs shows the upper's owner and mode."""
        wanted: tuple[GuestFile | Node, ...] = (*self.files, *self.directories)
        ancestors = {directory for each in wanted for directory in _ancestors(each.path)}
        inodes = host.ext4.lookup(self.image.rootfs, sorted(ancestors))
        linked = {path for path, inode in inodes.items() if inode and inode.type == "symlink"}
        real = {each.path: each.path for each in wanted}
        for path in real:
            if linked & set(_ancestors(path)):
                real[path] = host.ext4.resolve(self.image.rootfs, path)
        missing = {d for path in real.values() for d in _ancestors(path)} - set(inodes)
        inodes |= host.ext4.lookup(self.image.rootfs, sorted(missing)) if missing else {}
        directories = {d for path in real.values() for d in _ancestors(path)}
        nodes = [Node(UPPER, "directory"), Node(WORK, "directory", 0o700)]
        own = {real[node.path]: node for node in self.directories}
        nodes += [replace(node, path=UPPER + path) for path, node in own.items()]
        for directory in sorted(directories - {"/", *own}):
            inode = inodes.get(directory)
            owner = (inode.mode, inode.uid, inode.gid) if inode and inode.type == "directory" else (0o755, 0, 0)
            nodes.append(Node(UPPER + directory, "directory", *owner))
        nodes += [Node(UPPER + real[f.path], "file", f.mode, f.uid, f.gid, f.content) for f in self.files]
        return nodes


def _ancestors(path: str) -> list[str]:
    """Every directory above a path, outermost first, without the root: `/a/b/c` -> `/a`, `/a/b`."""
    found: list[str] = []
    while (path := posixpath.dirname(path)) != "/":
        found.append(path)
    return found[::-1]


@hookimpl
def register_needs() -> Sequence[Need]:
    return programs(E2FSPROGS, "e2fsprogs")


@hookimpl
def validate_vm(vm: Vm) -> Sequence[Problem]:
    return unbounded(vm, "overlay")


@hookimpl
def prepare_root_disk(vm: Vm, image: Image, files: Sequence[GuestFile], directories: Sequence[Node]) -> RootDisk:
    upper = replace(UpperDisk.of(vm, image, "upper"), files=tuple(files), directories=tuple(directories))
    return RootDisk(
        resources=(upper,),
        disks=(Disk(image.rootfs, read_only=True, role="root"), Disk(vm.root_overlay, role="upper")),
        guest_disk=GuestDisk(vm.root_overlay, prefix=UPPER, base=image.rootfs),
        kernel_arguments=("banger.root=overlay", "banger.lower=/dev/vda", "banger.upper=/dev/vdb"),
    )
