"""Long-lived processes, by pidfd: found by what their command line says, started to outlive us, proven dead.

A process is its pid *and* its start time; a pidfd is opened first and the start time compared after, so that a
reused pid is never taken for the old process, nor signalled. A zombie is dead.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import select
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from banger.errors import Busy, CommandError
from banger.identity import ProcessIdentity
from banger.types import jail_uid_of

_PROC = Path("/proc")
_DEAD_STATES = "ZXx"
_SCAN_S = 0.05
_USERS = re.compile(rb"^Uid:\t(\d+)\t(\d+)\t", re.MULTILINE)
_SOCKET = re.compile(rb"(?:path=|unix:)(/[^,]*)")


class LinuxProcesses:
    """See `banger.host.Processes`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._command_lines: dict[int, bytes] = {}
        self._all_lines = b""
        self._scanned_until = 0.0

    def find(self, socket: str, hint: ProcessIdentity | None = None) -> ProcessIdentity | None:
        """The live VMM that `owns` this socket.

        `hint` is looked at first. Of several, the one that started first. We ourselves are never the answer.
        """
        wanted = os.fsencode(socket)
        if hint is not None and _start_time(hint.pid) == hint.start_time and _is_vmm_of(hint.pid, wanted):
            return hint
        ourselves = os.getpid()
        found = [
            ProcessIdentity(pid, start_time)
            for pid in self._mentioning(wanted)
            if pid != ourselves and _is_vmm_of(pid, wanted) and (start_time := _start_time(pid)) is not None
        ]
        return min(found, key=lambda process: (process.start_time, process.pid), default=None)

    def _mentioning(self, wanted: bytes) -> list[int]:
        """Who has this somewhere in the command line, as of `_SCAN_S` ago at most: many are looked for in a row."""
        with self._lock:
            if time.monotonic() > self._scanned_until:
                self._command_lines = {pid: _command_line(pid) for pid in _all_pids()}
                self._all_lines = b"\n".join(self._command_lines.values())
                self._scanned_until = time.monotonic() + _SCAN_S
            if wanted not in self._all_lines:  # most are not there
                return []
            return [pid for pid, line in self._command_lines.items() if wanted in line]

    def listening_below(self, directory: Path) -> dict[Path, ProcessIdentity]:
        """Who `owns` a socket below this directory, by socket; of several, the one that started first."""
        found: dict[Path, ProcessIdentity] = {}
        prefix = os.fsencode(directory) + b"/"
        for pid in self._mentioning(prefix):
            start_time = _start_time(pid)
            if pid == os.getpid() or start_time is None or not _is_in_our_pid_namespace(pid):
                continue
            process, users = ProcessIdentity(pid, start_time), _users(pid)
            for socket in sockets_of(_arguments(pid)):
                path = Path(os.fsdecode(socket))
                ours = socket.startswith(prefix) and is_of_us(users, _owner(path), jail_uid_of(path))
                if ours and start_time <= found.get(path, process).start_time:
                    found[path] = process
        return found

    def refresh(self) -> None:
        """Who is looked for from now on is found, or not, by a scan that begins from now on."""
        with self._lock:  # whoever scans now ends first
            self._scanned_until = 0.0

    def arguments(self, process: ProcessIdentity) -> list[str] | None:
        """Its command line, the program's name first; None when it is gone."""
        arguments = [os.fsdecode(argument) for argument in _arguments(process.pid)]
        return arguments if _start_time(process.pid) == process.start_time else None

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
        """Start a process of its own session that outlives us: stdin is /dev/null, output is appended to `log`.

        Raises HostError when the program or the namespace is missing, CommandError when it cannot be started.
        """
        import logging  # looking for processes, which every command does, needs none of these
        import shlex
        import subprocess

        from banger.linux.console import relayed, set_apart
        from banger.linux.netns import call_inside
        from banger.linux.run import require

        command = [str(require(argv[0])), *argv[1:]]
        logging.getLogger(__name__).debug("start: %s >>%s 2>&1 &", shlex.join(argv), shlex.quote(str(log)))
        try:
            for each in (console, log) if console else ():
                set_apart(each)
            with (
                log.open("ab") as output,
                relayed(console, pipes or {}, owner) if console else contextlib.nullcontext(output.fileno()) as stdout,
            ):
                child = call_inside(
                    netns,
                    lambda: subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=stdout,
                        stderr=output,
                        cwd=cwd,
                        start_new_session=True,
                        close_fds=True,
                    ),
                )
        except OSError as error:
            raise CommandError(f"`{shlex.join(argv)}` could not be started: {error}") from error
        # It is meant to outlive this object; `wait` and `kill` reap it by pid when it ends while we are here.
        child.returncode = 0
        stat = _stat(child.pid)
        if stat is None:
            raise CommandError(f"`{shlex.join(argv)}` was gone at once; what it said is in {log}")
        process = ProcessIdentity(child.pid, stat[1])
        until_named(child.pid)
        self.refresh()  # it is to be found at once
        return process

    def wait(self, process: ProcessIdentity, timeout_s: float) -> bool:
        """Whether it ended within the time; also True when it was gone before."""
        with _pinned(process) as descriptor:
            ended = descriptor is None or _ended(descriptor, timeout_s)
        if ended:
            _reap(process)
        return ended

    def console_ended(self, console: Path, timeout_s: float) -> bool:
        """Whether the relay that writes this console ends in time, which it does when its VMM has ended."""
        from banger.linux.console import is_relay

        self.refresh()
        deadline = time.monotonic() + timeout_s
        for pid in self._mentioning(os.fsencode(console)):
            start_time = _start_time(pid)
            ours = start_time is not None and is_of_us(_users(pid), _owner(console))
            if start_time is not None and ours and is_relay(_arguments(pid), console):
                relay = ProcessIdentity(pid, start_time)
                if not self.wait(relay, deadline - time.monotonic()):
                    return False
        return True

    def kill(self, process: ProcessIdentity, timeout_s: float = 5.0) -> None:
        """SIGKILL through a pidfd; returns only when it is gone, else raises Busy."""
        with _pinned(process) as descriptor:
            if descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                if not _ended(descriptor, timeout_s):
                    raise Busy(
                        f"process {process.pid} is still there {timeout_s:g} s after SIGKILL",
                        hint=f"see what it waits for: cat /proc/{process.pid}/stack",
                    )
        _reap(process)


