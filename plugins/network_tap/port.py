"""A VM's tap on its network's bridge, and with the first and the last of them the bridge, its firewall, its namespace.

Nothing of what VMs share has a resource of its own: a bridge is there while a tap is on it. Whether this is the first
or the last one is asked of the host, under a lock that all of a namespace's networks have in common.

A port is up only when all else is as it should be. So of a run that was killed there are at most ports that are down,
which the others do not mind: the rules in force are either those of all ports, or those of the ports that are up.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Interface

from banger.errors import HostError
from banger.host import Host, HostView, Link, NetworkState
from banger.resource import Absent, Drifted, Handle, Lifetime, Needs, Observation, Present, Resource, Stage

from .addresses import refuse_overlap
from .names import bridge_mac, bridge_name
from .ownership import BRIDGE_ALIAS, NAMESPACE_ALIAS, can_go, is_our_namespace, is_ours, unused_networks
from .rules import Port, Rules, all_ports, ports_of

_EMPTY = NetworkState({}, {}, forwards=False)
_UNDO_BY_HAND = """{there}
if {ip} -o link show dev {tap} 2>/dev/null | grep -qF 'alias banger tap '; then
    {ip} link delete dev {tap} || exit 1
fi
! {ip} -o link show | grep -qF 'alias banger tap {network} ' || exit 0  # others are on this network
for family in bridge inet ip; do
    if {nft} list table "$family" banger-{network} >/dev/null 2>&1; then
        {nft} delete table "$family" banger-{network} || exit 1
    fi
done
if {ip} -o link show dev {bridge} 2>/dev/null | grep -qF 'link/ether {mac} '; then
    {ip} link delete dev {bridge} || exit 1
fi"""
_UNDO_NAMESPACE = f"""if ip -n {{netns}} -o link show dev lo | grep -qF 'alias {NAMESPACE_ALIAS}'; then
    others=$(ip -n {{netns}} -o link show | grep -v '^[0-9]*: lo: ' | grep -v '@NONE: .* state DOWN ')
    [ -n "$others" ] || ip netns delete {{netns}} || exit 1
