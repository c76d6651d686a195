"""The network kind `tap`: a tap device for each VM, on a bridge that its network shares. Needs root.

Bridge, firewall and, where one is named, the network namespace are made with the first VM that starts on the network
and go with the last one. Everything that banger makes here is known by its name and its mark, and nothing else is
touched: no other bridge, no other table, no setting of the host's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from banger.errors import HostError
from banger.hooks import hookimpl
from banger.host import HostView
from banger.identity import mac_address
from banger.needs import Finding, Need, capability, device, program
from banger.resource import Handle, Leftover, Resource
from banger.types import Network, NetworkKind, NetworkSetup, Nic, Problem, TapAttachment, Vm, home_mark

from .names import bridge_name, tap_name
from .options import TapNetworkOptions

if TYPE_CHECKING:  # what makes a port is loaded to make one: most runs have no such network
    from .port import TapPort

NAME = "tap"


@hookimpl
def register_network_kind() -> NetworkKind:
    return NetworkKind(NAME, TapNetworkOptions)


@hookimpl
def register_needs() -> Sequence[Need]:
    return [
        device("/dev/net/tun", "modprobe tun"),
        capability("CAP_NET_ADMIN"),
        program("nft", "apt install nftables"),
        Need("a tap on a bridge, firewalled", _devices),
        Need("forwarding", _forwarding),
    ]


@hookimpl
def validate_vm(vm: Vm) -> Sequence[Problem]:
    options = vm.network.options if vm.network else None
    if vm.nic.plugin != NAME or not isinstance(options, TapNetworkOptions):
        return []
    from ipaddress import IPv4Address, IPv4Network

    changes = []
    if IPv4Address(vm.nic.ip) not in IPv4Network(options.subnet):
        changes.append(f"the subnet {options.subnet}, in which its address {vm.nic.ip} is not")
    if vm.nic.ssh.netns != options.netns:
        changes.append(f"the namespace '{options.netns}', and it is in '{vm.nic.ssh.netns}'")
    hint = "give the network another name, and the VM gets a new card; or destroy the VM first"
    return [
        Problem(vm.place_of("network"), f"the network of the VM '{vm.name}' now has {change}", hint)
        for change in changes
    ]


@hookimpl
def allocate_nic(network: Network, vm_id: str, taken: Sequence[Nic], host: HostView) -> Nic:
    from .addresses import allocate

    return allocate(network, vm_id, taken, host)


@hookimpl
def setup_network(vm: Vm) -> NetworkSetup:
    port = _port(vm)
    return NetworkSetup((port,), TapAttachment(port.port.device, port.netns))


@hookimpl
def teardown_handles(vm: Vm, handles: dict[str, Handle]) -> Sequence[Resource]:
    return [_port(vm)] if _key(vm) in handles else []


@hookimpl
def find_leftovers(vms: Path, known: Collection[str], host: HostView) -> Sequence[Leftover]:
    from .leftovers import leftovers

    return leftovers(vms, known, host)


def _port(vm: Vm) -> TapPort:
    """Where it is follows from the card, which is what the guest was given; the rest are the network's wishes."""
    from .port import TapPort
    from .rules import Port

    wishes = vm.network.options if vm.network else None
    options = wishes if isinstance(wishes, TapNetworkOptions) else TapNetworkOptions()
    port = Port(
        device=tap_name(vm.id),
        network=vm.nic.network,
        vm=vm.name,
        mac=vm.nic.mac,
        address=vm.nic.address,
        gateway=vm.nic.gateway,
        nat=options.nat,
        isolated=options.isolate,
        home=home_mark(vm.directory.parent),
    )
    return TapPort(_key(vm), port, vm.nic.ssh.netns, vm.vmm_uid)


def _key(vm: Vm) -> str:
    return f"{vm.name}/network/tap"


def _devices(host: HostView) -> Finding:
    """The firewall is that of a network with a guest; that nft(8) is not installed is told apart."""
    from .rules import Port, Rules

    guest = Port("tap", "doctor", "doctor", mac_address("doctor"), "172.16.0.2/24", "172.16.0.1", nat=True)
    rules = Rules(guest.network, bridge_name(guest.network), (guest,))
    refusal = host.links.refusal(rules.text() if host.tools.which("nft") else "")
    return Finding(False, refusal.message, refusal.hint or "") if refusal else Finding(True, "can be made")


def _forwarding(host: HostView) -> Finding:
    """Only networks with nat in the host's own namespace need it, so that it is off is nothing amiss."""
    try:
        state = host.links.look()
    except HostError as error:
        return Finding(True, f"is not known: {error}")
    if state and state.forwards:
        return Finding(True, "is on")
    return Finding(True, "is off; a network with nat needs it: sysctl -w net.ipv4.ip_forward=1")
