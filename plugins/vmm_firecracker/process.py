"""A running Firecracker as a resource: started, told what to be, and ended by asking the guest first."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from banger.errors import Busy, HostError, VmmError
from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Drifted, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import VmFiles

from .faults import explained
from .machine import START, STOP, Machine, calls, differences

__all__ = ["GUEST_SHUTDOWN_S", "NAME", "FirecrackerProcess", "version_refusal"]

NAME = "firecracker"
OLDEST, NEXT_MAJOR = (1, 8), (2, 0)
"""Since 1.8 devices are announced by ACPI; distributions' kernels have no other way to find them. 2.0 may break what
is used here (docs/RELEASE_POLICY.md: no incompatible change within a major version)."""
GUEST_SHUTDOWN_S = 20.0
"""How long a guest may take to stop its services, before its machine is switched off."""
KILL_S = 5.0
START_S = 30.0
"""Its API answers after some 20 ms; more means a machine that is out of breath."""
_NOT_STARTED, _RUNNING = "Not started", "Running"
_SOCKET_PATH_BYTES = 107  # unix(7): sun_path has 108, one of them the final NUL
_LOG_TAIL_LINES = 8


def version_refusal(version: str) -> str | None:
    """Why a Firecracker of this version is not used; None when it is."""
    numbers = re.search(r"(\d+)\.(\d+)", version)
    if numbers and OLDEST <= (int(numbers[1]), int(numbers[2])) < NEXT_MAJOR:
        return None
    return f"{version or 'unknown'}; wanted: {_dotted(OLDEST)} or newer, older than {_dotted(NEXT_MAJOR)}"


@dataclass(frozen=True)
class FirecrackerProcess(Resource):
    """The Firecracker process of a VM, known by the API socket in its command line.

    Without `machine` (made from a recorded handle) it can be looked for and ended, not started.
    """

    key: str
    vm_id: str
    files: VmFiles
    needs: tuple[str, ...] = ()
    machine: Machine | None = None
    netns: str = ""
    shutdown_s: float = GUEST_SHUTDOWN_S
    lifetime = Lifetime.BOOT
    stage = "launch_vmm"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        """Two questions of some 1 ms each; the process itself is the witness, not what was recorded of it."""
        process = self._find(host, recorded)
        if process is None:
            return Absent()
        handle = self._handle(process)
        program = Path((host.processes.arguments(process) or [""])[0]).name
        if program != NAME:
            return Drifted(handle, (f"it runs under {program}",), in_place=False)
        if self.machine is None:
            return Present(handle)
        try:
            state = host.http.get(self.files.api_socket, "/")["state"]
            config = host.http.get(self.files.api_socket, "/vm/config")
        except VmmError:
            return Drifted(handle, ("it does not answer on its API socket",), in_place=False)
        if state == _NOT_STARTED:
            return Drifted(handle, ("its start was broken off",))
        found = differences(self.machine, config)
        if state != _RUNNING:
            found = (*found, f"it is {state.lower()}")
        return Drifted(handle, found, in_place=False) if found else Present(handle)

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if self.machine is None:
            raise ValueError(f"{self.key} was made from a handle and cannot be started")
        _check_socket_paths(self.files)
        there = self.observe(host, None)
        if isinstance(there, Present):
            return there.handle
        self.discard(host, None, stage)  # a dead one's sockets, or one whose start was broken off
        stage("starting Firecracker")
        process = self._start(host)
        try:
            self._check_version(self._version(host, process))
            self._tell(host, self.machine)
        except BaseException:
            host.processes.kill(process)
            self._clean(host)
            raise
        return self._handle(process)

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        """Only what was never started is changed in place: it is made anew."""
        return self.create(host, {}, stage)

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        self._end(host, handle, stage, ask_the_guest=True)

    def discard(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        self._end(host, handle, stage, ask_the_guest=False)

    def describe(self, host: HostView, handle: Handle) -> Mapping[str, str]:
        try:
            about = host.http.get(self.files.api_socket, "/")
        except VmmError:
            return {"state": "does not answer"}
        return {"state": about["state"], "version": about["vmm_version"]}

    @property
    def _log(self) -> Path:
        return self.files.directory / "firecracker.log"

    @property
    def _pipes(self) -> dict[Path, Path]:
        """What a guest may make Firecracker write without end goes through these into files with a bound."""
        return {self.files.directory / "log.pipe": self._log, self.files.directory / "metrics.pipe": self.files.metrics}

    def _find(self, host: HostView, handle: Handle | None) -> ProcessIdentity | None:
        return host.processes.find(str(self.files.api_socket), _identity(handle))

    def _handle(self, process: ProcessIdentity) -> Handle:
        api_socket = str(self.files.api_socket)
        return {"vmm": NAME, "pid": process.pid, "start_time": process.start_time, "api_socket": api_socket}

    def _start(self, host: Host) -> ProcessIdentity:
        log, metrics = self._pipes
        argv = [NAME, "--id", self.vm_id, "--api-sock", str(self.files.api_socket)]
        argv += ["--level", "Warn", "--log-path", str(log), "--metrics-path", str(metrics)]
        return host.processes.start(
            argv,
            log=self._log,
            cwd=self.files.directory,
            netns=self.netns,
            console=self.files.console_log,
            pipes=self._pipes,
        )

    def _version(self, host: Host, process: ProcessIdentity) -> str:
        """What it answers first; until then it is waited for."""
        deadline = time.monotonic() + START_S
        while True:
            if host.processes.wait(process, 0.005):
                host.processes.console_ended(self.files.console_log, KILL_S)
                raise VmmError(f"Firecracker ended as soon as it was started:\n{self._log_tail(host)}")
            try:
                return str(host.http.get(self.files.api_socket, "/version", timeout_s=1.0)["firecracker_version"])
            except VmmError as error:
                if time.monotonic() > deadline:
                    raise VmmError(f"Firecracker does not answer {START_S:.0f} s after its start: {error}") from error

    def _check_version(self, version: str) -> None:
        if refusal := version_refusal(version):
            raise HostError(f"this Firecracker is {refusal}", hint="install another release of Firecracker")

    def _tell(self, host: Host, machine: Machine) -> None:
        try:
            for path, body in (*calls(machine), START):
                host.http.put(self.files.api_socket, path, body)
        except VmmError as error:
            raise explained(error, str(self._log)) from error

    def _end(self, host: Host, handle: Handle | None, stage: Stage, *, ask_the_guest: bool) -> None:
        process = self._find(host, handle)
        if process is not None and not (ask_the_guest and self._shut_down(host, process, stage)):
            stage("stopping Firecracker")
            host.processes.kill(process)
        self._clean(host)

    def _shut_down(self, host: Host, process: ProcessIdentity, stage: Stage) -> bool:
        """Ask the guest to end; whether it did in time.

        Ctrl-Alt-Del is the one thing that Firecracker can ask it. It means "reboot", and a reboot ends the machine.
        """
        stage("shutting the guest down")
        path, body = STOP
        try:
            host.http.put(self.files.api_socket, path, body)
        except VmmError:
            return host.processes.wait(process, 0.0)
        return host.processes.wait(process, self.shutdown_s)

    def _clean(self, host: Host) -> None:
        """What a dead Firecracker leaves; another one could not start upon it.

        It is dead when nobody has its console: killed while starting one, we leave a process that becomes one yet.
        """
        deadline = time.monotonic() + KILL_S
        while not host.processes.console_ended(self.files.console_log, 0.05):
            if process := self._find(host, None):
                host.processes.kill(process)
            elif time.monotonic() > deadline:
                raise Busy(f"somebody still writes to {self.files.console_log}", hint="see who: ps ax | grep console")
        for path in (self.files.api_socket, self.files.vsock_socket, *self._pipes):
            host.files.remove(path)

    def _log_tail(self, host: HostView) -> str:
        lines: list[str] = []
        for log in (self._log, self.files.console_log):
            if host.files.status(log) is not None:
                said = host.files.read(log)[-8192:].decode("utf-8", "replace").splitlines()
                lines += [f"  {line}" for line in said[-_LOG_TAIL_LINES:]]
        return "\n".join(lines) or "  (it said nothing)"


def _identity(handle: Handle | None) -> ProcessIdentity | None:
    if not handle or "pid" not in handle or "start_time" not in handle:
        return None
    return ProcessIdentity(handle["pid"], handle["start_time"])


def _check_socket_paths(files: VmFiles) -> None:
    for path in (files.api_socket, files.vsock_socket):
        length_bytes = len(os.fsencode(path))
        if length_bytes > _SOCKET_PATH_BYTES:
            raise HostError(
                f"Firecracker's socket {path} has a path of {length_bytes} bytes, and {_SOCKET_PATH_BYTES} is the most",
                hint="choose a shorter $BANGER_HOME",
            )


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(str(number) for number in numbers)
