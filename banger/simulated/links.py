"""Network devices in memory. A part of `banger.testing`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from banger.errors import CommandError, HostError
from banger.host import Link, NetworkState, Route

if TYPE_CHECKING:
    from banger.testing import SimulatedHost

_TABLE = re.compile(r"^(delete )?table (\w+ [\w.-]+)(?: \{\n\s*comment \"([^\"]*)\")?", re.MULTILINE)


@dataclass
class SimulatedNamespace:
    """One network namespace. `foreign_routes` are there besides those of its devices' addresses."""

    links: dict[str, Link] = field(default_factory=lambda: {"lo": Link("lo", 1, "", "00:00:00:00:00:00", True)})
    tables: dict[str, str] = field(default_factory=dict)
    foreign_routes: list[Route] = field(default_factory=list)
    forwards: bool = False
    rules: str = ""
    """The last rules that were loaded."""


class SimulatedLinks:
    """`banger.host.Links` in memory: `of` each namespace by name, the host's own by `""`.

    `refused`: why taps and bridges cannot be had; `user`: the user id that owns what is made.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.of: dict[str, SimulatedNamespace] = {"": SimulatedNamespace()}
        self.refused: HostError | None = None
        self.user = 0
        self._host = host
        self._index = itertools.count(2)

    def look(self, netns: str = "") -> NetworkState | None:
        there = self.of.get(netns)
        return None if there is None else NetworkState(dict(there.links), dict(there.tables), there.forwards)

    def routes(self, netns: str = "") -> list[Route]:
        from ipaddress import IPv4Interface

        there = self.of.get(netns) or SimulatedNamespace()
        own = [
            Route(str(IPv4Interface(address).network), link.name)
            for link in there.links.values()
            for address in link.addresses
            if link.up
        ]
        return own + there.foreign_routes

    def namespaces(self) -> list[str]:
        return sorted(name for name in self.of if name)

    def refusal(self, rules: str = "") -> HostError | None:
        return self.refused

    def add_namespace(self, name: str, alias: str) -> None:
        with self._host.effect(f"links.add_namespace {name}"):
            if name in self.of:
                raise HostError(f"the network namespace {name} cannot be made: there is one")
            self.of[name] = SimulatedNamespace()
            self.of[name].links["lo"] = replace(self.of[name].links["lo"], alias=alias)

    def remove_namespace(self, name: str) -> None:
        with self._host.effect(f"links.remove_namespace {name}"):
            self.of.pop(name, None)

    def add_bridge(self, name: str, mac: str, *, netns: str = "") -> None:
        with self._host.effect(f"links.add_bridge {name}"):
            self._add(Link(name, next(self._index), "bridge", mac, up=False), netns)

    def add_tap(self, name: str, alias: str, *, owner: int | None = None, netns: str = "") -> None:
        with self._host.effect(f"links.add_tap {name}"):
            owner = self.user if owner is None else owner
            self._add(Link(name, next(self._index), "tap", "", up=False, alias=alias, owner=owner), netns)

    def change(
        self,
        name: str,
        *,
        alias: str | None = None,
        addresses: Sequence[str] | None = None,
        master: str | None = None,
        isolated: bool | None = None,
        learns_linklocal: bool | None = None,
        up: bool | None = None,
        netns: str = "",
    ) -> None:
        with self._host.effect(f"links.change {name}"):
            links = self._namespace(netns).links
            for device in (name, master):
                if device and device not in links:
                    raise HostError(f"the network device {name} cannot be changed: there is no device {device}")
            if isolated is not None and not (links[name].master if master is None else master):
                raise HostError(f"the network device {name} cannot be changed: it is not a port of a bridge")
            if learns_linklocal is not None and links[name].kind != "bridge":
                raise HostError(f"the network device {name} cannot be changed: it is not a bridge")
            links[name] = replace(
                links[name],
                alias=links[name].alias if alias is None else alias,
                addresses=links[name].addresses if addresses is None else tuple(addresses),
                master=links[name].master if master is None else master,
                isolated=bool(isolated) if master is not None or isolated is not None else links[name].isolated,
                learns_linklocal=links[name].learns_linklocal if learns_linklocal is None else learns_linklocal,
                up=links[name].up if up is None else up,
            )

    def remove(self, name: str, *, netns: str = "") -> None:
        with self._host.effect(f"links.remove {name}"):
            links = self._namespace(netns).links
            links.pop(name, None)
            for each in [link for link in links.values() if link.master == name]:
                links[each.name] = replace(each, master="", isolated=False)

    def load_rules(self, rules: str, *, netns: str = "") -> None:
        """Of nft's language this knows only tables: made, with a comment, and deleted."""
        with self._host.effect("links.load_rules"):
            there = self._namespace(netns)
            tables = dict(there.tables)
            for deleted, name, comment in _TABLE.findall(rules):
                if deleted and name not in tables:
                    raise CommandError(f"nft: there is no table {name}")
                if deleted:
                    del tables[name]
                else:
                    tables[name] = comment or tables.get(name, "")
            there.tables, there.rules = tables, rules

    def forward(self, *, netns: str) -> None:
        with self._host.effect("links.forward"):
            self._namespace(netns).forwards = True

    def clear(self) -> None:
        """A reboot leaves none of it."""
        self.of = {"": SimulatedNamespace(foreign_routes=self.of[""].foreign_routes, forwards=self.of[""].forwards)}

    def _add(self, link: Link, netns: str) -> None:
        links = self._namespace(netns).links
        if link.name in links:
            raise HostError(f"the {link.kind} {link.name} cannot be made: there is a device of this name")
        links[link.name] = link

    def _namespace(self, name: str) -> SimulatedNamespace:
        if name not in self.of:
            raise HostError(f"there is no network namespace {name} on this host")
        return self.of[name]
