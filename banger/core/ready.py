"""A guest that answers: the last resource of a running VM, so that `apply` ends when one can log in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from banger.errors import VmmError
from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import SshEndpoint

TIMEOUT_S = 300.0
"""Long enough for a systemd guest under software emulation on a busy machine."""
_PROBE_S = 2.0
_CONSOLE_TAIL_LINES = 12


@dataclass(frozen=True)
class GuestReady(Resource):
    """The guest's sshd has answered since this VMM started. Its handle is the VMM's identity at that time."""

    key: str
    vmm_key: str
    api_socket: Path
    console_log: Path
    ssh: SshEndpoint
    timeout_s: float = TIMEOUT_S
    stage = "wait_for_guest"
    lifetime = Lifetime.BOOT

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # derived, so that it cannot disagree
        return (self.vmm_key,)

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        if not recorded or "pid" not in recorded:
            return Absent()
        answered = ProcessIdentity(recorded["pid"], recorded["start_time"])
        return Present(recorded) if host.processes.find(str(self.api_socket), answered) == answered else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        deadline = time.monotonic() + self.timeout_s
        while True:
            stage("waiting for ssh")
            # Taken before the question, so that an answer can only come from this VMM.
            vmm = host.processes.find(str(self.api_socket), _identity(needs[self.vmm_key]))
            if vmm is None:
                raise VmmError(f"the VM stopped while it was starting; its console ended with:\n{self._console(host)}")
            asked = time.monotonic()
            if host.network.ssh_banner(self.ssh, _PROBE_S):
                return {"pid": vmm.pid, "start_time": vmm.start_time}
            if time.monotonic() > deadline:
                raise VmmError(
                    f"the guest did not answer ssh on {self.ssh.host}:{self.ssh.port} within {self.timeout_s:.0f} s; "
                    f"its console ended with:\n{self._console(host)}"
                )
            time.sleep(max(0.0, 0.25 - (time.monotonic() - asked)))

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """An answer leaves nothing on the host."""

    def _console(self, host: HostView) -> str:
        if host.files.status(self.console_log) is None:
            return "  (no console output)"
        text = host.files.read(self.console_log)[-8192:].decode("utf-8", "replace")
        lines = [line for line in text.replace("\r", "").splitlines() if line.strip()]
        return "\n".join(f"  {line}" for line in lines[-_CONSOLE_TAIL_LINES:]) or "  (no console output)"


def _identity(handle: Handle) -> ProcessIdentity | None:
    return ProcessIdentity(handle["pid"], handle["start_time"]) if "pid" in handle else None
