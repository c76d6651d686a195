"""A guest that answers: the last resource of a running VM, so that `apply` ends when one can log in.

It is also the first to go, and while the guest still answers it is asked to write out what it holds in memory: a VMM
may have no gentler end than a reboot key or a kill.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from banger.core.access import ssh_command
from banger.errors import VmmError
from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import Vm

TIMEOUT_S = 300.0
"""Long enough for a systemd guest under software emulation on a busy machine."""
SYNC_S = 20.0
_PROBE_S = 2.0
_CONNECT_S = 3
_CONSOLE_TAIL_LINES = 12


@dataclass(frozen=True)
class GuestReady(Resource):
    """The guest's sshd has answered since this VMM started. Its handle is the VMM's identity at that time."""

    vm: Vm
    ssh_key: Path
    timeout_s: float = TIMEOUT_S
    stage = "wait_for_guest"
    lifetime = Lifetime.BOOT

    @property
    def key(self) -> str:  # type: ignore[override]  # both derived, so that they cannot disagree
        return f"{self.vm.name}/ready"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.vm.vmm_key,)

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        if not recorded or "pid" not in recorded:
            return Absent()
        answered = ProcessIdentity(recorded["pid"], recorded["start_time"])
        return Present(recorded) if host.processes.find(str(self.vm.api_socket), answered) == answered else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        ssh = self.vm.nic.ssh
        deadline = time.monotonic() + self.timeout_s
        while True:
            stage("waiting for ssh")
            # Taken before the question, so that an answer can only come from this VMM.
            vmm = host.processes.find(str(self.vm.api_socket), _identity(needs[self.vm.vmm_key]))
            if vmm is None:
                raise VmmError(f"the VM stopped while it was starting; its console ended with:\n{self._console(host)}")
            asked = time.monotonic()
            if host.network.ssh_banner(ssh, _PROBE_S):
                return {"pid": vmm.pid, "start_time": vmm.start_time}
            if time.monotonic() > deadline:
                raise VmmError(
                    f"the guest did not answer ssh on {ssh.host}:{ssh.port} within {self.timeout_s:.0f} s; "
                    f"its console ended with:\n{self._console(host)}"
                )
            time.sleep(max(0.0, 0.25 - (time.monotonic() - asked)))

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """Ask the guest to sync(1), over its network or else over vsock; a deaf one is left to its VMM."""
        if not handle or host.processes.find(str(self.vm.api_socket), _identity(handle)) is None:
            return
        stage("asking the guest to sync")
        proxies = [""]
        if host.files.status(self.vm.vsock_socket):
            proxies.append(host.tools.vsock_proxy(self.vm.vsock_socket))
        for proxy in proxies:
            argv = ssh_command(self.ssh_key, self.vm, ["sync"], proxy=proxy, connect_timeout_s=_CONNECT_S)
            if host.tools.ssh(argv, netns=self.vm.nic.ssh.netns, timeout_s=SYNC_S):
                return

    def discard(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """Its disks go too: there is nothing to write out for."""

    def _console(self, host: HostView) -> str:
        if host.files.status(self.vm.console_log) is None:
            return "  (no console output)"
        text = host.files.read(self.vm.console_log)[-8192:].decode("utf-8", "replace")
        lines = [line for line in text.replace("\r", "").splitlines() if line.strip()]
        return "\n".join(f"  {line}" for line in lines[-_CONSOLE_TAIL_LINES:]) or "  (no console output)"


def _identity(handle: Handle) -> ProcessIdentity | None:
    return ProcessIdentity(handle["pid"], handle["start_time"]) if "pid" in handle else None
