"""The network kind `user`: QEMU's own user-mode network. No kernel object, no root; ssh comes in by a loopback port.

Every guest has a private network of its own (10.0.2.0/24), so all of them have the same address and differ by port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from banger.errors import HostError
from banger.hooks import hookimpl
from banger.host import HostView
from banger.identity import mac_address
from banger.types import Network, NetworkKind, NetworkSetup, Nic, SshEndpoint, UserAttachment, Vm

NAME = "user"
LOOPBACK = "127.0.0.1"
PORTS = range(22200, 32001)
"""Below the range that Linux gives to outgoing connections (32768 and up, ip(7))."""
SSH_PORT = 22


@dataclass(frozen=True)
class UserNetworkOptions:
    """What a playbook may say of a network of this kind."""

    outbound: bool = True
    """Whether guests can reach out (to the host's own services, too); False: only the ssh port comes in."""


@hookimpl
def register_network_kind() -> NetworkKind:
    return NetworkKind(NAME, UserNetworkOptions)


@hookimpl
def allocate_nic(network: Network, vm_id: str, taken: Sequence[Nic], host: HostView) -> Nic:
    """Addresses as QEMU's user network has them, and the first port that nobody has been given or holds."""
    given = {nic.ssh.port for nic in taken}
    port = next((port for port in PORTS if port not in given and host.network.port_is_free(LOOPBACK, port)), None)
    if port is None:
        raise HostError(
            f"no port is left for ssh to a new VM: all of {PORTS.start} to {PORTS.stop - 1} on {LOOPBACK} are taken",
            hint="banger destroy what is not needed any more",
        )
    return Nic(
        network=network.name,
        plugin=network.plugin,
        mac=mac_address(vm_id),
        address="10.0.2.15/24",
        gateway="10.0.2.2",
        dns="10.0.2.3",
        ssh=SshEndpoint(LOOPBACK, port),
    )


@hookimpl
def setup_network(vm: Vm) -> NetworkSetup:
    options = vm.network.options if vm.network and vm.network.options else UserNetworkOptions()
    return NetworkSetup((), UserAttachment(options.outbound, ((vm.nic.ssh.host, vm.nic.ssh.port, SSH_PORT),)))
