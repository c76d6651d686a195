"""Root disks on real file systems: an upper disk over a shared image, or a copy of it; and the files they carry."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import banger_storage_file
import banger_storage_overlay
import pytest

from banger.core.guest_files import GuestFiles
from banger.errors import DiskError
from banger.host import Node
from banger.linux import debugfs, fsck
from banger.linux.host import LinuxHost
from banger.resource import Absent, Drifted, Present
from banger.types import GuestFile, RootDisk, Vm
from tests.plugins.disks import Stages, image, vm

FILES = (
    GuestFile("/bin/tool", b"#!/bin/sh\n", 0o755),
    GuestFile("/etc/motd", b"of the VM\n"),
    GuestFile("/srv/deep/secret", b"s", 0o600, 33, 33),
)
DIRECTORIES = (Node("/root/.ssh", "directory", 0o700), Node("/lib/made/here", "directory", 0o711, 5, 6))
STORAGES = pytest.mark.parametrize("plugin", [banger_storage_overlay, banger_storage_file], ids=["overlay", "file"])


@pytest.fixture
def host(tmp_path: Path) -> LinuxHost:
    return LinuxHost(tmp_path / "cache")


def root_disk(host: LinuxHost, directory: Path, plugin: ModuleType, files: tuple[GuestFile, ...] = FILES) -> RootDisk:
    arguments = {"files": files, "directories": DIRECTORIES} if plugin is banger_storage_overlay else {}
    disk: RootDisk = plugin.prepare_root_disk(vm(directory / "vm"), image(host, directory / "image"), **arguments)
    return disk


def guest_files(machine: Vm, disk: RootDisk, files: tuple[GuestFile, ...] = FILES) -> GuestFiles:
    needs = tuple(resource.key for resource in disk.resources)
    return GuestFiles("web/files", needs, disk.guest_disk, files, DIRECTORIES, machine.directory / "manifest.json")


def seen_by_guest(host: LinuxHost, disk: RootDisk, *paths: str) -> dict[str, tuple[bytes, int, int, int] | None]:
    """What the guest will see: the disk, and for an overlay what shows through from the image."""
    guest = disk.guest_disk
    there = host.ext4.read(guest.path, paths, prefix=guest.prefix, base=guest.base)
    return {path: (f.content, f.mode, f.uid, f.gid) if f else None for path, f in there.items()}


@STORAGES
def test_files_are_byte_for_byte_with_owner_and_mode(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:  # S9
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    guest_files(vm(tmp_path / "vm"), disk).create(host, {}, Stages())
    assert seen_by_guest(host, disk, *(f.path for f in FILES)) == {
        f.path: (f.content, f.mode, f.uid, f.gid) for f in FILES
    }
    prefix = disk.guest_disk.prefix
    found = host.ext4.lookup(disk.guest_disk.path, [f"{prefix}/srv", f"{prefix}/root/.ssh", f"{prefix}/bin"])
    srv, ssh, linked = found.values()
    assert srv is not None and (srv.mode, srv.uid, srv.gid) == (0o750, 33, 33), "as in the image"
    assert ssh is not None and (ssh.type, ssh.mode) == ("directory", 0o700)
    assert linked is None or linked.type == "symlink", "a real directory would hide the linked one"
    fsck.verify(disk.guest_disk.path, "test")


@STORAGES
def test_second_look_finds_nothing_to_do(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    files = guest_files(vm(tmp_path / "vm"), disk)
    assert (resource.observe(host, None), files.observe(host, None)) == (Absent(), Absent())
    resource.create(host, {}, Stages())
    files.create(host, {}, Stages())
    assert (resource.observe(host, None), files.observe(host, None)) == (Present(), Present())
    stages = Stages()
    files.update(host, {}, stages)
    assert stages == [], "what is right already is not written again"


@STORAGES
def test_changed_and_dropped_files_are_patched(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    machine = vm(tmp_path / "vm")
    guest_files(machine, disk).create(host, {}, Stages())
    fewer = guest_files(machine, disk, (replace(FILES[0], content=b"#!/bin/dash\n", mode=0o700),))
    assert fewer.observe(host, None) == Drifted({}, ("/bin/tool", "/etc/motd", "/srv/deep/secret"))
    fewer.update(host, {}, Stages())
    assert seen_by_guest(host, disk, "/bin/tool", "/srv/deep/secret") == {
        "/bin/tool": (b"#!/bin/dash\n", 0o700, 0, 0),
        "/srv/deep/secret": None,
    }
    path = disk.guest_disk.prefix + "/etc/motd"
    motd = host.ext4.read(disk.guest_disk.path, [path])[path]
    expected = None if disk.guest_disk.prefix else b"of the image\n"  # an overlay shows the image's through by itself
    assert (motd.content if motd else None) == expected


@STORAGES
def test_disk_that_a_guest_used_is_looked_into_again(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:  # S9
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    files = guest_files(vm(tmp_path / "vm"), disk)
    files.create(host, {}, Stages())
    guest = disk.guest_disk
    host.ext4.patch(guest.path, [GuestFile("/etc/motd", b"of the guest\n")], base=guest.base, prefix=guest.prefix)
    assert files.observe(host, None) == Present(verified=False)
    files.update(host, {}, Stages())
    assert seen_by_guest(host, disk, "/etc/motd")["/etc/motd"] == (b"of the VM\n", 0o644, 0, 0)
    assert files.observe(host, None) == Present()


@STORAGES
def test_spoilt_manifest_only_means_to_look_again(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    files = guest_files(vm(tmp_path / "vm"), disk)
    files.create(host, {}, Stages())
    for content in (b"", b"{", b"[]", b"\x00"):
        files.manifest.write_bytes(content)
        assert files.observe(host, None) == Absent()
        files.create(host, {}, Stages())
        assert files.observe(host, None) == Present()


@STORAGES
def test_other_image_or_smaller_size_needs_a_new_disk(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:
    disk = root_disk(host, tmp_path, plugin)
    resource: Any
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    for other in (
        replace(resource, image=replace(resource.image, digest="d2")),
        replace(resource, size_bytes=48 * 2**20),
    ):
        seen = other.observe(host, None)
        assert isinstance(seen, Drifted)
        assert not seen.in_place
    larger = replace(resource, size_bytes=96 * 2**20)
    assert larger.observe(host, None) == Drifted({}, ("root_disk 64MiB -> 96MiB",))
    larger.update(host, {}, Stages())
    assert larger.observe(host, None) == Present()
    fsck.verify(disk.guest_disk.path, "test")


@STORAGES
def test_removed_disk_leaves_nothing_and_removing_again_is_no_error(
    host: LinuxHost, tmp_path: Path, plugin: ModuleType
) -> None:
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    for _ in range(2):
        resource.remove(host, None, Stages())
        assert list((tmp_path / "vm").iterdir()) == []


def test_upper_disk_is_small_and_the_image_untouched(host: LinuxHost, tmp_path: Path) -> None:  # seed S8
    disk = root_disk(host, tmp_path, banger_storage_overlay)
    before = (tmp_path / "image" / "rootfs.ext4").read_bytes()
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    status = host.files.status(disk.guest_disk.path)
    assert status is not None
    assert status.allocated_bytes < status.size_bytes / 4
    assert (tmp_path / "image" / "rootfs.ext4").read_bytes() == before
    assert [(d.role, d.read_only) for d in disk.disks] == [("root", True), ("upper", False)]


@STORAGES
def test_disk_made_with_its_guest_files_is_believed_once(
    host: LinuxHost, tmp_path: Path, plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = root_disk(host, tmp_path, plugin)
    (resource,) = disk.resources
    files = guest_files(vm(tmp_path / "vm"), disk)
    made = {resource.key: resource.create(host, {}, Stages())}
    stages = Stages()
    if plugin is banger_storage_overlay:
        with monkeypatch.context() as patch:
            patch.setattr("banger.linux.ext4.run", _killed)  # nothing looks into it
            files.create(host, made, stages)
        assert stages == []
    else:
        files.create(host, made, stages)
        assert stages != []
    assert files.observe(host, None) == Present()
    stages = Stages()
    files.update(host, {}, stages)
    assert stages == [], "it has them all"
    fsck.verify(disk.guest_disk.path, "test")


def test_copy_smaller_than_its_image_is_refused(host: LinuxHost, tmp_path: Path) -> None:
    disk = banger_storage_file.prepare_root_disk(
        vm(tmp_path / "vm", root_disk_bytes=2**20), image(host, tmp_path / "image")
    )
    with pytest.raises(DiskError, match="root_disk 1MiB is smaller than its image, 32MiB"):
        disk.resources[0].create(host, {}, Stages())


@STORAGES
def test_growing_that_was_interrupted_is_seen_and_finished(host: LinuxHost, tmp_path: Path, plugin: ModuleType) -> None:
    disk = root_disk(host, tmp_path, plugin)
    resource: Any
    (resource,) = disk.resources
    resource.create(host, {}, Stages())
    larger = replace(resource, size_bytes=96 * 2**20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("banger.linux.ext4.run", _killed)  # the file is large already, resize2fs has not run
        with pytest.raises(KeyboardInterrupt):
            larger.update(host, {}, Stages())
    assert disk.guest_disk.path.stat().st_size == 96 * 2**20
    assert larger.observe(host, None) == Drifted({}, ("root_disk: growing it was interrupted",), usable=False)
    larger.update(host, {}, Stages())
    assert larger.observe(host, None) == Present()
    blocks = debugfs.look(disk.guest_disk.path, ["show_super_stats -h"])[0]
    count, size = (
        int(re.findall(rf"(?m){word}: +(\d+)".encode(), blocks)[0]) for word in ("Block count", "Block size")
    )
    assert count * size == 96 * 2**20, "the file system fills the file"


def _killed(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt
