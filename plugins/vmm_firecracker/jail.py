"""What Firecracker's jailer needs to be there: a root directory of a VM's own, with its files in it and nothing else.

In the jail a file has the path that it has outside, so what Firecracker is told, and what it answers, is the same with
and without one. Its sockets are reached by a symbolic link that lies where they are without a jail; the path of the
jail itself would soon be longer than a socket's may be, unix(7).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from banger.errors import HostError
from banger.host import Host

from .machine import Machine

__all__ = ["JAILER", "Jail", "is_jailed", "is_jailer"]

JAILER = "jailer"
_ROOT = Path("/")
_FIRECRACKER = "firecracker"
_HINDERING = {"nodev", "noexec"}
"""A jail has device nodes in it, and a copy of Firecracker."""


def is_jailed(arguments: list[str]) -> bool:
    """Whether a command line is of a Firecracker that a jailer started: the jailer's copy of it lies in its root."""
    program = Path(arguments[0]) if arguments else Path()
    return program.parent == _ROOT and program.name.startswith(_FIRECRACKER)


def is_jailer(arguments: list[str]) -> bool:
    """Whether a command line is of a jailer that has yet to become Firecracker."""
    return bool(arguments) and Path(arguments[0]).name == JAILER


@dataclass(frozen=True, slots=True)
class Jail:
    """`directory` holds nothing else; `uid` is the user and group id that Firecracker runs as."""

    directory: Path
    vm_id: str
    uid: int

    def command(self, host: Host, options: Iterable[str]) -> list[str]:
        """The jailer's command line, with these options for Firecracker."""
        identity = ["--id", self.vm_id, "--uid", str(self.uid), "--gid", str(self.uid)]
        place = ["--exec-file", str(_program(host)), "--chroot-base-dir", str(self.directory)]
        return [JAILER, *identity, *place, "--", *options]

    def root(self, host: Host) -> Path:
        """The jail's /, where jailer(1) makes it: BASE/NAME/ID/root, by the name that the program really has."""
        return self.directory / _program(host).name / self.vm_id / "root"

    def prepare(self, host: Host, machine: Machine, sockets: Iterable[Path]) -> None:
        """Put everything there that Firecracker opens; `sockets` are those that it makes.

        A disk is the same inode, or device, under a second name. The kernel belongs to others too: it gets a copy.
        Raises HostError where we are not root or no program or device in it would work, BangerError where a file
        cannot have a second name.
        """
        root, files = self.root(host), host.files
        if hindering := sorted(files.mount_options(self.directory.parent) & _HINDERING):
            raise HostError(
                f"Firecracker cannot run jailed in {self.directory}: its file system is mounted {','.join(hindering)}",
                hint="mount it without nodev and noexec, or choose a directory on another one with BANGER_HOME",
            )
        for path in (machine.kernel, machine.initrd):
            files.make_directory(_inside(root, path.parent), 0o755)
            files.clone(path, _inside(root, path))
            files.give(_inside(root, path), self.uid)
        for disk in machine.disks:
            files.make_directory(_inside(root, disk.path.parent), 0o755)
            files.share(disk.path, _inside(root, disk.path), self.uid)
        for socket in sockets:
            files.make_directory(_inside(root, socket.parent), 0o755)
            files.give(_inside(root, socket.parent), self.uid)
            files.link(_inside(root, socket), socket)

    def pipes(self, host: Host, pipes: dict[Path, Path]) -> dict[Path, Path]:
        """Where named pipes are to be made for it to find."""
        return {_inside(self.root(host), pipe): file for pipe, file in pipes.items()}


def _program(host: Host) -> Path:
    found = host.tools.which(_FIRECRACKER)
    if found is None:
        raise HostError("firecracker is not installed on this host", hint="install firecracker")
    return found.resolve()


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to(_ROOT)
