"""Getting into a guest: one key for all guests, a host key per guest, and the ssh command line that uses both.

The host makes each guest's host key, so the very first connection is to a known host, and a new guest on an old
address is a new known host too.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from banger.core.home import Home
from banger.core.locks import discard, locked
from banger.errors import StateError
from banger.host import Host, HostView
from banger.identity import Nic
from banger.types import HostKey

_HOST_KEY = "ssh_host_ed25519_key"
_KNOWN_HOSTS = "known_hosts"
_BEGIN, _END = (b"-----%s OPENSSH PRIVATE KEY-----" % word for word in (b"BEGIN", b"END"))
TO_BE_MADE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 (the apply makes this key)"
"""Stands for a key that is not there yet, in what is only planned: in the form of a public one, with no key in it."""
UNMADE = HostKey(TO_BE_MADE, TO_BE_MADE)
"""Stands for a host key where only the shape of a VM matters."""


def ensure_ssh_key(host: Host, home: Home) -> str:
    """The public half of the key that opens every guest of this home; the pair is made when it is not there."""
    if host.files.status(home.ssh_key) is None:
        lock = home.lock("ssh")
        with locked(lock, purpose="making the ssh key"):
            _ensure_key(host, home.ssh_key, "banger")
            discard(lock)
    return public_ssh_key(host, home)


def public_ssh_key(host: HostView, home: Home) -> str:
    """Empty when it was not made yet."""
    made = host.files.status(home.ssh_key) is not None  # the last of the pair to appear
    return _pair(host, home.ssh_key).public.strip() if made else ""


def ensure_host_key(host: Host, directory: Path, name: str) -> HostKey:
    """A guest's own host key, made when it is not there, and the known_hosts file that trusts it."""
    _ensure_key(host, directory / _HOST_KEY, name)
    key = host_key(host, directory)
    known = f"{name} {' '.join(key.public.split()[:2])}\n".encode()
    path = directory / _KNOWN_HOSTS
    if host.files.status(path) is None or host.files.read(path) != known:
        host.files.write(path, known)
    return key


def host_key(host: HostView, directory: Path) -> HostKey:
    """A guest's host key as it is; `UNMADE` when it was not made yet."""
    path = directory / _HOST_KEY
    if host.files.status(path) is None:  # the last of the pair to appear
        return UNMADE
    return _pair(host, path)


class Guest(Protocol):
    """Whom ssh goes to: a VM, or the record of one."""

    @property
    def name(self) -> str: ...
    @property
    def directory(self) -> Path: ...
    @property
    def nic(self) -> Nic: ...


def ssh_command(
    ssh_key: Path, guest: Guest, command: Sequence[str], *, proxy: str = "", connect_timeout_s: int = 0
) -> list[str]:
    """The argv of ssh(1) into a guest. `command` is quoted, so that the far shell sees these very words.

    `proxy`: the ProxyCommand of a way that is not the network; it passes a connected socket.
    """
    ssh = guest.nic.ssh
    options = {
        "IdentityFile": str(ssh_key),
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "UserKnownHostsFile": str(guest.directory / _KNOWN_HOSTS),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": guest.name,
        "HostKeyAlgorithms": "ssh-ed25519",
        "UpdateHostKeys": "no",
        "LogLevel": "ERROR",
    }
    if connect_timeout_s:
        options["ConnectTimeout"] = str(connect_timeout_s)
    flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={_quoted(value)}")]
    if proxy:
        flags += ["-o", f"ProxyCommand={proxy}", "-o", "ProxyUseFdpass=yes"]
    argv = ["ssh", "-F", "none", *flags, "-p", str(ssh.port), f"root@{ssh.host}"]
    return [*argv, "--", shlex.join(command)] if command else argv


def _quoted(value: str) -> str:
    """ssh_config(5) values: a blank ends one unless it is in double quotes; `%` begins a token."""
    escaped = value.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _ensure_key(host: Host, path: Path, comment: str) -> None:
    """The private half appears last, so a pair is whole when that is there."""
    if host.files.status(path) is None:
        host.files.make_directory(path.parent)
        host.files.remove(_public(path))
        host.tools.make_ssh_key(path, comment)


def _pair(host: HostView, path: Path) -> HostKey:
    """Both halves of a key pair that was made. Raises StateError for what is none any more."""
    private, public = host.files.read(path), host.files.read(_public(path))
    lines = private.strip().splitlines()
    if lines[:1] != [_BEGIN] or lines[-1:] != [_END] or not private.isascii():
        again = f"rm {path} {_public(path)}, then apply with --restart: that makes another"
        raise StateError(f"{path} is not the private key that was made", hint=again)
    if not public.startswith(b"ssh-ed25519 ") or not public.isascii() or not public.endswith(b"\n"):
        again = f"ssh-keygen -y -f {path} > {_public(path)}"
        raise StateError(f"{_public(path)} is not the public half of {path.name}", hint=again)
    return HostKey(private.decode(), public.decode())


def _public(path: Path) -> Path:
    return path.with_name(path.name + ".pub")
