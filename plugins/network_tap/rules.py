"""A network's ports and the firewall rules that follow from them. Pure.

What a port is, is written on its tap (its alias, ip-link(8)). So the rules are a function of the taps that are there,
whoever made them, and each VM can be added and taken away without knowing of the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from banger.host import NetworkState

_ALIAS = re.compile(
    r"banger tap ([a-z0-9-]+) ([a-z0-9-]+) ([0-9a-f:]{17}) ([0-9.]+/\d+) ([0-9.]+)"
    r"( nat)?( open)?(?: home ([0-9a-f]{8}))?"
)


@dataclass(frozen=True, slots=True)
class Port:
    """One VM's place in a network. `address` is the guest's, `gateway` the bridge's; `vm` is the VM's name.

    `isolated`: it neither reaches another guest of the network nor is reached by one, whatever that one is.
    """

    device: str
    network: str
    vm: str
    mac: str
    address: str
    gateway: str
    nat: bool
    isolated: bool = True
    home: str = ""
    """The mark of the home that it is of."""

    @property
    def alias(self) -> str:
        """What is written on the tap: at most 255 bytes."""
        flags = f"{' nat' if self.nat else ''}{'' if self.isolated else ' open'}"
        flags += f" home {self.home}" if self.home else ""
        return f"banger tap {self.network} {self.vm} {self.mac} {self.address} {self.gateway}{flags}"

    @classmethod
    def read(cls, device: str, alias: str) -> Port | None:
        """The port that an alias tells of; None when it is none of ours."""
        found = _ALIAS.fullmatch(alias)
        if found is None:
            return None
        network, vm, mac, address, gateway, nat, is_open, home = found.groups()
        return cls(device, network, vm, mac, address, gateway, bool(nat), not is_open, home or "")

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    @property
    def bridge_address(self) -> str:
        return f"{self.gateway}/{self.address.partition('/')[2]}"


def all_ports(state: NetworkState, *, up: bool = False) -> list[Port]:
    """The ports of all networks that are there, whoever made them; with `up`, those that are in use."""
    taps = [link for link in state.links.values() if link.kind == "tap" and (link.up or not up)]
    return [port for link in taps if (port := Port.read(link.name, link.alias))]


def ports_of(state: NetworkState, network: str, *, up: bool = False) -> list[Port]:
    """The network's ports that are there; with `up`, those that are in use."""
    return sorted((port for port in all_ports(state, up=up) if port.network == network), key=lambda port: port.device)


@dataclass(frozen=True, slots=True)
class Rules:
    """The firewall of one network: what its guests may say, and where they reach."""

    network: str
    bridge: str
    ports: tuple[Port, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self._bodies())

    @property
    def digest(self) -> str:
        """The comment of all tables."""
        return hashlib.sha256("".join(self._bodies().values()).encode()).hexdigest()

    def in_force(self, state: NetworkState) -> bool:
        """Whether the tables that are there were made of these rules."""
        return all(state.tables.get(table) == self.digest for table in self.tables)

    def text(self) -> str:
        """For nft(8): all tables, in the place of what they were."""
        return "".join(
            f'{_without(table)}table {table} {{\n\tcomment "{self.digest}"\n{body}}}\n'
            for table, body in self._bodies().items()
        )

    def removal(self) -> str:
        """For nft(8): none of the tables."""
        return "".join(map(_without, self.tables))

    def _bodies(self) -> dict[str, str]:
        """What is in each table, by its family and name."""
        name = f"banger-{self.network}"
        return {f"bridge {name}": self._frames(), f"inet {name}": self._strays(), f"ip {name}": self._packets()}

    def _frames(self) -> str:
        """Nothing comes from a guest but IPv4 and ARP, and that only as from itself.

        IPv6 too is dropped: guests are given none, and by link-local addresses they would get past the other table.
        What is forwarded goes from one guest to another: the kernel's own isolation is only that of two isolated ports.
        """
        devices = _elements(f'"{port.device}"' for port in self.ports)
        ip = _elements(f'"{port.device}" . {port.mac} . {port.ip}' for port in self.ports)
        arp = _elements(f'"{port.device}" . {port.mac} . {port.mac} . {port.ip}' for port in self.ports)
        isolated = _elements(f'"{port.device}"' for port in self.ports if port.isolated)
        return f"""\
	set guests {{
		type ifname
{devices}	}}
	set speakers {{
		type ifname . ether_addr . ipv4_addr
{ip}	}}
	set owners {{
		type ifname . ether_addr . ether_addr . ipv4_addr
{arp}	}}
	set isolated {{
		type ifname
{isolated}	}}
	chain prerouting {{
		type filter hook prerouting priority dstnat; policy accept;
		iifname != @guests accept
		iifname . ether saddr . ip saddr @speakers accept
		iifname . ether saddr . arp saddr ether . arp saddr ip @owners accept
		drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname @isolated drop
		oifname @isolated drop
	}}
"""

    def _strays(self) -> str:
        """A tap is no way to the host but by its bridge.

        A frame to a bridge itself (IEEE 802.1D, 7.12.6) is not bridged, and what it carries is the tap's own to
        receive, past both other tables.
        """
        devices = _elements(f'"{port.device}"' for port in self.ports)
        return f"""\
	set guests {{
		type ifname
{devices}	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname @guests drop
	}}
"""

    def _packets(self) -> str:
        """Guests answer their host; those with nat reach what it reaches. The rest is refused, which ends at once.

        A guest can have its host forward what it sends to another one, by sending it to the bridge's own hardware
        address. Where the kernel has br_netfilter, what one guest sends another directly is forwarded here too.
        """
        isolated = _elements(port.ip for port in self.ports if port.isolated)
        nat = _elements(port.ip for port in self.ports if port.nat)
        return f"""\
	set nat {{
		type ipv4_addr
{nat}	}}
	set isolated {{
		type ipv4_addr
{isolated}	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname != "{self.bridge}" accept
		ct state established,related accept
		ip saddr @nat accept
		icmp type echo-request accept
		reject
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{self.bridge}" oifname "{self.bridge}" ip saddr @isolated drop
		iifname "{self.bridge}" oifname "{self.bridge}" ip daddr @isolated drop
		iifname "{self.bridge}" oifname "{self.bridge}" accept
		oifname "{self.bridge}" ct state established,related accept
		oifname "{self.bridge}" drop
		iifname != "{self.bridge}" accept
		ip saddr @nat accept
		reject
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @nat oifname != "{self.bridge}" masquerade
	}}
"""


def _without(table: str) -> str:
    """Deleting a table that is not there is an error, and making one that is there is none."""
    return f"table {table}\ndelete table {table}\n"


def _elements(elements: Iterable[str]) -> str:
    """A set's line of elements; nft refuses an empty one."""
    listed = ", ".join(elements)
    return f"\t\telements = {{ {listed} }}\n" if listed else ""
