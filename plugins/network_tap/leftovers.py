"""Taps of VMs that are not known any more, and bridges, firewalls and namespaces of ours that nobody uses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.errors import HostError
from banger.host import Host, HostView, NetworkState
from banger.resource import Absent, Handle, Leftover, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.types import home_mark

from .names import tap_name
from .ownership import can_go, unused_networks
from .port import TapPort, locked, take_network
from .rules import Port, all_ports, ports_of

__all__ = ["leftovers"]

_TABLE = re.compile(r"(?:bridge|inet|ip) banger-([a-z0-9-]+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class UnusedNetwork(Resource):
    """What is left of a network without a port, or, without a name, of a namespace without a network.

    A tap is the first thing of a network that is made, so what has none is nobody's, of whichever home.
    """

    key: str
    netns: str
    network: str = ""
    lifetime = Lifetime.BOOT

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        state = host.links.look(self.netns)
        there = state and (self.network in unused(state) if self.network else can_go(state))
        return Present() if there else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        raise NotImplementedError("a leftover is only ever removed")

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        with locked(host, self.netns):
            state = host.links.look(self.netns)
            if state and self.network in unused(state):
                take_network(host, self.netns, state, self.network)
                state = host.links.look(self.netns)
            if self.netns and state and can_go(state):
                host.links.remove_namespace(self.netns)


def unused(state: NetworkState) -> list[str]:
    """The networks of ours that have a bridge or a firewall, and no port."""
    of_tables = [
        match[1] for name, comment in state.tables.items() if (match := _TABLE.fullmatch(name)) and _is_digest(comment)
    ]
    bare = [network for network in of_tables if not ports_of(state, network)]
    return sorted({*unused_networks(state), *bare})


def leftovers(vms: Path, known: Collection[str], host: HostView) -> Sequence[Leftover]:
    """In all namespaces. Taps of another home, or that do not tell their home, are only told of."""
    found: list[Leftover] = []
    for netns in ("", *host.links.namespaces()):
        try:
            state = host.links.look(netns)
        except HostError as error:
            found.append(Leftover(f"networks{_within(netns)}", why=error.message))
        else:
            found += _within_one(netns, state, vms, known, host) if state else []
    return found


def _within_one(
    netns: str, state: NetworkState, vms: Path, known: Collection[str], host: HostView
) -> Iterator[Leftover]:
    devices = {tap_name(vm_id) for vm_id in known}
    for port in all_ports(state):
        if port.device not in devices:
            yield _of_port(port, netns, vms, host)
    for network in unused(state):
        what = f"bridge and firewall of the network {network}{_within(netns)}, which has no tap"
        yield Leftover(what, UnusedNetwork(f"network/{netns}/{network}", netns, network))
    if netns and can_go(state):
        yield Leftover(f"the empty network namespace {netns}", UnusedNetwork(f"network/{netns}", netns))


def _of_port(port: Port, netns: str, vms: Path, host: HostView) -> Leftover:
    vm_id = port.device.removeprefix("tap-")
    what = f"the tap {port.device}{_within(netns)}, of the VM {port.vm}"
    if port.home and port.home != home_mark(vms):
        return Leftover(what, vm_id=vm_id, why="another home's")
    if not port.home and host.files.status(vms / vm_id) is None:
        return Leftover(what, vm_id=vm_id, why="it does not tell of which home it is")
    return Leftover(what, TapPort(f"{vm_id}/network/tap", port, netns), vm_id)


def _within(netns: str) -> str:
    return f" in the namespace {netns}" if netns else ""


def _is_digest(comment: str) -> bool:
    return bool(_DIGEST.fullmatch(comment))
