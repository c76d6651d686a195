"""What a playbook may say of a network of this kind."""

from __future__ import annotations

from dataclasses import dataclass

from banger.scalars import Ipv4Address, NamespaceName, Subnet

_DEFAULT_SUBNET = Subnet.parse("172.16.0.0/24")
_OWN, _NONE = NamespaceName(""), Ipv4Address("")


@dataclass(frozen=True)
class TapNetworkOptions:
    """All of it is plain text and booleans: it is recorded as JSON, and made of that again."""

    subnet: Subnet = _DEFAULT_SUBNET
    """The bridge has its first address."""
    netns: NamespaceName = _OWN
    """The network namespace that bridge and taps are in, made where there is none; empty: the host's own."""
    nat: bool = False
    """Whether guests reach what the host reaches, under the host's address; False: they only answer the host."""
    isolate: bool = True
    """Whether guests are kept from each other."""
    dns: Ipv4Address = _NONE
    """Their name server; empty: the host's own with `nat`, else the bridge, where nobody answers."""
