"""sshd's drop-in, the host key, and who may log in."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import banger_guestconfig_sshd as plugin
import pytest

from banger.errors import PlaybookError
from banger.guestconfig import GuestConfig
from banger.host import Node
from banger.types import GuestFile, HostKey, ModuleContext, Nic, Place, SshEndpoint, Vm
from tests.capabilities import programs, require

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK you@there"
NIC = Nic("lan", "user", "52:54:00:00:00:01", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 2222))
VM = Vm(
    *(Path("/vms/id1"), "id1", "web-1", "debian", 1, 2**29, 2**32, None, "overlay", "ext4", "qemu", NIC, (KEY,)),
    host_key=HostKey("-----BEGIN-----\nx\n-----END-----", "ssh-ed25519 AAAA host"),
)
CONTEXT = ModuleContext({"vm": object()}, Place("p.yml", 3, 5), lambda name: b"", lambda text, name: text)

DROP_IN = b"""\
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /root/.ssh/authorized_keys
"""


def contributed(vm: Vm = VM) -> GuestConfig:
    builder = GuestConfig()
    plugin.contribute_guest_config(builder, vm)
    return builder


def files(builder: GuestConfig) -> dict[str, GuestFile]:
    return {file.path: file for file in builder.files()}


def test_sshd_drop_in_is_exactly_these_five_lines() -> None:  # seed S11
    found = files(contributed())["/etc/ssh/sshd_config.d/99-banger.conf"]
    assert (found.content, found.mode) == (DROP_IN, 0o644)


def test_sshd_host_key_is_the_vms_own_and_ends_its_last_line() -> None:
    found = files(contributed())
    private, public = found["/etc/ssh/ssh_host_ed25519_key"], found["/etc/ssh/ssh_host_ed25519_key.pub"]
    assert (private.content, private.mode) == (b"-----BEGIN-----\nx\n-----END-----\n", 0o600)
    assert (public.content, public.mode) == (b"ssh-ed25519 AAAA host\n", 0o644)


def test_sshd_authorized_keys_have_the_modes_that_strict_modes_wants() -> None:  # seed S15
    builder = contributed()
    found = files(builder)["/root/.ssh/authorized_keys"]
    assert (found.content, found.mode, found.uid, found.gid) == (f"{KEY}\n".encode(), 0o600, 0, 0)
    assert builder.directories() == (Node("/root/.ssh", "directory", 0o700),)


def test_sshd_by_vsock_is_a_socket_that_starts_one_for_each_connection() -> None:
    found = files(contributed())
    socket = found["/etc/systemd/system/banger-vsock-ssh.socket"].content.decode()
    assert "ListenStream=vsock::22\nAccept=yes\n" in socket
    assert "ConditionKernelCommandLine=banger.vsock\n" in socket
    service = found["/etc/systemd/system/banger-vsock-ssh@.service"].content.decode()
    assert "ExecStart=-/usr/sbin/sshd -i\nStandardInput=socket\n" in service
    pull_in = found["/etc/systemd/system/sockets.target.d/10-banger-vsock-ssh.conf"].content
    assert pull_in == b"[Unit]\nWants=banger-vsock-ssh.socket\n"


def test_sshd_by_vsock_is_units_that_systemd_takes(tmp_path: Path) -> None:
    require(programs("systemd-analyze"))
    units = {path: file for path, file in files(contributed()).items() if "banger-vsock-ssh" in Path(path).name}
    for path, file in units.items():
        (tmp_path / Path(path).name).write_bytes(file.content)
    names = ("banger-vsock-ssh.socket", "banger-vsock-ssh@.service")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "banger-vsock-ssh" not in checked.stderr, checked.stderr


def test_sshd_without_any_key_writes_an_empty_list() -> None:
    assert files(contributed(replace(VM, authorized_keys=())))["/root/.ssh/authorized_keys"].content == b""


def test_authorized_key_module_adds_to_the_vms_keys() -> None:
    builder = contributed()
    (module,) = plugin.register_guest_modules()
    with builder.contributed_by("p.yml:3:5", overriding=True):
        for key in (OTHER, KEY):
            module.contribute(builder, plugin.AuthorizedKeyOptions(key), CONTEXT)
    assert files(builder)["/root/.ssh/authorized_keys"].content == f"{KEY}\n{OTHER}\n".encode()


def test_authorized_key_module_for_another_user_is_a_problem() -> None:
    with pytest.raises(PlaybookError, match=r"p\.yml:3:5: authorized_key: only root is supported, not 'me'"):
        plugin.authorized_key(GuestConfig(), plugin.AuthorizedKeyOptions(KEY, "me"), CONTEXT)


def test_authorized_key_module_of_an_image_is_a_problem() -> None:
    context = replace(CONTEXT, facts={"image": object()})
    with pytest.raises(PlaybookError, match="authorized_key is for VMs"):
        plugin.authorized_key(GuestConfig(), plugin.AuthorizedKeyOptions(KEY), context)


def test_authorized_key_module_with_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="not a public ssh key"):
        plugin.authorized_key(GuestConfig(), plugin.AuthorizedKeyOptions("x"), CONTEXT)
