"""Hostname, hosts, resolv.conf, tmpfs mounts, and the guest modules that are always there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import banger_guestconfig_base as plugin
import pytest

from banger.core.fstab import render_fstab
from banger.errors import PlaybookError
from banger.guestconfig import GuestConfig
from banger.types import GuestFile, HostKey, ModuleContext, Mount, Nic, Place, SshEndpoint, Vm

NIC = Nic("lan", "user", "52:54:00:00:00:01", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 2222))
VM = Vm(
    *(Path("/vms/id1"), "id1", "web-1", "debian", 1, 2**29, 2**32, None, "overlay", "ext4", "qemu", NIC, ()),
    host_key=HostKey("private", "public"),
)


def contributed() -> GuestConfig:
    builder = GuestConfig()
    plugin.contribute_guest_config(builder, VM)
    return builder


def test_base_files_are_these_bytes() -> None:  # seed S9
    files = {file.path: (file.content, file.mode, file.uid, file.gid) for file in contributed().files()}
    assert files == {
        "/etc/hostname": (b"web-1\n", 0o644, 0, 0),
        "/etc/hosts": (b"127.0.0.1 localhost\n127.0.1.1 web-1\n", 0o644, 0, 0),
        "/etc/resolv.conf": (b"nameserver 10.0.2.3\n", 0o644, 0, 0),
    }


def test_base_fstab_loses_home_and_var_and_gets_tmpfs() -> None:  # seed S9
    builder = contributed()
    original = "/dev/vda / ext4 defaults 0 1\n/dev/vdb /home ext4 defaults 0 2\n/dev/vdc /var ext4 defaults 0 2\n"
    assert render_fstab(original, builder.dropped_mounts, builder.mounts) == (
        "/dev/vda / ext4 defaults 0 1\n"
        "tmpfs /run tmpfs defaults,nodev,nosuid,mode=0755 0 0\n"
        "tmpfs /tmp tmpfs defaults,nodev,nosuid,mode=1777 0 0\n"
    )


def run(module: str, sources: dict[str, bytes] | None = None, **options: Any) -> GuestConfig:
    """What one task leaves in a builder that the plugin has filled."""
    declared = {declaration.name: declaration for declaration in plugin.register_guest_modules()}[module]
    context = ModuleContext(
        facts={},
        place=Place("p.yml", 1, 1),
        read_source=lambda name: (sources or {})[name],
        render=lambda text, name: f"{name}: {text}",
    )
    builder = contributed()
    with builder.contributed_by("p.yml:1:1", overriding=True):
        declared.contribute(builder, declared.options(**options), context)
    return builder


def file_of(builder: GuestConfig, path: str) -> GuestFile:
    return {file.path: file for file in builder.files()}[path]


def test_file_module_writes_its_content() -> None:
    found = file_of(run("file", dest="/etc/motd", content="hi\n", mode=0o600, uid=1, gid=2), "/etc/motd")
    assert found == GuestFile("/etc/motd", b"hi\n", 0o600, 1, 2, "p.yml:1:1")


def test_file_module_overrides_what_the_plugin_wrote() -> None:
    assert file_of(run("file", dest="/etc/hosts", content="mine\n"), "/etc/hosts").content == b"mine\n"


def test_copy_module_writes_the_bytes_of_its_source() -> None:
    found = file_of(run("copy", {"a.bin": b"\0\xff"}, src="a.bin", dest="/a", mode=0o755), "/a")
    assert (found.content, found.mode) == (b"\0\xff", 0o755)


def test_template_module_writes_the_rendered_source() -> None:
    assert file_of(run("template", {"a.j2": b"x"}, src="a.j2", dest="/a"), "/a").content == b"a.j2: x"


def test_template_module_of_a_binary_source_is_a_problem() -> None:
    with pytest.raises(PlaybookError, match=r"p.yml:1:1: the template 'a.j2' is not UTF-8 text"):
        run("template", {"a.j2": b"\xff"}, src="a.j2", dest="/a")


def test_mount_module_adds_a_mount_over_the_plugins() -> None:
    options = ("size=10%", "mode=1777")
    builder = run("mount", source="tmpfs", target="/tmp", fstype="tmpfs", options=options, passno=2)
    assert Mount("tmpfs", "/tmp", "tmpfs", options, 0, 2) in builder.mounts
    assert plugin.TMP not in builder.mounts


def test_unmount_module_takes_a_mount_away() -> None:
    builder = run("unmount", target="/tmp")
    assert plugin.TMP not in builder.mounts and "/tmp" in builder.dropped_mounts


def test_file_module_writes_bytes_from_base64_on_several_lines() -> None:
    found = file_of(run("file", dest="/a", content="AP8B\n Ag==\n", encoding="base64"), "/a")
    assert found.content == b"\0\xff\1\2"


def test_directory_module_makes_it_with_mode_and_owner() -> None:
    found = {node.path: node for node in run("directory", dest="/srv/data", mode=0o700, uid=1, gid=2).directories()}
    assert (found["/srv/data"].mode, found["/srv/data"].uid, found["/srv/data"].gid) == (0o700, 1, 2)
