"""How root logs in: by key only, into a guest whose host key is known beforehand.

Over the guest's network, and where its VMM has a vsock over that too, with the same keys and rules.

Also brings the guest module `authorized_key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from banger.errors import PlaybookError, Problem
from banger.guestconfig import GuestConfig
from banger.hooks import hookimpl
from banger.types import GuestModule, ModuleContext, Vm

AUTHORIZED_KEYS = "/root/.ssh/authorized_keys"
DROP_IN = "/etc/ssh/sshd_config.d/99-banger.conf"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"

# The lines of the drop-in (sshd_config(5), seed S11). Neither `LogLevel DEBUG`, which would write what users do into
# the log, nor `StrictModes no`: modes and owners are right here, so the check may stay.
SETTINGS = (
    "PermitRootLogin prohibit-password",  # root is the guest's only user, and comes with a key
    "PubkeyAuthentication yes",  # the one way in, whatever the image says
    "PasswordAuthentication no",  # there is no password to guess
    "KbdInteractiveAuthentication no",  # PAM would ask for a password by this other name
    f"AuthorizedKeysFile {AUTHORIZED_KEYS}",  # the file written here, and no second one beside it
)

VSOCK_SOCKET = "/etc/systemd/system/banger-vsock-ssh.socket"
VSOCK_SERVICE = "/etc/systemd/system/banger-vsock-ssh@.service"
VSOCK_PULL_IN = "/etc/systemd/system/sockets.target.d/10-banger-vsock-ssh.conf"

# A VMM with a vsock says so on the kernel command line; elsewhere the socket would be of no use, or could not be had.
# Newer systemds bring a socket of their own (systemd-ssh-generator(8)), on the same port.
SOCKET = """\
[Unit]
Description=ssh by the VMM's vsock
ConditionKernelCommandLine=banger.vsock
ConditionPathExists=!/usr/lib/systemd/system-generators/systemd-ssh-generator

[Socket]
ListenStream=vsock::22
Accept=yes
"""

# `-`: a login that failed is no failed unit. sshd.service's own directory, which sshd(8) wants for privilege
# separation, must outlive each connection.
SERVICE = """\
[Unit]
Description=ssh by the VMM's vsock, one connection

[Service]
ExecStart=-/usr/sbin/sshd -i
StandardInput=socket
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
"""

PULL_IN = """\
[Unit]
Wants=banger-vsock-ssh.socket
"""


@dataclass(frozen=True, slots=True)
class AuthorizedKeyOptions:
    """`authorized_key`: a public key that may log in. `key` is its text; `user` can only be root so far."""

    key: str
    user: str = "root"


def authorized_key(builder: GuestConfig, options: AuthorizedKeyOptions, context: ModuleContext) -> None:
    """The module `authorized_key`."""
    if options.user != "root":
        message = f"authorized_key: only root is supported, not '{options.user}'"
        raise PlaybookError([Problem(context.place, message, "leave user out, or write that user's file with `file`")])
    if "vm" not in context.facts:
        message = "authorized_key is for VMs: each VM's own list of keys replaces what its image has"
        raise PlaybookError([Problem(context.place, message, "put the task into the play that has the VMs")])
    builder.add_authorized_key(options.key)
    _write_keys(builder)


@hookimpl
def register_guest_modules() -> Sequence[GuestModule]:
    return (GuestModule("authorized_key", AuthorizedKeyOptions, authorized_key),)


@hookimpl
def contribute_guest_config(builder: GuestConfig, vm: Vm) -> None:
    """The sshd drop-in, the VM's own host key, who may log in (without any key the list is empty), and the vsock."""
    builder.write_file(DROP_IN, "".join(f"{line}\n" for line in SETTINGS))
    builder.write_file(HOST_KEY, _line(vm.host_key.private), mode=0o600)
    builder.write_file(f"{HOST_KEY}.pub", _line(vm.host_key.public))
    for path, unit in ((VSOCK_SOCKET, SOCKET), (VSOCK_SERVICE, SERVICE), (VSOCK_PULL_IN, PULL_IN)):
        builder.write_file(path, unit)
    for key in vm.authorized_keys:
        builder.add_authorized_key(key)
    _write_keys(builder)


def _write_keys(builder: GuestConfig) -> None:
    """StrictModes wants neither file nor directory to be writable by others; the directory is nobody's to read."""
    builder.add_directory("/root/.ssh", 0o700)
    builder.write_file(AUTHORIZED_KEYS, "".join(f"{key}\n" for key in builder.authorized_keys), mode=0o600)


def _line(text: str) -> str:
    """sshd refuses a private key whose last line has no end."""
    return text.rstrip("\n") + "\n"
