"""Processes in memory, and what they answer: QMP, forwarded ports, programs. A part of `banger.testing`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from banger.errors import Busy, HostError, VmmError
from banger.host import STARTED_AGAIN
from banger.identity import ProcessIdentity, SshEndpoint
from banger.linux.process import is_of_us, owns, sockets_of
from banger.types import jail_uid_of

if TYPE_CHECKING:
    from banger.testing import SimulatedHost

SSH_BANNER = "SSH-2.0-OpenSSH_simulated"
_FORWARD = re.compile(r"hostfwd=tcp:([^:]*):(\d+)-")
_SOCKET = re.compile(r"(?:^unix:|^socket,.*,path=)([^,]+)")


@dataclass
class SimulatedProcess:
    """A process of the simulated host."""

    identity: ProcessIdentity
    argv: tuple[str, ...]
    alive: bool = True
    netns: str = ""
    root: Path = Path("/")
    """Its root directory, chroot(2); a socket of its is below it."""
    uid: int = 0
    """The user it runs as; banger is root here."""
    taps: set[str] = field(default_factory=set)
    """What it was given after its start; a tap in its command line it has anyway."""

    @property
    def sockets(self) -> list[Path]:
        """What its command line makes it listen on (`unix:PATH`, `socket,…,path=PATH`, `--api-sock PATH`)."""
        named = [match[1] for argument in self.argv if (match := _SOCKET.search(argument))]
        named += [path for option, path in pairwise(self.argv) if option == "--api-sock"]
        return [self.inside(Path(path)) for path in named]

    def may_have(self, socket: Path) -> bool:
        """Whether who runs it may be the VMM that listens there."""
        return is_of_us([self.uid], 0, jail_uid_of(socket))

    def inside(self, path: Path) -> Path:
        """Where a path of its is on the host."""
        return self.root / path.relative_to("/")


class SimulatedProcesses:
    """`banger.host.Processes` in memory.

    `on_start` is told of every new process; `unkillable` ones survive SIGKILL; `next_pid` may be set to reuse a pid.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.on_start: Callable[[SimulatedProcess], None] | None = None
        self.unkillable: set[ProcessIdentity] = set()
        self.next_pid = 1000
        self.all: list[SimulatedProcess] = []
        self._host = host
        self._clock = itertools.count(5000)

    def find(self, socket: str, hint: ProcessIdentity | None = None) -> ProcessIdentity | None:
        wanted = socket.encode()
        there = [p for p in self.all if p.alive and owns([each.encode() for each in p.argv], wanted)]
        found = [p.identity for p in there if p.may_have(Path(socket))]
        return hint if hint in found else min(found, key=lambda p: (p.start_time, p.pid), default=None)

    def listening_below(self, directory: Path) -> dict[Path, ProcessIdentity]:
        live = [p for p in sorted(self.all, key=lambda p: p.identity.start_time, reverse=True) if p.alive]
        named = [(Path(path.decode()), p) for p in live for path in sockets_of([a.encode() for a in p.argv])]
        return {path: p.identity for path, p in named if directory in path.parents and p.may_have(path)}

    def refresh(self) -> None:
        """It always finds what there is now."""

    def uses(self, disk: Path) -> bool:
        """Whether a live process was given this disk; the real host finds it locked then."""
        named = any(str(disk) in argument for process in self.all if process.alive for argument in process.argv)
        return named or self._host.http.uses(disk)

    def arguments(self, process: ProcessIdentity) -> list[str] | None:
        return next((list(p.argv) for p in self.all if p.alive and p.identity == process), None)

    def start(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        netns: str = "",
        console: Path | None = None,
        pipes: Mapping[Path, Path] | None = None,
        owner: int | None = None,
    ) -> ProcessIdentity:
        if self._host.tools.which(argv[0]) is None:
            raise HostError(f"{argv[0]} is not installed on this host", hint=f"install {argv[0]}")
        if netns not in self._host.links.of:
            raise HostError(f"there is no network namespace {netns} on this host", hint=f"ip netns add {netns}")
        with self._host.effect(f"processes.start {argv[0]}"):
            files = self._host.files
            for output in (log, *([console] if console else []), *(pipes or {}).values(), *(pipes or {})):
                if files.status(output) is None:
                    files.put(output, b"")
            for output in (log, console) if console else ():
                if said := files.read(output):
                    files.put(output, said + f"{STARTED_AGAIN}\n".encode())
            process = self._jailed(argv, netns) if argv[0] == "jailer" else self.add(argv, netns)
            for socket in process.sockets:
                if "--api-sock" in argv and files.status(socket) is not None:
                    files.put(log, f'Error: RunWithApi(FailedToBindSocket("{socket}"))\n'.encode())
                    self.end(process.identity)
                else:
                    files.put(socket, b"")
        if self.on_start is not None:
            self.on_start(process)
        return process.identity

    def _jailed(self, argv: Sequence[str], netns: str) -> SimulatedProcess:
        """What becomes of a jailer: a process with the command line of the program that it was to start."""
        given = dict(pairwise(argv[: argv.index("--")]))
        program = Path(given["--exec-file"]).name
        inside = argv[argv.index("--") + 1 :]
        process = self.add([f"/{program}", "--id", given["--id"], *inside], netns)
        process.uid = int(given["--uid"])
        process.root = Path(given["--chroot-base-dir"]) / program / given["--id"] / "root"
        return process

    def wait(self, process: ProcessIdentity, timeout_s: float) -> bool:
        return not any(each.alive and each.identity == process for each in self.all)

    def console_ended(self, console: Path, timeout_s: float) -> bool:
        return True

    def kill(self, process: ProcessIdentity, timeout_s: float = 5.0) -> None:
        with self._host.effect(f"processes.kill {process.pid}"):
            if process in self.unkillable:
                raise Busy(f"process {process.pid} is still there {timeout_s:g} s after SIGKILL")
            self.end(process)

    def add(self, argv: Sequence[str], netns: str = "", uid: int = 0) -> SimulatedProcess:
        """A process that was not started by us; no effect is counted."""
        identity = ProcessIdentity(self.next_pid, next(self._clock))
        process = SimulatedProcess(identity, tuple(argv), netns=netns, uid=uid)
        self.next_pid += 1
        self.all.append(process)
        return process

    def end(self, process: ProcessIdentity) -> None:
        """It ends by itself."""
        for each in self.all:
            if each.identity == process:
                each.alive = False

    def end_all(self) -> None:
        for each in self.all:
            each.alive = False


