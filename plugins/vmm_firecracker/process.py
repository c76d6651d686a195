"""A running Firecracker as a resource: started, told what to be, and ended by asking the guest first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from banger.errors import HostError, VmmError
from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Stage
from banger.vmmprocess import START_S, VmmProcess

from .faults import explained, is_silence
from .jail import Jail, is_jailed, is_jailer
from .machine import START, STOP, Machine, calls, differences, word

__all__ = ["NAME", "FirecrackerProcess", "version_refusal"]

NAME = "firecracker"
OLDEST, NEXT_MAJOR = (1, 8), (2, 0)
"""Since 1.8 devices are announced by ACPI; distributions' kernels have no other way to find them. 2.0 may break what
is used here (docs/RELEASE_POLICY.md: no incompatible change within a major version)."""
_NO_ANSWER = (VmmError, KeyError, TypeError, AttributeError, ValueError)
"""Also one of another shape: whoever broke out of a guest into its jail answers what they like."""
_NOT_STARTED, _RUNNING = "Not started", "Running"
_LAST_WORDS_S = 0.5
"""What one that has ended said is in its files by then."""
_BROKEN_OFF = "its start was broken off"


def version_refusal(version: str) -> str | None:
    """Why a Firecracker of this version is not used; None when it is."""
    numbers = re.search(r"(\d+)\.(\d+)", version)
    if numbers and OLDEST <= (int(numbers[1]), int(numbers[2])) < NEXT_MAJOR:
        return None
    return f"{version or 'unknown'}; wanted: {_dotted(OLDEST)} or newer, older than {_dotted(NEXT_MAJOR)}"


@dataclass(frozen=True)
class FirecrackerProcess(VmmProcess):
    """The Firecracker process of a VM. Without `machine` (made from a recorded handle) it cannot be started."""

    vmm = NAME
    title = "Firecracker"
    program = NAME

    vm_id: str = ""
    machine: Machine | None = None
    jail: Jail | None = None

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        """Two questions of some 1 ms each; the process itself is the witness, not what was recorded of it."""
        process = self.find(host, recorded)
        if process is None:
            return Absent()
        handle = self.handle_of(process)
        arguments = host.processes.arguments(process) or []
        if is_jailer(arguments):
            return Drifted(handle, (_BROKEN_OFF,))
        if other := self.other_program(arguments):
            return Drifted(handle, (other,), in_place=False)
        if self.machine is None:
            return Present(handle)
        try:
            state = word(host.http.get(self.files.api_socket, "/")["state"])
            found = differences(self.machine, host.http.get(self.files.api_socket, "/vm/config"))
        except _NO_ANSWER:
            return Drifted(handle, ("it does not answer on its API socket",), in_place=False)
        if state == _NOT_STARTED:
            return Drifted(handle, (_BROKEN_OFF,))
        if is_jailed(arguments) != bool(self.jail):
            found = (*found, f"jailed {'no -> yes' if self.jail else 'yes -> no'}")
        if state != _RUNNING:
            found = (*found, f"it is {state.lower()}")
        return Drifted(handle, found, in_place=False) if found else Present(handle)

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if self.machine is None:
            raise ValueError(f"{self.key} was made from a handle and cannot be started")
        self.check_socket_paths(self.files.api_socket, self.files.vsock_socket)
        there = self.observe(host, None)
        if isinstance(there, Present):
            return there.handle
        self.discard(host, None, stage)  # a dead one's sockets, or one whose start was broken off
        stage("starting Firecracker")
        process = None
        try:
            process = self._start(host, self.machine)
            self._check_version(self.until_it_answers(host, process, lambda: self._version(host), stage))
            self._tell(host, self.machine)
        except BaseException:
            if process is not None:
                host.processes.kill(process)
            self.clean(host)
            raise
        return self.handle_of(process)

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        """Only what was never started is changed in place: it is made anew."""
        return self.create(host, {}, stage)

    def describe(self, host: HostView, handle: Handle) -> Mapping[str, str]:
        try:
            about = host.http.get(self.files.api_socket, "/")
            return {"state": word(about["state"]), "version": word(about["vmm_version"])}
        except _NO_ANSWER:
            return {"state": "does not answer"}

    def ask_guest_to_end(self, host: Host) -> None:
        """Ctrl-Alt-Del is all that Firecracker can tell a guest. It means "reboot", and a reboot ends the machine."""
        path, body = STOP
        host.http.put(self.files.api_socket, path, body)

    def other_program(self, arguments: list[str]) -> str | None:
        """A jailer's copy has the name that the program really has, which may tell its version too."""
        return None if is_jailed(arguments) else super().other_program(arguments)

    @property
    def _pipes(self) -> dict[Path, Path]:
        """What a guest may make Firecracker write without end goes through these into files with a bound."""
        return {self.files.log_pipe: self.log, self.files.metrics_pipe: self.files.metrics}

    def _start(self, host: Host, machine: Machine) -> ProcessIdentity:
        sockets = (self.files.api_socket, self.files.vsock_socket)
        log, metrics = self._pipes
        options = ["--api-sock", str(self.files.api_socket), "--level", "Warn"]
        options += ["--log-path", str(log), "--metrics-path", str(metrics)]
        command, pipes = [NAME, "--id", self.vm_id, *options], self._pipes
        if self.jail:
            self.jail.prepare(host, machine, sockets)
            command, pipes = self.jail.command(host, options), self.jail.pipes(host, pipes)
        return host.processes.start(
            command,
            log=self.log,
            cwd=self.files.directory,
            netns=self.netns,
            console=self.files.console_log,
            pipes=pipes,
            owner=self.jail.uid if self.jail else None,
        )

    def _version(self, host: Host) -> str:
        return str(host.http.get(self.files.api_socket, "/version", timeout_s=1.0)["firecracker_version"])

    def _check_version(self, version: str) -> None:
        if refusal := version_refusal(version):
            raise HostError(f"this Firecracker is {refusal}", hint="install another release of Firecracker")

    def _tell(self, host: Host, machine: Machine) -> None:
        try:
            for path, body in calls(machine):
                host.http.put(self.files.api_socket, path, body)
            path, body = START
            host.http.put(self.files.api_socket, path, body, START_S)  # it reads kernel and initrd first
        except VmmError as error:
            if is_silence(error):
                host.processes.console_ended(self.files.console_log, _LAST_WORDS_S)
                said = self.log_tail(host)
                raise VmmError(f"Firecracker does not answer any more: {error.message}\n{said}") from error
            raise explained(error, str(self.log)) from error


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(str(number) for number in numbers)
