"""A VM taken down without the plugins that made it: whatever its record alone still tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Handle, Lifetime, Needs, Observation, Present, Resource, Stage


@dataclass(frozen=True)
class LeftoverVmm(Resource):
    """The process that owns a VM's API socket, whichever VMM it is. It can only be ended."""

    key: str
    needs: tuple[str, ...]
    api_socket: Path
    stage = "end_vmm"
    lifetime = Lifetime.BOOT

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Present() if self._find(host) else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        raise NotImplementedError("a leftover is only ever removed")

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        if process := self._find(host):
            stage("its plugin is not there to stop it; killing it")
            host.processes.kill(process)
        host.files.remove(self.api_socket)

    def _find(self, host: HostView) -> ProcessIdentity | None:
        return host.processes.find(str(self.api_socket))
