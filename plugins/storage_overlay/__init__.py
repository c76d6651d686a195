"""Root disks without root: one shared read-only image, a sparse upper disk per VM, overlayfs in the guest.

The upper disk is made by one mke2fs(8) run with the guest files already in it, on any file system. The image's initrd
mounts both and joins them (`banger.root=overlay`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.hooks import hookimpl
from banger.host import Host, HostView, Node
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import Disk, GuestDisk, GuestFile, Image, RootDisk, Size, Vm

UPPER = "/upper"
WORK = "/work"
_LABEL = "banger-upper"


@dataclass(frozen=True)
class UpperDisk(Resource):
    """A VM's own writes to its root file system, over one image."""

    key: str
    needs: tuple[str, ...]
    path: Path
    base: Path
    base_digest: str
    size_bytes: int
    files: tuple[GuestFile, ...]
    stage = "prepare_root_disk"

    @property
    def base_note(self) -> Path:
        """Says which image the disk was made over; an overlay's upper means nothing over another."""
        return self.path.with_suffix(".base")

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        status = host.files.status(self.path)
        if status is None or host.files.status(self.base_note) is None:
            return Absent()
        if host.files.read(self.base_note).decode() != self.base_digest:
            return Drifted({}, ("made over another image",), in_place=False)
        if status.size_bytes > self.size_bytes:
            return Drifted({}, (f"root_disk {Size(status.size_bytes)} -> {Size(self.size_bytes)}",), in_place=False)
        if status.size_bytes < self.size_bytes:
            return Drifted({}, (f"root_disk {Size(status.size_bytes)} -> {Size(self.size_bytes)}",))
        return Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        stage("making the upper disk")
        host.ext4.make(self.path, self.size_bytes, self._nodes(host), label=_LABEL)
        host.files.write(self.base_note, self.base_digest.encode())
        return {}

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        stage("growing the upper disk")
        host.ext4.grow(self.path, self.size_bytes)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove(self.base_note)
        host.files.remove(self.path)

    def _nodes(self, host: HostView) -> list[Node]:
        """The files with every parent directory as the image has it: overlayfs shows the upper's owner and mode."""
        ancestors = {directory for f in self.files for directory in _ancestors(f.path)}
        inodes = host.ext4.lookup(self.base, sorted(ancestors))
        linked = {path for path, inode in inodes.items() if inode and inode.type == "symlink"}
        real = {f.path: f.path for f in self.files}
        for path in real:
            if linked & set(_ancestors(path)):
                real[path] = host.ext4.resolve(self.base, path)
        missing = {d for path in real.values() for d in _ancestors(path)} - set(inodes)
        inodes |= host.ext4.lookup(self.base, sorted(missing)) if missing else {}
        directories = {d for path in real.values() for d in _ancestors(path)}
        nodes = [Node(UPPER, "directory"), Node(WORK, "directory", 0o700)]
        for directory in sorted(directories - {"/"}):
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
def prepare_root_disk(vm: Vm, image: Image, files: Sequence[GuestFile]) -> RootDisk:
    upper = UpperDisk(
        key=f"{vm.name}/root/upper",
        needs=(vm.directory_key,),
        path=vm.root_overlay,
        base=image.rootfs,
        base_digest=image.digest,
        size_bytes=vm.root_disk_bytes,
        files=tuple(files),
    )
    return RootDisk(
        resources=(upper,),
        disks=(Disk(image.rootfs, read_only=True, role="root"), Disk(vm.root_overlay, role="upper")),
        guest_disk=GuestDisk(vm.root_overlay, prefix=UPPER, base=image.rootfs),
        kernel_arguments=("banger.root=overlay", "banger.lower=/dev/vda", "banger.upper=/dev/vdb"),
    )
