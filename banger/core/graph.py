"""What a playbook asks for as a graph: the resources that an apply would put together, and what each stands on.

It is made of the drafts that `apply --check` plans with, so the host is only looked at. What VMs share, images and
networks, is there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from banger.core.assemble import split_by_wish
from banger.core.converge import ApplyOptions, Run
from banger.core.guest_files import GuestFiles
from banger.core.images import ImagePlan
from banger.core.members import Member
from banger.core.playbook import load
from banger.core.session import Session
from banger.resource import Resource

Kind = Literal["image", "network", "vm"]
Edge = tuple[str, str]
"""(what is needed, what needs it), by key."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that belong together, by key and in the order they are made: those of an image, a network or a VM."""

    kind: Kind
    name: str
    keys: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{'VM' if self.kind == 'vm' else self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Graph:
    """Every key is in one group. An edge that others imply is not there."""

    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for group in self.groups for key in group.keys)

    def layers(self, keys: Iterable[str]) -> dict[str, int]:
        """How many steps each of these keys is from the first, by the longest way among them."""
        found: dict[str, int] = {}
        wanted = set(keys)
        needed = {key: [before for before, after in self.edges if after == key and before in wanted] for key in wanted}

        def layer(key: str) -> int:
            if key not in found:
                found[key] = 1 + max((layer(before) for before in needed[key]), default=-1)
            return found[key]

        return {key: layer(key) for key in sorted(wanted)}


def graph_of(session: Session, path: Path, extra_vars: Mapping[str, Any]) -> Graph:
    """The graph of all VMs of a playbook that are to be, and of what they stand on. Raises PlaybookError.

    An image is all that it takes to build it, built or not; of a stopped VM there is what a stopped one has.
    """
    playbook = load(path, session.plugins.declared(), extra_vars)
    run = Run(session, playbook, ApplyOptions(check=True, extra_vars=extra_vars), {})
    images = run.check()
    members = run.drafts
    used = {member.request.image: images[member.request.image] for member in members}
    groups: dict[tuple[Kind, str], dict[str, Resource | None]] = {}
    edges: list[Edge] = []
    for image in used.values():
        groups["image", image.name] = {resource.key: resource for resource in image.resources}
    for member in members:
        network = member.vm.nic.network
        groups["network", network] = {_network_key(network): None}
    for member in members:
        resources, _ = split_by_wish(member.resources, running=member.vm.running)
        own = {resource.key: resource for resource in resources if _is_own(resource, member)}
        groups["vm", member.vm.name] = {**own}
        groups["image", member.request.image] |= {each.key: each for each in resources if each.key not in own}
        edges += _shared_edges(member, resources, used[member.request.image])
    placed: dict[str, Resource | None] = {}
    made = []
    for (kind, name), nodes in groups.items():
        made.append(Group(kind, name, tuple(key for key in nodes if key not in placed)))
        placed |= nodes
    edges += [(need, key) for key, resource in placed.items() if resource for need in resource.needs]
    return Graph(tuple(made), _reduced([edge for edge in edges if placed.keys() >= set(edge)]))


def _is_own(resource: Resource, member: Member) -> bool:
    """A shared thing is keyed by what it belongs to."""
    return resource.key.startswith(f"{member.vm.name}/")


def _shared_edges(member: Member, resources: Sequence[Resource], image: ImagePlan) -> list[Edge]:
    """Disks, and what VMMs share, are made of the image; the card (or the VMM, where that has it) is on the network."""
    of_disks = [need for disk in resources if isinstance(disk, GuestFiles) for need in disk.needs]
    of_image = [*of_disks, *(resource.key for resource in resources if not _is_own(resource, member))]
    network = _network_key(member.vm.nic.network)
    cards = [resource.key for resource in resources if resource.key.startswith(f"{member.vm.name}/network/")]
    return [
        *((image.resources[-1].key, key) for key in of_image),
        *((network, key) for key in cards or [member.vm.vmm_key]),
    ]


def _network_key(name: str) -> str:
    return f"network/{name}"


def _reduced(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Without every edge whose two ends a longer way joins (the transitive reduction)."""
    after: dict[str, list[str]] = {}
    for needed, key in dict.fromkeys(edges):
        after.setdefault(needed, []).append(key)

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        ahead = list(after.get(start, ()))
        while ahead:
            key = ahead.pop()
            if key not in found:
                found.add(key)
                ahead += after.get(key, ())
        return found

    far = {key: reached(key) for key in after}
    return tuple(
        (needed, key)
        for needed, keys in after.items()
        for key in keys
        if not any(key in far.get(other, ()) for other in keys)
    )
