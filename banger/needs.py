"""What a plugin needs of the host it is used on, declared so that `banger doctor` and `auto` can look for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.host import HostView

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Bit numbers, capabilities(7)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a need: in the user's words, and where it is not met the command that mends it."""

    met: bool
    found: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """Something a plugin needs of the host: a program, a device, a kernel module, a capability, a setting.

    `check` only looks, takes milliseconds, and never raises for what is merely missing. `always=False`: only some of
    what the plugin makes takes it, so nothing is refused beforehand for the lack of it.
    """

    name: str
    check: Callable[[HostView], Finding]
    always: bool = True


def program(name: str, cure: str, *, always: bool = True) -> Need:
    """A program on PATH or in a system directory."""

    def check(host: HostView) -> Finding:
        path = host.tools.which(name)
        return Finding(True, str(path)) if path else Finding(False, "not installed", cure)

    return Need(name, check, always)


E2FSPROGS = ("mke2fs", "debugfs", "e2fsck", "resize2fs")
"""What disks are made, looked into and changed with."""


def programs(names: Sequence[str], package: str) -> list[Need]:
    """Programs of one Debian package."""
    return [program(name, f"apt install {package}") for name in names]


def device(path: str, cure: str) -> Need:
    """A device file that we may read and write."""

    def check(host: HostView) -> Finding:
        if host.files.status(Path(path)) is None:
            return Finding(False, "not there", cure)
        if not host.files.writable(Path(path)):
            return Finding(False, "may not be opened by this user", "run as root, or join the group that owns it")
        return Finding(True, "may be opened")

    return Need(path, check)


def capability(name: str) -> Need:
    """A capability of this process (capabilities(7)); root has them all, but for in a container."""

    def check(host: HostView) -> Finding:
        lines = host.files.read(Path("/proc/self/status")).decode("ascii", "replace").splitlines()
        effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
        if effective >> CAPABILITIES[name] & 1:
            return Finding(True, "held")
        return Finding(False, "not held", "run as root")

    return Need(name, check)
