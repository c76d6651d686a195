"""Who a VM is on its host: its process, its network card, where its sshd is reached.

Apart from the other values because `banger vm list` needs these alone, and making a dataclass costs a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for another: its pid and its start time (proc(5) stat field 22, in ticks)."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class SshEndpoint:
    """Where the host reaches a guest's sshd. `netns`: the network namespace it is reached from; empty: the host's."""

    host: str
    port: int
    netns: str = ""


@dataclass(frozen=True, slots=True)
class Nic:
    """A VM's network card. Allocated once and kept in the durable record, so all of it is intent."""

    network: str
    plugin: str
    mac: str
    address: str
    """Guest address with prefix length: `10.0.2.15/24`."""
    gateway: str
    dns: str
    ssh: SshEndpoint

    @property
    def ip(self) -> str:
        """The guest's address without its prefix length."""
        return self.address.partition("/")[0]


def mac_address(vm_id: str) -> str:
    """A card's address made of the VM's id, with the prefix that QEMU's cards have."""
    import hashlib  # `banger vm list` needs none of this

    return "52:54:00:" + hashlib.sha256(vm_id.encode()).digest()[:3].hex(":")
