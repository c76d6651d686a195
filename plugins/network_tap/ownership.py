"""What of a host's network is ours, and what of that nobody uses. Pure.

A bridge is ours by its address, which follows from its network's name and which it has from the moment it is made; a
namespace by the alias of its `lo`, which it has before it has a name.
"""

from __future__ import annotations

from banger.host import Link, NetworkState

from .names import bridge_mac
from .rules import ports_of

NAMESPACE_ALIAS = "made by banger"
"""On `lo` of a namespace that is ours to remove."""
BRIDGE_ALIAS = "banger network "
"""On a bridge, before its network's name."""
_FALLBACK_KINDS = frozenset({
    "erspan", "gre", "gretap", "ip6erspan", "ip6gre", "ip6gretap", "ip6tnl", "ipip", "sit", "vti", "vti6",
})  # fmt: skip


def unused_networks(state: NetworkState) -> list[str]:
    """The networks of ours that have a bridge and no port."""
    named = [(link, link.alias.removeprefix(BRIDGE_ALIAS)) for link in state.links.values()]
    return [network for link, network in named if is_ours(link, network) and not ports_of(state, network)]


def can_go(state: NetworkState) -> bool:
    """Whether a namespace is ours and has nothing in it: neither networks of ours, nor what somebody put there."""
    return is_our_namespace(state) and not any(map(_is_somebodys, state.links.values()))


def is_ours(bridge: Link, network: str) -> bool:
    return bridge.kind == "bridge" and bridge.mac == bridge_mac(network)


def _is_somebodys(link: Link) -> bool:
    """Not `lo`, nor one of those that the kernel puts into every new namespace, which are down."""
    return link.name != "lo" and (link.up or link.kind not in _FALLBACK_KINDS)


def is_our_namespace(state: NetworkState) -> bool:
    return "lo" in state.links and state.links["lo"].alias == NAMESPACE_ALIAS
