"""QEMU's user network: addresses by the VM's id, ports that nobody else has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import banger_network_user as plugin
import pytest

from banger.errors import HostError
from banger.identity import mac_address
from banger.testing import SimulatedHost
from banger.types import HostKey, Network, Nic, SshEndpoint, UserAttachment, Vm

LAB = Network("lab", "user", plugin.UserNetworkOptions())


def vm(nic: Nic, network: Network | None) -> Vm:
    return Vm(
        *(Path("/vms/id1"), "id1", "web-1", "debian", 1, 2**29, 2**32, None, "overlay", "ext4", "qemu", nic, ()),
        host_key=HostKey("private", "public"),
        network=network,
    )


def test_nic_of_a_first_vm_has_the_user_networks_addresses_and_the_first_port() -> None:
    nic = plugin.allocate_nic(LAB, "id1", (), SimulatedHost())
    assert (nic.network, nic.plugin, nic.address, nic.gateway, nic.dns, nic.ssh) == (
        *("lab", "user", "10.0.2.15/24", "10.0.2.2", "10.0.2.3"),
        SshEndpoint("127.0.0.1", 22200),
    )


def test_mac_is_a_function_of_the_vms_id() -> None:
    addresses = {mac_address(str(number)) for number in range(100)}
    assert len(addresses) == 100
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", address) for address in addresses)
    assert mac_address("7") in addresses


def test_nic_passes_over_ports_given_to_others_and_ports_in_use() -> None:
    host = SimulatedHost()
    first = plugin.allocate_nic(LAB, "id1", (), host)
    second = replace(first, ssh=SshEndpoint("127.0.0.1", 22201))
    host.network.taken = {22202}
    assert plugin.allocate_nic(LAB, "id3", (first, second), host).ssh.port == 22203


def test_nic_without_a_port_left_is_a_host_error() -> None:
    host = SimulatedHost()
    host.network.taken = set(plugin.PORTS)
    with pytest.raises(HostError, match="no port is left"):
        plugin.allocate_nic(LAB, "id1", (), host)


@pytest.mark.parametrize(
    ("network", "outbound"),
    [(None, True), (LAB, True), (replace(LAB, options=plugin.UserNetworkOptions(outbound=False)), False)],
)
def test_setup_makes_nothing_on_the_host_and_forwards_ssh(network: Network | None, outbound: bool) -> None:
    nic = plugin.allocate_nic(LAB, "id1", (), SimulatedHost())
    setup = plugin.setup_network(vm(nic, network))
    assert setup.resources == ()
    assert setup.attachment == UserAttachment(outbound, (("127.0.0.1", 22200, 22),))