fi"""


@dataclass(frozen=True)
class TapPort(Resource):
    """One VM's tap device, a port of its network's bridge. `owner`: the user id that may open it; None: ours."""

    key: str
    port: Port
    netns: str = ""
    owner: int | None = None
    lifetime = Lifetime.BOOT
    stage = "setup_network"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        state = host.links.look(self.netns) or _EMPTY
        tap = state.links.get(self.port.device)
        if tap is None:
            elsewhere = self._elsewhere(host, recorded)
            strays = [netns for netns, state in elsewhere.items() if self.port.device in state.links]
            there = f"its tap is in {_place(strays[0])}, not in {_place(self.netns)}" if strays else ""
            return Drifted(self._handle(None, strays[0]), (there,), in_place=False) if strays else Absent()
        differences = self._differences(state, tap)
        if not differences:
            return Present(self._handle(tap))
        # What a guest was promised is in the alias; all else is damage, and its guest is the better for mending it.
        in_place = not self._must_go(tap)
        return Drifted(self._handle(tap), differences, in_place, live=in_place and tap.alias == self.port.alias)

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        return self._converge(host, stage)

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        return self._converge(host, stage)

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """Also from a namespace that it was in before. What else of ours a kill has left without a user goes too."""
        left = [
            netns
            for netns, state in self._elsewhere(host, handle).items()
            if self.port.device in state.links or unused_networks(state) or (netns and can_go(state))
        ]
        for netns in (self.netns, *left):
            with locked(host, netns):
                self._take_from(host, netns)

    def undo_by_hand(self) -> Sequence[str]:
        """What stays of the firewall while others are on the network still names this tap, which harms nobody."""
        netns, network = shlex.quote(self.netns), self.port.network
        inside = f"ip netns exec {netns} " if self.netns else ""
        there = f"[ -e /run/netns/{netns} ] || exit 0" if self.netns else ":"
        lines = _UNDO_BY_HAND.format(
            there=there,
            ip=f"{inside}ip",
            nft=f"{inside}nft",
            tap=self.port.device,
            network=network,
            bridge=self.bridge,
            mac=bridge_mac(network),
        )
        return (*lines.splitlines(), *(_UNDO_NAMESPACE.format(netns=netns).splitlines() if self.netns else ()))

    # --- looking

    @property
    def bridge(self) -> str:
        return bridge_name(self.port.network)

    def rules(self, ports: Sequence[Port]) -> Rules:
        """The network's firewall when it has these ports."""
        return Rules(self.port.network, self.bridge, tuple(ports))

    def _elsewhere(self, host: HostView, recorded: Handle | None) -> dict[str, NetworkState]:
        """All namespaces but its own: a network can be given another one.

        Others have namespaces too; one that we may not enter has nothing of ours, unless it was recorded otherwise.
        """
        found: dict[str, NetworkState] = {}
        for netns in ("", *host.links.namespaces()):
            try:
                state = None if netns == self.netns else host.links.look(netns)
            except HostError:
                if netns in ("", (recorded or {}).get("netns")):
                    raise
            else:
                found |= {netns: state} if state else {}
        return found

    def _handle(self, tap: Link | None, netns: str | None = None) -> Handle:
        netns = self.netns if netns is None else netns
        handle: Handle = {"tap": self.port.device, "bridge": self.bridge, "netns": netns}
        return {**handle, "index": tap.index} if tap else handle

    def _differences(self, state: NetworkState, tap: Link) -> tuple[str, ...]:
        """What is not as it should be, in the user's words."""
        bridge = state.links.get(self.bridge)
        port = self.port
        found = []
        if bridge is None or not is_ours(bridge, self.port.network):
            found.append(f"its bridge {self.bridge} is not there")
        else:
            if tap.master != self.bridge:
                found.append(f"{tap.name} is on {tap.master or 'no bridge'}, not on {self.bridge}")
            elif tap.isolated != port.isolated and tap.alias == port.alias:
                found.append(f"isolate {_word(tap.isolated)} -> {_word(port.isolated)}")
            if port.bridge_address not in bridge.addresses:
                found.append(f"{self.bridge} has no address {port.bridge_address}")
            if bridge.learns_linklocal:
                found.append(f"{self.bridge} believes addresses that no firewall rule sees")
            if not bridge.up:
                found.append(f"{self.bridge} is down")
        if not tap.up:
            found.append(f"{tap.name} is down")
        if self._has_other_owner(tap):
            found.append(f"{tap.name} belongs to the user {tap.owner}, not {self.owner}")
        if tap.alias != port.alias:
            found.append(self._changed(Port.read(tap.name, tap.alias)))
        elif not any(self.rules(each).in_force(state) for each in _settled(state, port)):
            found.append(f"the firewall rules of {port.network} are not in force")
        elif port.nat and not state.forwards and is_our_namespace(state):
            found.append(f"net.ipv4.ip_forward is off in {_place(self.netns)}")
        return tuple(found)

    def _changed(self, was: Port | None) -> str:
        if was is None:
            return f"{self.port.device} has another alias"
        values = [
            ("network", was.network, self.port.network),
            ("address", was.address, self.port.address),
            ("mac", was.mac, self.port.mac),
            ("nat", _word(was.nat), _word(self.port.nat)),
            ("isolate", _word(was.isolated), _word(self.port.isolated)),
            ("home", was.home or "none", self.port.home),
        ]
        return ", ".join(f"{name} {old} -> {new}" for name, old, new in values if old != new) or "the VM's name"

    def _has_other_owner(self, tap: Link) -> bool:
        return self.owner is not None and tap.owner != self.owner

    def _must_go(self, tap: Link) -> bool:
        """Whether it cannot become what it should be: who is on another network may be the last one there."""
        was = Port.read(tap.name, tap.alias)
        return self._has_other_owner(tap) or (was is not None and was.network != self.port.network)

    # --- making

    def _converge(self, host: Host, stage: Stage) -> Handle:
        """Make everything so. Each step is safe to be the last one, and none is taken where it is not needed."""
        stage(f"attaching {self.port.device} to {self.bridge}")
        with locked(host, self.netns):
            links, netns = host.links, self.netns
            state = links.look(netns)
            self._refuse_what_is_not_ours(host, state)
            tap = (state or _EMPTY).links.get(self.port.device)
            if tap and self._must_go(tap):
                self._take_from(host, netns)
            if links.look(netns) is None:
                links.add_namespace(netns, NAMESPACE_ALIAS)
            if self.port.nat and not self._now(host).forwards:
                links.forward(netns=netns)
            self._make_tap(host)  # before its bridge: one without a port is anybody's to remove
            self._load_rules(host)
            self._make_bridge(host)
            tap = self._now(host).links[self.port.device]
            if (tap.master, tap.isolated, tap.up) != (self.bridge, self.port.isolated, True):
                links.change(tap.name, master=self.bridge, isolated=self.port.isolated, up=True, netns=netns)
            return self._handle(tap)

    def _refuse_what_is_not_ours(self, host: Host, state: NetworkState | None) -> None:
        """Raise HostError for what stands in the way, before anything is touched."""
        there = state or _EMPTY
        bridge, tap = there.links.get(self.bridge), there.links.get(self.port.device)
        if bridge and not is_ours(bridge, self.port.network):
            raise _taken(self.bridge, self.netns)
        if tap and tap.kind != "tap":
            raise _taken(tap.name, self.netns)
        if tap is None or not tap.up:
            self._refuse_twin(there)
        if bridge is None or self.port.bridge_address not in bridge.addresses:
            subnet = IPv4Interface(self.port.address).network
            refuse_overlap(host, self.port.network, subnet, self.netns)
        if self.port.nat and state and not state.forwards and not is_our_namespace(state):
            inside = f"ip netns exec {self.netns} " if self.netns else ""
            raise HostError(
                f"the network '{self.port.network}' has nat, and {_place(self.netns)} does not forward packets",
                hint=f"{inside}sysctl -w net.ipv4.ip_forward=1",
            )

    def _refuse_twin(self, state: NetworkState) -> None:
        """Raise HostError when another port has an address of ours: other homes have records of their own."""
        mine = self.port
        for other in all_ports(state):
            same = f"address {mine.ip}" if other.ip == mine.ip else f"MAC {mine.mac}" if other.mac == mine.mac else ""
            if same and other.device != mine.device:
                raise HostError(
                    f"the VM '{other.vm}', on {other.device} in {_place(self.netns)}, has the {same} of '{mine.vm}'",
                    hint=f"stop that VM, which may be of another home, or destroy '{mine.vm}' and apply it again",
                )

    def _make_tap(self, host: Host) -> None:
        """With its alias, and down where that says something new: the rules do not know of it yet."""
        links, port = host.links, self.port
        tap = self._now(host).links.get(port.device)
        if tap is None:
            links.add_tap(port.device, port.alias, owner=self.owner, netns=self.netns)
        elif tap.alias != port.alias or tap.master not in ("", self.bridge):
            if tap.up:
                links.change(tap.name, up=False, netns=self.netns)
            links.change(tap.name, alias=port.alias, netns=self.netns)

    def _load_rules(self, host: Host) -> None:
        state = self._now(host)
        rules = self.rules(ports_of(state, self.port.network))
        if not rules.in_force(state):
            host.links.load_rules(rules.text(), netns=self.netns)

    def _make_bridge(self, host: Host) -> None:
        if self.bridge not in self._now(host).links:
            host.links.add_bridge(self.bridge, bridge_mac(self.port.network), netns=self.netns)
        state = self._now(host)
        bridge = state.links[self.bridge]
        addresses = _bridge_addresses(ports_of(state, self.port.network))
        alias = BRIDGE_ALIAS + self.port.network
        there = (set(bridge.addresses), bridge.alias, bridge.learns_linklocal, bridge.up)
        if there != (set(addresses), alias, False, True):
            host.links.change(
                self.bridge, alias=alias, addresses=addresses, learns_linklocal=False, up=True, netns=self.netns
            )

    def _now(self, host: Host) -> NetworkState:
        return host.links.look(self.netns) or _EMPTY

    # --- taking away

    def _take_from(self, host: Host, netns: str) -> None:
        """The tap; and each network of ours that has no port left, and the namespace when all that goes is ours."""
        links = host.links
        state = links.look(netns)
        if state is None:
            links.remove_namespace(netns)  # a kill can leave the file that it was to have its name by
            return
        tap = state.links.get(self.port.device)
        if tap and tap.kind == "tap":
            self._take_tap(host, netns, state, tap)
        state = links.look(netns) or _EMPTY
        for network in sorted(
            {*unused_networks(state), *([] if ports_of(state, self.port.network) else [self.port.network])}
        ):
            take_network(host, netns, state, network)
        if netns and can_go(links.look(netns) or _EMPTY):
            links.remove_namespace(netns)

    def _take_tap(self, host: Host, netns: str, state: NetworkState, tap: Link) -> None:
        """Down first, so that its neighbours are at ease with the rules whenever we are killed."""
        was = Port.read(tap.name, tap.alias)
        if tap.up:
            host.links.change(tap.name, up=False, netns=netns)
        if was and (rest := [port for port in ports_of(state, was.network) if port.device != tap.name]):
            rules = Rules(was.network, bridge_name(was.network), tuple(rest))
            if not rules.in_force(state):
                host.links.load_rules(rules.text(), netns=netns)
            bridge, addresses = state.links.get(rules.bridge), _bridge_addresses(rest)
            if bridge and is_ours(bridge, was.network) and set(bridge.addresses) != set(addresses):
                host.links.change(bridge.name, addresses=addresses, netns=netns)
        host.links.remove(tap.name, netns=netns)


