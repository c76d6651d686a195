"""Which address a new guest gets, and whether its subnet can be had here at all. Looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Container, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import chain, count, islice
from pathlib import Path

from banger.errors import HostError, PlaybookError, Problem
from banger.host import HostView
from banger.identity import mac_address
from banger.types import Network, Nic, SshEndpoint

from .names import bridge_mac, bridge_name, tap_name
from .options import TapNetworkOptions
from .rules import Port, all_ports

SSH_PORT = 22
_EVERYWHERE_BITS = 8
"""No network is larger than this; a route with fewer bits (0.0.0.0/0, or half of it) is a way to everywhere."""


def allocate(network: Network, vm_id: str, taken: Sequence[Nic], host: HostView) -> Nic:
    """The lowest address that is free, with the bridge as its gateway.

    Free is what neither a record nor another's tap has. Raises HostError when the subnet is full, or is not to
    be had here, PlaybookError when another network has it.
    """
    options: TapNetworkOptions = network.options
    subnet = IPv4Network(options.subnet)
    _refuse_subnet_of_another(network, [nic for nic in taken if nic.mac != mac_address(vm_id)])
    refuse_overlap(host, network.name, subnet, options.netns)
    gateway = str(next(subnet.hosts()))
    ports = [port for port in _ports_there(host, options.netns) if port.device != tap_name(vm_id)]
    cards: list[Nic | Port] = [*taken, *ports]
    ip = _free_ip(network.name, subnet, {address for card in cards for address in (card.ip, card.gateway)})
    macs = {nic.mac for nic in taken if nic.network == network.name} | {port.mac for port in ports}
    return Nic(
        network=network.name,
        plugin=network.plugin,
        mac=_free_mac(vm_id, macs | {bridge_mac(network.name)}),
        address=f"{ip}/{subnet.prefixlen}",
        gateway=gateway,
        dns=options.dns or (_host_dns(host, options.netns) if options.nat else "") or gateway,
        ssh=SshEndpoint(ip, SSH_PORT, options.netns),
    )


def _refuse_subnet_of_another(network: Network, taken: Sequence[Nic]) -> None:
    """Raise PlaybookError when other VMs, of another network here, have the subnet or a part of it.

    They need not run, so what is there on the host does not tell.
    """
    subnet, netns = IPv4Network(network.options.subnet), network.options.netns
    for nic in taken:
        theirs = IPv4Interface(nic.address).network
        here = (nic.plugin, nic.ssh.netns) == (network.plugin, netns) and nic.network != network.name
        if here and theirs.overlaps(subnet):
            message = f"the subnet {subnet} of the network '{network.name}' overlaps {theirs} of '{nic.network}'"
            hint = f"give '{network.name}' another subnet or another netns, or let its VMs be on '{nic.network}'"
            raise PlaybookError([Problem(network.place, message, hint)])


def refuse_overlap(host: HostView, name: str, subnet: IPv4Network, netns: str) -> None:
    """Raise HostError when packets for this subnet already have another way to go."""
    for route in host.links.routes(netns):
        there = IPv4Network(route.destination)
        if route.device != bridge_name(name) and there.prefixlen >= _EVERYWHERE_BITS and there.overlaps(subnet):
            by = f" by {route.device}" if route.device else ""
            where = f"in the network namespace {netns}" if netns else "on this host"
            raise HostError(
                f"the subnet {subnet} of the network '{name}' overlaps the route to {there}{by} {where}",
                hint=f"choose another subnet: under networks:, the subnet of '{name}'",
            )


def _free_ip(name: str, subnet: IPv4Network, given: Container[str]) -> str:
    """The lowest that is neither the subnet's own, its broadcast's, its bridge's, nor given to someone."""
    for address in islice(subnet.hosts(), 1, None):
        if str(address) not in given:
            return str(address)
    raise HostError(
        f"no address is left in the subnet {subnet} of the network '{name}'",
        hint="banger destroy what is not needed any more, or declare another network",
    )


def _free_mac(vm_id: str, given: Container[str]) -> str:
    """The one that follows from the VM's id; should another have it, the next that does."""
    candidates = (mac_address(f"{vm_id}/{number}") for number in count(1))
    return next(each for each in chain([mac_address(vm_id)], candidates) if each not in given)


def _ports_there(host: HostView, netns: str) -> list[Port]:
    """Of whichever network, and whoever made them: another $BANGER_HOME has records of its own."""
    state = host.links.look(netns)
    return all_ports(state) if state else []


def _host_dns(host: HostView, netns: str) -> str:
    """The first name server of this host that is not itself; empty when there is none.

    For a namespace, ip-netns(8) has a file of its own. systemd-resolved, where it is used, lists the real ones.
    """
    own = [f"/etc/netns/{netns}/resolv.conf"] if netns else []
    for path in map(Path, (*own, "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")):
        if host.files.status(path):
            for line in host.files.read(path).decode("utf-8", "replace").splitlines():
                server = line.split()[1:2] if line.startswith("nameserver") else []
                if server and _is_another_host(server[0]):
                    return server[0]
    return ""


def _is_another_host(address: str) -> bool:
    try:
        return not IPv4Address(address).is_loopback
    except ValueError:  # IPv6, which guests do not have
        return False
