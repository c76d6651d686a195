"""A VM taken down without the plugins that made it: whatever its record alone still tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from banger.host import Host, HostView, ProcessIdentity
from banger.resource import Absent, Handle, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import VmFiles


@dataclass(frozen=True)
class LeftoverVmm(Resource):
    """The process that owns a VM's API socket, whichever VMM it is. It can only be ended."""

    key: str
    needs: tuple[str, ...]
    files: VmFiles
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
        for path in self.files.of_a_run:
            host.files.remove(path)
        host.files.remove_tree(self.files.jail)

    def _find(self, host: HostView) -> ProcessIdentity | None:
        return host.processes.find(str(self.files.api_socket))