def until_named(pid: int) -> None:
    """Wait for a child of ours that was just started to have its command line, or to end.

    execve(2) tells its caller of success a moment before /proc has the new command line, which it is found by.
    """
    descriptor = os.pidfd_open(pid)
    try:
        while not _command_line(pid) and not _ended(descriptor, 0.001):
            pass
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _pinned(process: ProcessIdentity) -> Iterator[int | None]:
    """A pidfd of this very process, or None when it is dead or its pid is another's now."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the number is a thread's now, so the process is gone
            raise
        yield None
        return
    try:
        yield descriptor if _start_time(process.pid) == process.start_time else None
    finally:
        os.close(descriptor)


def _ended(descriptor: int, timeout_s: float) -> bool:
    """Whether the process of a pidfd ends in time: pidfd_open(2), readable when it terminated, zombies included."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def _reap(process: ProcessIdentity) -> None:
    """Collect it if it is our own dead child; another's zombie is not ours to collect."""
    stat = _stat(process.pid)
    if stat is not None and stat[1] == process.start_time:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def owns(arguments: Sequence[bytes], socket: bytes) -> bool:
    """Whether a command line is of a VMM that listens on this socket.

    QEMU has it as a value in an option list (`…,path=PATH,…` or `unix:PATH,…`), Firecracker as `--api-sock PATH`. A
    program that only talks to a VMM, or reads its log, has the path elsewhere in its words.
    """
    for before, argument in zip((b"", *arguments), arguments, strict=False):
        begin = argument.find(socket)
        if begin < 0:
            continue
        head, tail = argument[:begin], argument[begin + len(socket) :]
        listed = head.endswith((b"path=", b"unix:")) and (not tail or tail.startswith(b","))
        if listed or (before == b"--api-sock" and argument == socket):
            return True
    return False


def is_of_us(users: Collection[int], owner: int, jail: int | None = None) -> bool:
    """Whether who runs a process, its real and its effective user id, is root, a VM's owner, or the user of its jail.

    A command line is whatever its process says: any user can have a VM's socket in one, and that of a program which
    runs as root for them (su(1)) has root as its effective user only. The user of one VM's jail says nothing of
    another VM: in it runs what may have broken out of a guest.
    """
    return bool(users) and set(users) <= {0, owner, jail}


def _owner(path: Path) -> int:
    """Whose directory a VM's file is in, which is not us where root looks after the VMs of another; without it, us."""
    try:
        return path.parent.stat().st_uid
    except OSError:
        return os.geteuid()


def sockets_of(arguments: Sequence[bytes]) -> list[bytes]:
    """The sockets that a command line is of a VMM of, as `owns` has it."""
    named = [path for before, path in itertools.pairwise(arguments) if before == b"--api-sock"]
    named += [path for argument in arguments for path in _SOCKET.findall(argument)]
    return [path for path in named if owns(arguments, path)]


def _is_vmm_of(pid: int, socket: bytes) -> bool:
    if not owns(_arguments(pid), socket):
        return False
    path = Path(os.fsdecode(socket))
    return is_of_us(_users(pid), _owner(path), jail_uid_of(path))


def _users(pid: int) -> tuple[int, ...]:
    """The real and the effective user id, proc(5) status; none when it is gone."""
    try:
        found = _USERS.search((_PROC / str(pid) / "status").read_bytes())
    except OSError:
        return ()
    return (int(found[1]), int(found[2])) if found else ()


def _is_in_our_pid_namespace(pid: int) -> bool:
    """False also where we may not know, pid_namespaces(7)."""
    try:
        return (_PROC / str(pid) / "ns/pid").readlink() == (_PROC / "self/ns/pid").readlink()
    except OSError:
        return False


def _arguments(pid: int) -> list[bytes]:
    return _command_line(pid).split(b"\0")[:-1]


def _command_line(pid: int) -> bytes:
    """Arguments ended by NUL; empty when it is gone, a zombie, or not ours to read."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _start_time(pid: int) -> int | None:
    """proc(5) stat field 22, in clock ticks since boot; None when there is no live process of this pid."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in _DEAD_STATES else stat[1]


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time. The name (field 2) may hold anything, so fields are counted after the last `)`."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])
