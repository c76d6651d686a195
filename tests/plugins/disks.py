"""A small image and a VM on it, for tests of the plugins that make disks. Real file systems, no root needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from banger.host import Host, Node
from banger.types import HostKey, Image, ImageFacts, Nic, SshEndpoint, Vm

IMAGE_BYTES = 32 * 2**20
SEED_BYTES = 16 * 2**20
WORK_BYTES = 24 * 2**20


def image(host: Host, directory: Path, *, seed: list[Node] | None = None) -> Image:
    """An image with a merged /usr, an owned directory, and a home with hidden files."""
    made = Image("tiny", "d1", directory, ImageFacts(None, "6.1", IMAGE_BYTES, SEED_BYTES if seed else None))
    directory.mkdir(parents=True, exist_ok=True)
    nodes = [
        Node("/etc", "directory"),
        Node("/etc/motd", "file", 0o644, content=b"of the image\n"),
        Node("/usr/bin", "directory"),
        Node("/bin", "symlink", target="usr/bin"),
        Node("/srv", "directory", 0o750, 33, 33),
        Node("/root", "directory", 0o700),
        Node("/root/.profile", "file", 0o600, content=b"profile\n"),
        Node("/root/bin", "directory", 0o750, 7, 8),
    ]
    host.ext4.make(made.rootfs, IMAGE_BYTES, nodes)
    if seed:
        host.ext4.make(made.work_seed, SEED_BYTES, seed)
    return made


def vm(directory: Path, **changes: Any) -> Vm:
    nic = Nic("user", "user", "52:54:00:0:0:1", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 22200))
    values: dict[str, Any] = {
        "id": "0123456789",
        "name": "web",
        "directory": directory,
        "image": "tiny",
        "vcpus": 1,
        "memory_bytes": 2**29,
        "root_disk_bytes": 64 * 2**20,
        "work_disk_bytes": WORK_BYTES,
        "storage": "overlay",
        "workdisk": "ext4",
        "vmm": "qemu",
        "nic": nic,
        "authorized_keys": (),
        "host_key": HostKey("", ""),
    }
    directory.mkdir(parents=True, exist_ok=True)
    return Vm(**values | changes)


class Stages(list[str]):
    """What a resource said it was doing."""

    def __call__(self, detail: str) -> None:
        self.append(detail)
