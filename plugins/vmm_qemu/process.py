"""A running QEMU as a resource: started until it answers, ended by asking the guest first."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from banger.errors import Busy, HostError, VmmError
from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Drifted, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import Size, VmFiles

from .machine import PROGRAM, Accelerator, Machine, command, started_with

__all__ = ["GUEST_SHUTDOWN_S", "NAME", "QemuProcess"]

NAME = "qemu"
START_S = 30.0
"""QEMU answers on its socket after some 0.1 s; more means a machine that is out of breath."""
GUEST_SHUTDOWN_S = 20.0
"""How long a guest may take to stop its services, before its machine is switched off."""
_QUIT_S = 5.0
_SOCKET_PATH_BYTES = 107  # unix(7): sun_path has 108, one of them the final NUL
_LOG_TAIL_LINES = 8


@dataclass(frozen=True)
class QemuProcess(Resource):
    """The QEMU process of a VM, known by the control socket in its command line.

    Without `machine` (made from a recorded handle) it can be looked for and ended, not started.
    """

    key: str
    files: VmFiles
    needs: tuple[str, ...] = ()
    machine: Machine | None = None
    netns: str = ""
    lifetime = Lifetime.BOOT
    stage = "launch_vmm"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        process = self._find(host, recorded)
        if process is None:
            return Absent()
        same = recorded if recorded and _identity(recorded) == process else {}
        handle = {**same, **self._handle(process)}
        differences = self._differences(host.processes.arguments(process) or [])
        return Drifted(handle, differences, in_place=False) if differences else Present(handle)

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if self.machine is None:
            raise ValueError(f"{self.key} was made from a handle and cannot be started")
        _check_socket_path(self.files.api_socket)
        stage("probing KVM")
        accelerator: Accelerator = "kvm" if host.tools.kvm_boots(self.machine.kernel, self.machine.initrd) else "tcg"
        stage(f"starting QEMU ({accelerator})")
        process = self._find(host, None)
        if process is None:
            self._clean(host)  # a dead QEMU's socket, on which nobody answers
            process = host.processes.start(
                command(self.machine, self.files.api_socket, accelerator),
                log=self._log,
                cwd=self.files.directory,
                netns=self.netns,
                console=self.files.console_log,
            )
        try:
            self._wait_until_running(host, process)
        except BaseException:
            host.processes.kill(process)
            self._clean(host)
            raise
        return {**self._handle(process), "accelerator": accelerator}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        self._end(host, handle, stage, ask_the_guest=True)

    def discard(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        self._end(host, handle, stage, ask_the_guest=False)

    def _end(self, host: Host, handle: Handle | None, stage: Stage, *, ask_the_guest: bool) -> None:
        process = self._find(host, handle)
        if process is not None and not (ask_the_guest and self._shut_down(host, process, stage)):
            stage("stopping QEMU")
            with contextlib.suppress(VmmError):  # it may be past answering; it is killed then
                host.qmp.execute(self.files.api_socket, "quit")
            if not host.processes.wait(process, _QUIT_S):
                host.processes.kill(process)
        self._clean(host)

    def _clean(self, host: Host) -> None:
        """What a dead QEMU leaves.

        It is dead when nobody has its console: killed while starting one, we leave a process that becomes one yet.
        """
        deadline = time.monotonic() + _QUIT_S
        while not host.processes.console_ended(self.files.console_log, 0.05):
            if process := self._find(host, None):
                host.processes.kill(process)
            elif time.monotonic() > deadline:
                raise Busy(f"somebody still writes to {self.files.console_log}", hint="see who: ps ax | grep console")
        host.files.remove(self.files.api_socket)

    @property
    def _log(self) -> Path:
        return self.files.directory / "qemu.log"

    def _find(self, host: HostView, handle: Handle | None) -> ProcessIdentity | None:
        return host.processes.find(str(self.files.api_socket), _identity(handle))

    def _handle(self, process: ProcessIdentity) -> Handle:
        api_socket = str(self.files.api_socket)
        return {"vmm": NAME, "pid": process.pid, "start_time": process.start_time, "api_socket": api_socket}

    def _differences(self, arguments: list[str]) -> tuple[str, ...]:
        """What of the machine is not as it was started, in the user's words; its own command line is the witness."""
        if self.machine is None:
            return ()
        accelerators: tuple[Accelerator, ...] = ("kvm", "tcg")
        if arguments[1:] in [command(self.machine, self.files.api_socket, each)[1:] for each in accelerators]:
            return ()
        if arguments and Path(arguments[0]).name != PROGRAM:
            return (f"it runs under {Path(arguments[0]).name}",)
        vcpus, memory_bytes = started_with(arguments)
        named = []
        if vcpus != self.machine.vcpus:
            named.append(f"vcpus {vcpus} -> {self.machine.vcpus}")
        if memory_bytes != self.machine.memory_bytes:
            named.append(f"memory {Size(memory_bytes)} -> {Size(self.machine.memory_bytes)}")
        return tuple(named) or ("its disks, network or kernel have changed",)

    def _wait_until_running(self, host: Host, process: ProcessIdentity) -> None:
        deadline = time.monotonic() + START_S
        while True:
            if host.processes.wait(process, 0.02):
                raise VmmError(f"QEMU ended as soon as it was started:\n{self._log_tail(host)}")
            try:
                status = host.qmp.query(self.files.api_socket, "query-status", timeout_s=1.0)
            except VmmError as error:
                if time.monotonic() > deadline:
                    raise VmmError(f"QEMU does not answer {START_S:.0f} s after its start: {error}") from error
                continue
            if status["status"] == "running":
                return
            raise VmmError(f"QEMU has started, but its machine is {status['status']}:\n{self._log_tail(host)}")

    def _log_tail(self, host: HostView) -> str:
        if host.files.status(self._log) is None:
            return "  (it said nothing)"
        lines = host.files.read(self._log)[-8192:].decode("utf-8", "replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (it said nothing)"

    def _shut_down(self, host: Host, process: ProcessIdentity, stage: Stage) -> bool:
        """Ask the guest to end; whether it did in time.

        Ctrl-Alt-Del, because the first process of a guest hears it without any daemon's help. It means "reboot", and
        a reboot ends the machine.
        """
        stage("shutting the guest down")
        keys = [{"type": "qcode", "data": code} for code in ("ctrl", "alt", "delete")]
        try:
            host.qmp.execute(self.files.api_socket, "send-key", {"keys": keys})
        except VmmError:
            return host.processes.wait(process, 0.0)
        return host.processes.wait(process, GUEST_SHUTDOWN_S)


def _identity(handle: Handle | None) -> ProcessIdentity | None:
    if not handle or "pid" not in handle or "start_time" not in handle:
        return None
    return ProcessIdentity(handle["pid"], handle["start_time"])


def _check_socket_path(path: Path) -> None:
    length_bytes = len(os.fsencode(path))
    if length_bytes > _SOCKET_PATH_BYTES:
        raise HostError(
            f"QEMU's control socket {path} has a path of {length_bytes} bytes, and {_SOCKET_PATH_BYTES} is the most",
            hint="choose a shorter $BANGER_HOME",
        )
    if "," in str(path):
        raise HostError(
            f"QEMU's control socket {path} has a comma in its path, by which its process could not be found again",
            hint="choose a $BANGER_HOME without a comma",
        )
