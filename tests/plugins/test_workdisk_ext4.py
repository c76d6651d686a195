"""Work disks on real file systems: kept, cloned, grown, flattened, or made of the image's home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import banger_workdisk_ext4 as plugin
import pytest

from banger.errors import DiskError
from banger.guestconfig import GuestConfig
from banger.host import Node
from banger.linux import fsck
from banger.linux.host import LinuxHost
from banger.resource import Absent, Drifted, Present
from tests.plugins.disks import SEED_BYTES, WORK_BYTES, Stages, image, vm

SEED = [
    Node("/", "directory", 0o700),
    Node("/.bashrc", "file", 0o640, 5, 6, b"bashrc\n"),
    Node("/notes", "file", 0o644, content=b"notes\n"),
]
NESTED = [
    Node("/notes", "file", 0o644, content=b"outer\n"),
    Node("/root", "directory", 0o700),
    Node("/root/.bashrc", "file", 0o640, 5, 6, b"bashrc\n"),
    Node("/root/notes", "file", 0o600, content=b"inner\n"),
]


@pytest.fixture
def host(tmp_path: Path) -> LinuxHost:
    return LinuxHost(tmp_path / "cache")


def work_disk(host: LinuxHost, directory: Path, *, seed: list[Node] | None = None, **changes: Any) -> Any:
    machine = vm(directory / "vm", **changes)
    (resource,) = plugin.prepare_work_disk(machine, image(host, directory / "image", seed=seed), ()).resources
    return resource


def contents(host: LinuxHost, disk: Path, *paths: str) -> dict[str, bytes | None]:
    return {path: f.content if f else None for path, f in host.ext4.read(disk, paths).items()}


def test_create_from_a_seed_clones_and_resizes_it(host: LinuxHost, tmp_path: Path) -> None:  # seed S12 S14
    disk = work_disk(host, tmp_path, seed=SEED)
    stages = Stages()
    disk.create(host, {}, stages)
    assert stages == ["cloning work seed", "resizing work disk"]
    assert disk.stage == "prepare_work_disk"
    assert disk.path.stat().st_size == WORK_BYTES
    assert contents(host, disk.path, "/.bashrc", "/notes") == {"/.bashrc": b"bashrc\n", "/notes": b"notes\n"}
    inode = host.ext4.lookup(disk.path, ["/.bashrc"])["/.bashrc"]
    assert inode is not None
    assert (inode.mode, inode.uid, inode.gid) == (0o640, 5, 6)
    fsck.verify(disk.path, "test")
    assert disk.observe(host, None) == Present()


def test_create_from_a_seed_of_the_same_size_is_not_resized(host: LinuxHost, tmp_path: Path) -> None:
    disk = work_disk(host, tmp_path, seed=SEED, work_disk_bytes=SEED_BYTES)
    stages = Stages()
    disk.create(host, {}, stages)
    assert stages == ["cloning work seed"]


def test_create_smaller_than_the_seed_fails_before_anything_is_copied(host: LinuxHost, tmp_path: Path) -> None:  # S12
    disk = work_disk(host, tmp_path, seed=SEED, work_disk_bytes=SEED_BYTES - 2**20)
    stages = Stages()
    with pytest.raises(DiskError, match="15MiB is smaller than the image's work seed, 16MiB"):
        disk.create(host, {}, stages)
    assert stages == []
    assert list((tmp_path / "vm").iterdir()) == []


def test_create_without_a_seed_copies_the_images_home(host: LinuxHost, tmp_path: Path) -> None:  # seed S12 S14
    disk = work_disk(host, tmp_path)
    stages = Stages()
    disk.create(host, {}, stages)
    assert stages == ["creating empty work disk", "copying /root into work disk"]
    assert contents(host, disk.path, "/.profile") == {"/.profile": b"profile\n"}
    found = host.ext4.lookup(disk.path, ["/", "/.profile", "/bin", "/root"])
    modes = {path: (inode.mode, inode.uid, inode.gid) if inode else None for path, inode in found.items()}
    assert modes == {"/": (0o700, 0, 0), "/.profile": (0o600, 0, 0), "/bin": (0o750, 7, 8), "/root": None}
    fsck.verify(disk.path, "test")


def test_create_from_a_nested_seed_flattens_it_and_loses_nothing(host: LinuxHost, tmp_path: Path) -> None:  # seed S13
    disk = work_disk(host, tmp_path, seed=NESTED)
    disk.create(host, {}, Stages())
    assert contents(host, disk.path, "/.bashrc", "/notes", "/notes.before-flatten") == {
        "/.bashrc": b"bashrc\n",
        "/notes": b"inner\n",
        "/notes.before-flatten": b"outer\n",
    }
    assert host.ext4.lookup(disk.path, ["/root"]) == {"/root": None}
    inode = host.ext4.lookup(disk.path, ["/.bashrc"])["/.bashrc"]
    assert inode is not None
    assert (inode.mode, inode.uid, inode.gid) == (0o640, 5, 6)
    fsck.verify(disk.path, "test")


def test_existing_disk_is_kept_and_only_ever_grows(host: LinuxHost, tmp_path: Path) -> None:  # seed S12
    disk = work_disk(host, tmp_path, seed=SEED)
    disk.create(host, {}, Stages())
    larger = replace(disk, size_bytes=2 * WORK_BYTES)
    seen = larger.observe(host, None)
    assert seen == Drifted({}, ("work_disk 24MiB -> 48MiB",))
    larger.update(host, {}, Stages())
    assert larger.observe(host, None) == Present()
    assert contents(host, disk.path, "/notes") == {"/notes": b"notes\n"}
    assert isinstance(disk.observe(host, None), Drifted)
    assert not disk.observe(host, None).in_place
    assert disk.keeps


def test_create_after_a_crash_halfway_starts_over(host: LinuxHost, tmp_path: Path) -> None:
    disk = work_disk(host, tmp_path, seed=SEED)
    disk.path.with_suffix(".new").write_bytes(b"half")
    assert disk.observe(host, None) == Absent()
    disk.create(host, {}, Stages())
    assert [path.name for path in disk.path.parent.iterdir()] == ["work.ext4"]


def test_mount_is_by_the_uuid_the_disk_gets(host: LinuxHost, tmp_path: Path) -> None:
    disk = work_disk(host, tmp_path, seed=SEED)
    disk.create(host, {}, Stages())
    builder = GuestConfig()
    plugin.contribute_guest_config(builder, vm(tmp_path / "vm"))
    (mount,) = builder.mounts
    with disk.path.open("rb") as file:
        file.seek(0x468)  # ext4 superblock, s_uuid
        assert mount.source == f"UUID={disk.file_system_uuid}"
        assert file.read(16).hex() == disk.file_system_uuid.replace("-", "")
    assert (mount.target, mount.fstype) == ("/root", "ext4")


def test_validate_vm_refuses_a_tiny_disk(tmp_path: Path) -> None:
    (problem,) = plugin.validate_vm(vm(tmp_path, work_disk_bytes=2**20))
    assert problem.message == "work_disk 1MiB is too small for a file system with a journal"
    assert plugin.validate_vm(vm(tmp_path)) == []
