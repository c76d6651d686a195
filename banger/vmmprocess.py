"""What the processes of all VMMs have in common: found by their socket, ended for certain, nothing left of them.

A VMM plugin says how one is started, how it is told to ask its guest to end, and how it differs from what it should be.
"""

from __future__ import annotations

import math
import os
import shlex
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from banger.errors import Busy, HostError, VmmError
from banger.host import STARTED_AGAIN, Host, HostView, ProcessIdentity
from banger.resource import Handle, Lifetime, Resource, Stage
from banger.types import Vm, VmFiles

GUEST_SHUTDOWN_S = 20.0
"""How long a guest may take to stop its services, before its machine is switched off."""
START_S = 30.0
"""A VMM answers on its socket after some 0.1 s; more means a machine that is out of breath."""
_END_S = 5.0
_ANSWER_PAUSE_S = 0.01
_CONSOLE_PAUSE_S = 0.05
_SHUTDOWN_PAUSE_S = 0.5
_SOCKET_PATH_BYTES = 107  # unix(7): sun_path has 108, one of them the final NUL
_TAIL_BYTES, _TAIL_LINES = 8192, 8

_END_BY_HAND = r"""socket={socket}
listeners() {{  # in our own PID namespace, as their command lines say
    for process in /proc/[0-9]*; do
        before=
        tr '\0' '\n' 2>/dev/null <"$process/cmdline" | while IFS= read -r word; do
            case "$before $word" in
            *path="$socket" | *path="$socket",* | *unix:"$socket" | *unix:"$socket",* | "--api-sock $socket")
                [ "$(readlink "$process/ns/pid")" != "$(readlink /proc/self/ns/pid)" ] || echo "${{process#/proc/}}"
                break
                ;;
            esac
            before=$word
        done
    done
}}
for signal in TERM KILL; do
    for pid in $(listeners); do
        echo "kill -s $signal $pid"
        kill -s "$signal" "$pid"
    done
    for second in 1 2 3 4 5; do
        [ -n "$(listeners)" ] || break
        sleep 1
    done
done
[ -z "$(listeners)" ] || exit 1"""
"""SIGTERM has QEMU write out what it holds; no VMM needs longer than that to end."""

T = TypeVar("T")