class SimulatedQmp:
    """`banger.host.Qmp` of the live processes that listen on the socket. `deaf`: sockets where nobody answers.

    `ignores_powerdown`: sockets whose guest does not react to the power button or to keys.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.deaf: set[Path] = set()
        self.ignores_powerdown: set[Path] = set()
        self.answers: dict[str, Any] = {"query-status": {"status": "running", "running": True}}
        self._host = host

    def query(self, socket: Path, command: str, timeout_s: float = 5.0) -> Any:
        if not command.startswith("query-"):
            raise ValueError(f"{command} is not a query")
        self._listener(socket, command)
        if command not in self.answers:
            raise VmmError(f"QEMU refused `{command}`: The command {command} has not been found")
        return self.answers[command]

    def execute(
        self, socket: Path, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5.0
    ) -> Any:
        if command.startswith("query-"):
            return self.query(socket, command, timeout_s)
        with self._host.effect(f"qmp.execute {command}"):
            process = self._listener(socket, command)
            asks_guest = command in ("system_powerdown", "send-key")
            if command == "quit" or (asks_guest and socket not in self.ignores_powerdown):
                self._host.processes.end(process)
        return self.answers.get(command, {})

    def _listener(self, socket: Path, command: str) -> ProcessIdentity:
        process = self._host.processes.find(str(socket))
        if process is None or socket in self.deaf or "--api-sock" in (self._host.processes.arguments(process) or []):
            raise VmmError(f"QEMU did not answer `{command}` on {socket}: Connection refused")
        return process


class SimulatedNetwork:
    """`banger.host.NetworkView`. A live process that forwards a host port (`hostfwd=`) has a guest with an sshd there.

    So has one with a tap that is up on a bridge, at the address in the tap's alias, as seen from the tap's namespace.
    `taken`: ports that another program listens on; `silent`: forwarded ports, or addresses, whose guest does not
    answer; `banners`: what else answers, by port.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.taken: set[int] = set()
        self.silent: set[int | str] = set()
        self.banners: dict[int, str] = {}
        self._host = host

    def port_is_free(self, host: str, port: int) -> bool:
        return port not in self.taken and port not in self.banners and port not in self._forwarded()

    def ssh_banner(self, ssh: SshEndpoint, timeout_s: float) -> str | None:
        if {ssh.port, ssh.host} & self.silent:
            return None
        guest = ssh.port in self._forwarded() or self._has_tap_guest(ssh)
        return self.banners.get(ssh.port, SSH_BANNER if guest else None)

    def _has_tap_guest(self, ssh: SshEndpoint) -> bool:
        state = self._host.links.look(ssh.netns)
        links = state.links.values() if state else ()
        taps = [link.name for link in links if link.up and link.master and f" {ssh.host}/" in link.alias]
        users = [process for process in self._host.processes.all if process.alive and process.netns == ssh.netns]
        return any(tap in process.taps or any(tap in a for a in process.argv) for tap in taps for process in users)

    def _forwarded(self) -> set[int]:
        arguments = [argument for process in self._host.processes.all if process.alive for argument in process.argv]
        return {int(match[2]) for argument in arguments for match in _FORWARD.finditer(argument)}


class SimulatedTools:
    """`banger.host.Tools`. `missing`: programs that are not installed; `kvm`: whether a guest boots under KVM.

    `versions`: what programs say of theirs. `commands`: what was run in guests, as ssh command lines.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.missing: set[str] = set()
        self.versions = {"firecracker": "Firecracker v1.12.1", "qemu-system-x86_64": "QEMU emulator version 7.2.22"}
        self.kvm = False
        self.commands: list[tuple[str, ...]] = []
        self._host = host

    def which(self, program: str) -> Path | None:
        return None if Path(program).name in self.missing else Path("/usr/bin") / program

    def version(self, program: str) -> str | None:
        return self.versions.get(program) if self.which(program) else None

    def kvm_boots(self, kernel: Path, initrd: Path) -> bool:
        return self.kvm

    def unpack_kernel(self, source: Path, destination: Path) -> None:
        content = self._host.files.read(source)
        with self._host.effect(f"tools.unpack_kernel {destination}"):
            self._host.files.put(destination, b"\x7fELF" + content.removeprefix(b"\x7fELF"), 0o644)

    def vsock_proxy(self, socket: Path) -> str:
        return f"vsock-proxy {socket}"

    def ssh(self, argv: Sequence[str], *, netns: str = "", timeout_s: float) -> bool:
        self.commands.append(tuple(argv))
        return True

    def make_ssh_key(self, path: Path, comment: str) -> None:
        with self._host.effect(f"tools.make_ssh_key {path}"):
            self._host.files.put(path.with_name(path.name + ".pub"), f"ssh-ed25519 AAAAsimulated {comment}\n".encode())
            words = (b"-----%s OPENSSH PRIVATE KEY-----\n" % word for word in (b"BEGIN", b"END"))
            self._host.files.put(path, b"simulated\n".join(words))
