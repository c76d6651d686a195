"""A running QEMU as a resource: started until it answers, ended by asking the guest first."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from banger.errors import HostError, VmmError
from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Drifted, Handle, Needs, Observation, Present, Stage
from banger.types import Size
from banger.vmmprocess import VmmProcess

from .machine import PROGRAM, Accelerator, Machine, command, started_with

__all__ = ["NAME", "QemuProcess"]

NAME = "qemu"
_QUIT_S = 5.0


@dataclass(frozen=True)
class QemuProcess(VmmProcess):
    """The QEMU process of a VM. Without `machine` (made from a recorded handle) it cannot be started."""

    vmm = NAME
    title = "QEMU"
    program = PROGRAM

    machine: Machine | None = None

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        process = self.find(host, recorded)
        if process is None:
            return Absent()
        known = self.handle_of(process)
        same = recorded if recorded and recorded.items() >= known.items() else {}
        differences = self._differences(host.processes.arguments(process) or [])
        handle = {**same, **known}
        return Drifted(handle, differences, in_place=False) if differences else Present(handle)

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        if self.machine is None:
            raise ValueError(f"{self.key} was made from a handle and cannot be started")
        self._check_socket_path()
        stage("probing KVM")
        accelerator: Accelerator = "kvm" if host.tools.kvm_boots(self.machine.kernel, self.machine.initrd) else "tcg"
        stage(f"starting QEMU ({accelerator})")
        process = self.find(host, None) or self._start(host, self.machine, accelerator)
        try:
            status = self.until_it_answers(host, process, lambda: self._status(host), stage)
            if status["status"] != "running":
                raise VmmError(f"QEMU has started, but its machine is {status['status']}:\n{self.log_tail(host)}")
        except BaseException:
            host.processes.kill(process)
            self.clean(host)
            raise
        return {**self.handle_of(process), "accelerator": accelerator}

    def ask_guest_to_end(self, host: Host) -> None:
        """Ctrl-Alt-Del, because the first process of a guest hears it without any daemon's help.

        It means "reboot", and a reboot ends the machine.
        """
        keys = [{"type": "qcode", "data": code} for code in ("ctrl", "alt", "delete")]
        host.qmp.execute(self.files.api_socket, "send-key", {"keys": keys})

    def stop(self, host: Host, process: ProcessIdentity) -> None:
        """By its own means, so that it writes out what it holds; one that does not is killed."""
        with contextlib.suppress(VmmError):
            host.qmp.execute(self.files.api_socket, "quit")
        if not host.processes.wait(process, _QUIT_S):
            host.processes.kill(process)

    def _start(self, host: Host, machine: Machine, accelerator: Accelerator) -> ProcessIdentity:
        self.clean(host)  # a dead one's socket, on which nobody answers
        return host.processes.start(
            command(machine, self.files.api_socket, accelerator),
            log=self.log,
            cwd=self.files.directory,
            netns=self.netns,
            console=self.files.console_log,
        )

    def _status(self, host: Host) -> dict[str, Any]:
        status: dict[str, Any] = host.qmp.query(self.files.api_socket, "query-status", timeout_s=1.0)
        return status

    def _differences(self, arguments: list[str]) -> tuple[str, ...]:
        """What of the machine is not as it was started, in the user's words; its own command line is the witness."""
        if self.machine is None:
            return ()
        if other := self.other_program(arguments):
            return (other,)
        accelerators: tuple[Accelerator, ...] = ("kvm", "tcg")
        if arguments[1:] in [command(self.machine, self.files.api_socket, each)[1:] for each in accelerators]:
            return ()
        vcpus, memory_bytes = started_with(arguments)
        named = []
        if vcpus != self.machine.vcpus:
            named.append(f"vcpus {vcpus} -> {self.machine.vcpus}")
        if memory_bytes != self.machine.memory_bytes:
            named.append(f"memory {Size(memory_bytes)} -> {Size(self.machine.memory_bytes)}")
        return tuple(named) or ("its disks, network or kernel have changed",)

    def _check_socket_path(self) -> None:
        path = self.files.api_socket
        self.check_socket_paths(path)
        if "," in str(path):
            raise HostError(
                f"QEMU's socket {path} has a comma in its path, by which its process could not be found again",
                hint="choose a $BANGER_HOME without a comma",
            )