@dataclass(frozen=True)
class VmmProcess(Resource):
    """The process of a VM's VMM. `netns` is the network namespace it runs in; empty: the host's."""

    vmm: ClassVar[str]
    """The plugin's name in a playbook."""
    title: ClassVar[str]
    """What it is called in messages."""
    program: ClassVar[str]

    key: str
    files: VmFiles
    needs: tuple[str, ...] = ()
    netns: str = ""
    shutdown_s: float = GUEST_SHUTDOWN_S
    lifetime = Lifetime.BOOT
    stage = "launch_vmm"

    @abstractmethod
    def ask_guest_to_end(self, host: Host) -> None:
        """Tell the VMM to tell its guest. Raises VmmError when it does not listen."""

    def stop(self, host: Host, process: ProcessIdentity) -> None:
        """End a VMM whose guest did not end."""
        host.processes.kill(process)

    @property
    def log(self) -> Path:
        return self.files.directory / f"{self.vmm}.log"

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """Ask the guest to end, and give it the time to."""
        process = self.find(host, handle)
        if process is not None and not self._shut_down(host, process, stage):
            stage(f"stopping {self.title}")
            if self._is_ours(host, process):
                self.stop(host, process)
            else:
                host.processes.kill(process)
        self.clean(host)

    def discard(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """End it at once."""
        process = self.find(host, handle)
        if process is not None:
            stage(f"stopping {self.title}")
            host.processes.kill(process)
        self.clean(host)

    def undo_by_hand(self) -> Sequence[str]:
        """Ended by whose command line has this VM's control socket, not by any pid; the guest is not asked."""
        lines = _END_BY_HAND.format(socket=shlex.quote(str(self.files.api_socket))).splitlines()
        remains = shlex.join(["rm", "-rf", "--", *map(str, (*self.files.of_a_run, self.files.jail))])
        return (*lines, remains)

    def find(self, host: HostView, handle: Handle | None) -> ProcessIdentity | None:
        """Whoever has this VM's control socket in its command line; it may be another VMM."""
        return host.processes.find(str(self.files.api_socket), _identity(handle))

    def handle_of(self, process: ProcessIdentity) -> Handle:
        api_socket = str(self.files.api_socket)
        return {"vmm": self.vmm, "pid": process.pid, "start_time": process.start_time, "api_socket": api_socket}

    def other_program(self, arguments: list[str]) -> str | None:
        """In the user's words, when a command line is of another VMM, as after a change of the playbook."""
        found = Path(arguments[0]).name if arguments else self.program
        return None if found == self.program else f"it runs under {found}"

    def until_it_answers(self, host: Host, process: ProcessIdentity, ask: Callable[[], T], stage: Stage) -> T:
        """The answer of a VMM that was just started, as soon as there is one. Raises VmmError when there never is."""
        deadline = time.monotonic() + START_S
        while True:
            if host.processes.wait(process, _ANSWER_PAUSE_S):
                host.processes.console_ended(self.files.console_log, _END_S)
                raise VmmError(f"{self.title} ended as soon as it was started:\n{self.log_tail(host)}")
            try:
                return ask()
            except VmmError as error:
                if time.monotonic() > deadline:
                    raise VmmError(f"{self.title} does not answer {START_S:.0f} s after its start: {error}") from error
            stage(f"waiting for {self.title}")

    def clean(self, host: Host) -> None:
        """Remove what a dead one leaves; another one could not start upon it.

        It is dead when nobody has its console: killed while starting one, we leave a process that is yet to become one.
        Before there is any process there is the console's file.
        """
        deadline = time.monotonic() + _END_S
        console = self.files.console_log
        while host.files.status(console) and not host.processes.console_ended(console, _CONSOLE_PAUSE_S):
            if process := self.find(host, None):
                host.processes.kill(process)
            elif time.monotonic() > deadline:
                raise Busy(f"somebody still writes to {self.files.console_log}", hint="ps ax | grep console_relay")
        for path in self.files.of_a_run:
            host.files.remove(path)
        host.files.remove_tree(self.files.jail)

    def log_tail(self, host: HostView) -> str:
        """The last lines of what it said, and of its console."""
        logs = [log for log in (self.files.console_log, self.log) if host.files.status(log) is not None]
        lines = [line for log in logs for line in last_words(host, log).splitlines()[-_TAIL_LINES:]]
        return "\n".join(f"  {line}" for line in lines) or "  (it said nothing)"

    def check_socket_paths(self, *sockets: Path) -> None:
        """Raise HostError for a path that no socket can have."""
        for path in sockets:
            length_bytes = len(os.fsencode(path))
            if length_bytes > _SOCKET_PATH_BYTES:
                raise HostError(
                    f"{self.title}'s socket {path} has a path of {length_bytes} bytes, "
                    f"and {_SOCKET_PATH_BYTES} is the most",
                    hint="choose a shorter $BANGER_HOME",
                )

    def _is_ours(self, host: Host, process: ProcessIdentity) -> bool:
        """Whether it understands what we would tell it."""
        return self.other_program(host.processes.arguments(process) or []) is None

    def _shut_down(self, host: Host, process: ProcessIdentity, stage: Stage) -> bool:
        """Whether it has ended, with its guest, in time."""
        stage("shutting the guest down")
        try:
            if self._is_ours(host, process):
                self.ask_guest_to_end(host)
                for number in range(math.ceil(self.shutdown_s / _SHUTDOWN_PAUSE_S)):
                    if number:
                        stage("shutting the guest down")  # where an interrupt is noticed
                    if host.processes.wait(process, min(self.shutdown_s, _SHUTDOWN_PAUSE_S)):
                        return True
        except VmmError:
            pass
        return host.processes.wait(process, 0.0)


def last_words(host: HostView, log: Path) -> str:
    """The end of a VMM's log or console, as far as it is of the last start."""
    text = host.files.read(log)[-_TAIL_BYTES:].decode("utf-8", "replace")
    return text.rpartition(f"{STARTED_AGAIN}\n")[2]


def has_handle_of(vmm: str, vm: Vm, handles: Mapping[str, Handle]) -> bool:
    """Whether these handles tell of a process of this VMM; one that is only announced is what the VM asks for."""
    announced = handles.get(vm.vmm_key)
    return announced is not None and announced.get("vmm", vm.vmm) == vmm


def _identity(handle: Handle | None) -> ProcessIdentity | None:
    if not handle or "pid" not in handle or "start_time" not in handle:
        return None
    return ProcessIdentity(handle["pid"], handle["start_time"])