def take_network(host: Host, netns: str, state: NetworkState, network: str) -> None:
    """Firewall and bridge of a network that has no port; the caller holds the lock."""
    rules = Rules(network, bridge_name(network), ())
    if set(rules.tables) & set(state.tables):
        host.links.load_rules(rules.removal(), netns=netns)
    bridge = state.links.get(rules.bridge)
    if bridge and is_ours(bridge, network):
        host.links.remove(bridge.name, netns=netns)


def _bridge_addresses(ports: Sequence[Port]) -> tuple[str, ...]:
    """The gateway's of every port: a network whose subnet was changed can have two for a while."""
    return tuple(dict.fromkeys(port.bridge_address for port in ports))


def _settled(state: NetworkState, port: Port) -> tuple[list[Port], list[Port]]:
    """The ports that the rules may be of: all that are there, or all that are up."""
    return ports_of(state, port.network), ports_of(state, port.network, up=True)


def locked(host: Host, netns: str) -> AbstractContextManager[None]:
    return host.locked(f"network-{netns}" if netns else "network")


def _taken(device: str, netns: str) -> HostError:
    inside = f"ip netns exec {netns} " if netns else ""
    return HostError(
        f"{_place(netns)} has a network device {device} that is not banger's; it is left as it is",
        hint=f"give the network another name, or see what it is: {inside}ip -d link show {device}",
    )


def _place(netns: str) -> str:
    return f"the network namespace {netns}" if netns else "the host's own network namespace"


def _word(value: bool) -> str:
    return "true" if value else "false"
