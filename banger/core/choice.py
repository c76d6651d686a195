"""What `auto` stands for: dm-snapshots, a tap and Firecracker where this host has what they need, else what needs less.

A VM that is recorded keeps what was once chosen for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from banger.core.assemble import network_options
from banger.core.playbook import Playbook
from banger.core.plugins import Plugins
from banger.core.request import AUTO, VmRequest, implied_network
from banger.core.state import VmRecord
from banger.host import HostView
from banger.needs import Finding
from banger.types import Network

PREFERRED = ("storage_dm", "network_tap", "vmm_firecracker")
FALLBACK = ("storage_overlay", "network_user", "vmm_qemu")
_NEEDS_TAP = "vmm_firecracker"


@dataclass(frozen=True, slots=True)
class Answer:
    """One need of one plugin, and what was found. `always`: whether all that the plugin makes takes it."""

    plugin: str
    need: str
    finding: Finding
    always: bool = True

    def __str__(self) -> str:
        cure = f" ({self.finding.cure})" if self.finding.cure else ""
        return f"{self.plugin}: {self.need} {self.finding.found}{cure}"


def findings(plugins: Plugins, host: HostView, names: Sequence[str] | None = None) -> list[Answer]:
    """What was found of every need of these plugins; None: of all."""
    return [
        Answer(plugin, need.name, need.check(host), need.always)
        for plugin, needs in plugins.needs().items()
        if names is None or plugin in names
        for need in needs
    ]


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` stands for on this host. `lacking` is why a preferred plugin is passed over, by plugin."""

    lacking: Mapping[str, str]

    @classmethod
    def on(cls, plugins: Plugins, host: HostView) -> Choice:
        active = {info.name for info in plugins.infos() if info.status == "active"}
        lacking = {name: f"{name} is not in use" for name in PREFERRED if name not in active}
        for answer in findings(plugins, host, PREFERRED):
            if not answer.finding.met:
                lacking.setdefault(answer.plugin, str(answer))
        return cls(lacking)

    @property
    def path(self) -> tuple[str, str, str]:
        """The plugins for storage, network and VMM of a VM that names none."""
        storage, network, vmm = PREFERRED
        microvm = network not in self.lacking and vmm not in self.lacking
        return (FALLBACK[0] if storage in self.lacking else storage, *((network, vmm) if microvm else FALLBACK[1:]))

    def settled(self, request: VmRequest, record: VmRecord | None, networks: Mapping[str, Network]) -> VmRequest:
        """The request without any `auto` left in it."""
        if record:
            return replace(
                request,
                storage=_first(request.storage, record.storage),
                network=_first(request.network, record.nic.network),
                vmm=_first(request.vmm, record.vmm),
            )
        storage, network, vmm = (name.partition("_")[2] for name in self.path)
        if request.network != AUTO and networks[request.network].plugin == "user":
            vmm = "qemu"  # the only one that has such a network
        elif request.network != AUTO and _NEEDS_TAP not in self.lacking:
            vmm = "firecracker"
        elif request.vmm not in (AUTO, vmm):
            network = "tap" if request.vmm == "firecracker" else "user"
        return replace(
            request,
            storage=_first(request.storage, storage),
            network=_first(request.network, network),
            vmm=_first(request.vmm, vmm),
        )


def settle(
    playbook: Playbook, records: Mapping[str, VmRecord], plugins: Plugins, host: HostView
) -> tuple[Playbook, Choice | None]:
    """The playbook with every `auto` settled, and the choice where one was made for a new VM."""
    open_ones = [vm for vm in playbook.vms if AUTO in (vm.storage, vm.network, vm.vmm)]
    if not open_ones:
        return playbook, None
    choice = Choice.on(plugins, host) if any(vm.name not in records for vm in open_ones) else None
    networks = {network.name: network for network in playbook.networks}
    vms = tuple((choice or Choice({})).settled(vm, records.get(vm.name), networks) for vm in playbook.vms)
    kinds = plugins.network_kinds()
    named = dict.fromkeys(vm.network for vm in vms)
    implied = [network for name in named if (network := implied_network(name, kinds))]
    kept = [
        network_of(record, plugins) for vm in vms if (record := records.get(vm.name)) and vm.network not in networks
    ]
    known = {network.name: network for network in (*implied, *kept, *playbook.networks)}
    return replace(playbook, networks=tuple(known.values()), vms=vms), choice


def network_of(record: VmRecord, plugins: Plugins) -> Network:
    """The network a recorded VM is on."""
    return Network(record.nic.network, record.nic.plugin, network_options(record, plugins))


def _first(asked: str, otherwise: str) -> str:
    return otherwise if asked == AUTO else asked
