"""The tap network with a real kernel: guests that speak through their taps, in namespaces of the test's own."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import banger_network_tap as plugin
import pytest
from banger_network_tap.names import bridge_mac
from banger_network_tap.port import TapPort
from banger_network_tap.rules import Rules

from banger.errors import CommandError, HostError
from banger.host import Links, LinksView, NetworkState
from banger.linux import netns
from banger.linux.host import LinuxHost
from banger.needs import Finding
from banger.resource import Absent, Drifted, Leftover, Present
from banger.types import HostKey, Network, Nic, Vm
from tests.networks import (
    IPV4,
    IPV6,
    Guest,
    arp_request,
    carries,
    datagram,
    echo_request,
    ethernet,
    inside_a_new_namespace,
    is_arp,
    is_icmp,
    namespace_name,
    new_namespace,
)

NETWORK = f"lab-{uuid.uuid4().hex[:6]}"
IDS = tuple(uuid.uuid4().hex[:10] for _ in range(3))
"""Both are of this process alone: they are looked for in all namespaces, also in those of tests beside these."""
BRIDGE, BRIDGE_MAC, BRIDGE_IP = f"bgr-{NETWORK}", bridge_mac(NETWORK), "172.16.0.1"
LLDP = 0x88CC
HEARD_S = 20.0
SILENCE_S = 0.15
"""How long nothing must come, where something would come at once."""


@pytest.fixture
def host(tmp_path: Path) -> LinuxHost:
    return LinuxHost(tmp_path / "cache")


@pytest.fixture
def name() -> Iterator[str]:
    with namespace_name() as name:
        yield name


def ports(host: LinuxHost, number: int, **options: Any) -> list[TapPort]:
    """The ports of so many VMs of one network; nothing is made yet."""
    network = Network(options.pop("name", NETWORK), "tap", plugin.TapNetworkOptions(**options))
    cards: list[Nic] = []
    found = []
    for index, vm_id in enumerate(IDS[:number]):
        cards.append(plugin.allocate_nic(network, vm_id, cards, host))
        where = Path(f"/vms/{vm_id}")
        vm = Vm(
            *(where, vm_id, f"web-{index}", "debian", 1, 2**29, 2**32, None, "overlay", "ext4", "qemu"),
            *(cards[-1], ()),
            host_key=HostKey("", ""),
            network=network,
        )
        found += plugin.setup_network(vm).resources
    return found


def create(host: LinuxHost, *made: TapPort) -> None:
    for each in made:
        each.create(host, {}, lambda _: None)


def remove(host: LinuxHost, *gone: TapPort) -> None:
    for each in gone:
        each.remove(host, None, lambda _: None)


@contextmanager
def guests(host: LinuxHost, *given: TapPort) -> Iterator[list[Guest]]:
    """Whose taps are made, opened, and removed in the end."""
    with ExitStack() as stack:
        stack.callback(remove, host, *given)
        create(host, *given)
        taps = [(each.port.device, each.port.mac, each.port.ip, each.netns) for each in given]
        yield [stack.enter_context(Guest.on(*tap)) for tap in taps]


def look(host: LinuxHost, name: str) -> NetworkState:
    state = host.links.look(name)
    assert state is not None
    return state


# --- what is made, and what is left


def test_port_is_as_wanted_and_goes_with_bridge_rules_and_namespace(host: LinuxHost, name: str) -> None:
    first, second = ports(host, 2, netns=name, nat=True)
    assert first.observe(host, None) == Absent()
    create(host, first, second)
    assert isinstance(first.observe(host, None), Present)
    assert isinstance(second.observe(host, None), Present)
    state = look(host, name)
    tap = state.links[first.port.device]
    assert (tap.master, tap.isolated, tap.up, tap.owner) == (BRIDGE, True, True, os.geteuid())
    assert state.links[BRIDGE].addresses == ("172.16.0.1/24",)
    assert set(state.tables) == {f"{family} banger-{NETWORK}" for family in ("bridge", "inet", "ip")}
    remove(host, first)
    assert first.observe(host, None) == Absent()
    assert isinstance(second.observe(host, None), Present)
    remove(host, second)
    assert host.links.look(name) is None
    assert not (netns.NAMED / name).exists()
    remove(host, second)


def test_tap_of_a_vm_that_is_not_known_is_a_leftover_of_its_own_home_alone(host: LinuxHost, name: str) -> None:
    first, second = ports(host, 2, netns=name)
    create(host, first, second)

    def found(vms: str, *known: str) -> list[Leftover]:
        return [each for each in plugin.find_leftovers(Path(vms), known, host) if name in each.what]

    assert found("/vms", *IDS[:2]) == []
    assert [(each.vm_id, each.resource, each.why) for each in found("/elsewhere/vms", IDS[0])] == [
        (IDS[1], None, "another home's")
    ]
    (leftover,) = found("/vms", IDS[0])
    assert leftover.resource is not None
    leftover.resource.discard(host, None, lambda _: None)
    assert found("/vms", IDS[0]) == []
    assert isinstance(first.observe(host, None), Present)
    host.links.remove(first.port.device, netns=name)
    (leftover,) = found("/vms", *IDS[:2])
    assert leftover.resource is not None and "has no tap" in leftover.what
    leftover.resource.discard(host, None, lambda _: None)
    assert host.links.look(name) is None


def test_ports_are_taken_away_by_hand_the_last_one_with_all_else(host: LinuxHost, name: str) -> None:
    first, second = ports(host, 2, netns=name, nat=True)
    create(host, first, second)
    assert by_hand(first)
    assert first.observe(host, None) == Absent()
    assert {second.port.device, BRIDGE} < set(look(host, name).links)
    assert len(look(host, name).tables) == 3
    second.update(host, {}, lambda _: None)
    assert isinstance(second.observe(host, None), Present)
    host.links.add_bridge("mine", "52:54:00:00:00:07", netns=name)
    assert by_hand(second)
    assert set(look(host, name).links) == {"lo", "mine"}, "what is somebody's keeps the namespace"
    host.links.remove("mine", netns=name)
    assert by_hand(second)
    assert host.links.look(name) is None
    assert by_hand(second), "what is gone is gone"


def test_port_of_the_namespace_we_are_in_is_taken_away_by_hand(host: LinuxHost) -> None:
    with inside_a_new_namespace():
        before = look(host, "")
        (only,) = ports(host, 1)
        create(host, only)
        assert by_hand(only)
        assert look(host, "") == before


def by_hand(port: TapPort) -> bool:
    """Whether the lines of a script for the shell went well, and in silence."""
    done = subprocess.run(["sh", "-uc", "\n".join(port.undo_by_hand())], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
    return done.returncode == 0


def test_ports_in_the_namespace_we_are_in_leave_it_as_it_was(host: LinuxHost) -> None:
    with inside_a_new_namespace():
        before = look(host, "")
        first, second = ports(host, 2)
        create(host, first, second)
        assert isinstance(second.observe(host, None), Present)
        remove(host, first, second)
        assert look(host, "") == before


def test_rules_that_somebody_flushed_are_told_and_loaded_again(host: LinuxHost, name: str) -> None:
    (port,) = ports(host, 1, netns=name)
    with guests(host, port) as [guest]:
        host.links.load_rules("flush ruleset", netns=name)
        seen = port.observe(host, None)
        assert isinstance(seen, Drifted) and seen.live
        assert seen.differences == (f"the firewall rules of {NETWORK} are not in force",)
        port.update(host, seen.handle, lambda _: None)
        assert isinstance(port.observe(host, None), Present)
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC


def test_foreign_bridge_is_refused_and_untouched(host: LinuxHost) -> None:
    with new_namespace() as name:
        host.links.add_bridge(BRIDGE, "02:00:00:00:00:01", netns=name)
        host.links.change(BRIDGE, up=True, addresses=["192.0.2.1/24"], netns=name)
        before = look(host, name)
        (port,) = ports(host, 1, netns=name)
        with pytest.raises(HostError, match=f"a network device {BRIDGE} that is not banger's"):
            create(host, port)
        remove(host, port)
        assert look(host, name) == before


def test_subnet_that_overlaps_a_route_is_refused_by_its_name(host: LinuxHost) -> None:
    with new_namespace() as name:
        host.links.add_bridge("office", "02:00:00:00:00:01", netns=name)
        host.links.change("office", addresses=["172.16.0.200/22"], up=True, netns=name)
        with pytest.raises(
            HostError, match=rf"172.16.0.0/24 of the network '{NETWORK}' overlaps the route to 172.16.0.0/22 by office"
        ):
            ports(host, 1, netns=name)
        (port,) = ports(host, 1, netns=name, subnet="172.16.4.0/24")
        host.links.change("office", addresses=["172.16.4.7/16"], netns=name)
        with pytest.raises(HostError, match=r"overlaps the route to 172.16.0.0/16 by office"):
            create(host, port)
        assert set(look(host, name).links) >= {"lo", "office"}
        assert port.port.device not in look(host, name).links


def test_nat_in_a_namespace_of_somebody_needs_its_forwarding(host: LinuxHost) -> None:
    with new_namespace() as name:
        (port,) = ports(host, 1, netns=name, nat=True)
        with pytest.raises(HostError, match="does not forward packets"):
            create(host, port)
        assert not look(host, name).forwards
        host.links.forward(netns=name)
        create(host, port)
        assert isinstance(port.observe(host, None), Present)
        remove(host, port)
        assert look(host, name).links["lo"].name == "lo"


def test_rules_of_every_kind_of_network_are_accepted(host: LinuxHost) -> None:
    with inside_a_new_namespace():
        for nat in (True, False):
            (port,) = ports(host, 1, name="n" * 63, nat=False)
            port = replace(port, port=replace(port.port, nat=nat))
            rules = port.rules([port.port])
            host.links.load_rules(rules.text())
            assert rules.in_force(look(host, ""))
            host.links.load_rules(rules.removal())
            assert look(host, "").tables == {}


def test_need_tries_the_rules_themselves_and_leaves_nothing(host: LinuxHost, monkeypatch: pytest.MonkeyPatch) -> None:
    need = next(each for each in plugin.register_needs() if "firewalled" in each.name)
    with inside_a_new_namespace():
        before = look(host, "")
        assert need.check(host) == Finding(True, "can be made")
        assert look(host, "") == before
    whole = Rules.text
    monkeypatch.setattr(Rules, "text", lambda rules: whole(rules).replace("masquerade", "masks"))
    found = need.check(host)
    assert not found.met
    assert re.search(r"its firewall cannot be made: .*stdin:\d+", found.found)
    assert "CONFIG_NFT_MASQ" in found.cure


# --- what guests can say and hear


def test_guest_is_heard_as_itself_and_as_nobody_else(host: LinuxHost, name: str) -> None:
    with guests(host, *ports(host, 2, netns=name)) as [guest, other]:
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
        unasked = "172.16.0.99"  # so that no late answer is taken for one to what was forged
        host.links.change(BRIDGE, addresses=[f"{BRIDGE_IP}/24", f"{unasked}/24"], netns=name)
        for forged in (
            arp_request(other.mac, guest.ip, unasked),
            arp_request(guest.mac, other.ip, unasked),
            arp_request(guest.mac, guest.ip, unasked, claimed_mac=other.mac),
        ):
            guest.send(forged)
            assert not guest.hears(is_arp(2, by=unasked), SILENCE_S)
        assert guest.address_of(unasked) == BRIDGE_MAC


LINK_LOCAL = ("01:80:c2:00:00:00", "01:80:c2:00:00:02", "01:80:c2:00:00:03", "01:80:c2:00:00:0e")
"""Whom a bridge listens to itself (IEEE 802.1D, 7.12.6); not all of it passes the firewall."""


@pytest.mark.parametrize("destination", LINK_LOCAL)
def test_guest_does_not_take_its_neighbours_place_on_the_bridge(host: LinuxHost, name: str, destination: str) -> None:
    with guests(host, *ports(host, 2, netns=name)) as [guest, other], bound(name, BRIDGE_IP, 9) as sender:
        assert guest.address_of(BRIDGE_IP) == other.address_of(BRIDGE_IP) == BRIDGE_MAC
        guest.send(ethernet(other.mac, destination, LLDP, bytes(46)))
        sender.sendto(b"secret", (other.ip, 9))
        assert other.hears(carries(b"secret"))
        assert not guest.hears(carries(b"secret"), SILENCE_S)


def test_bridge_that_learns_what_it_should_not_is_mended_in_place(host: LinuxHost, name: str) -> None:
    (port,) = ports(host, 1, netns=name)
    with guests(host, port):
        host.links.change(BRIDGE, learns_linklocal=True, netns=name)
        seen = port.observe(host, None)
        assert isinstance(seen, Drifted) and seen.live
        port.update(host, seen.handle, lambda _: None)
        assert isinstance(port.observe(host, None), Present)


def test_packets_with_anothers_address_are_dropped(host: LinuxHost, name: str) -> None:
    with guests(host, *ports(host, 2, netns=name)) as [guest, other]:
        assert guest.address_of(BRIDGE_IP) == other.address_of(BRIDGE_IP) == BRIDGE_MAC
        guest.send(ethernet(guest.mac, BRIDGE_MAC, IPV4, echo_request(guest.ip, BRIDGE_IP)))
        assert guest.hears(is_icmp(0, by=BRIDGE_IP))
        for mac, ip in ((guest.mac, other.ip), (other.mac, guest.ip), (guest.mac, "192.0.2.1")):
            guest.send(ethernet(mac, BRIDGE_MAC, IPV4, echo_request(ip, BRIDGE_IP)))
        assert not guest.hears(is_icmp(0, by=BRIDGE_IP), SILENCE_S)
        assert not other.hears(is_icmp(0, by=BRIDGE_IP), SILENCE_S)


@pytest.mark.parametrize("isolate", [True, False])
def test_guests_hear_each_other_only_when_they_are_not_isolated(host: LinuxHost, name: str, isolate: bool) -> None:
    with guests(host, *ports(host, 2, netns=name, isolate=isolate)) as [guest, other]:
        assert guest.address_of(BRIDGE_IP) == other.address_of(BRIDGE_IP) == BRIDGE_MAC
        guest.send(arp_request(guest.mac, guest.ip, other.ip))
        assert other.hears(is_arp(1, by=guest.ip), SILENCE_S if isolate else HEARD_S) is not isolate
        guest.send(ethernet(guest.mac, other.mac, IPV4, datagram(guest.ip, other.ip, 9, b"hello")))
        assert other.hears(carries(b"hello"), SILENCE_S if isolate else HEARD_S) is not isolate
        # IPv6 has no rules here, so nothing of it gets through.
        guest.send(ethernet(guest.mac, other.mac, IPV6, b"six" * 30))
        assert not other.hears(carries(b"six"), SILENCE_S)


def without_br_netfilter() -> None:
    """In the namespace that we are in: what a bridge forwards is not shown to the rules for packets."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if switch.exists():
        switch.write_text("0")


@pytest.mark.parametrize("isolated", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_isolated_guest_neither_reaches_nor_is_reached(host: LinuxHost, name: str, isolated: tuple[bool, bool]) -> None:
    """Neither over the bridge nor by a host that forwards, however the other one is."""
    given = [
        replace(each, port=replace(each.port, isolated=alone))
        for each, alone in zip(ports(host, 2, netns=name), isolated, strict=True)
    ]
    with guests(host, *given) as [guest, other]:
        host.links.forward(netns=name)
        netns.call_inside(name, without_br_netfilter)
        assert all(isinstance(each.observe(host, None), Present) for each in given)
        assert guest.address_of(BRIDGE_IP) == other.address_of(BRIDGE_IP) == BRIDGE_MAC
        for by, mac in ((b"bridge", other.mac), (b"host", BRIDGE_MAC)):
            guest.send(ethernet(guest.mac, mac, IPV4, datagram(guest.ip, other.ip, 9, by)))
            assert other.hears(carries(by), SILENCE_S if any(isolated) else HEARD_S) is not any(isolated), by


def test_removing_one_guest_leaves_the_other_working(host: LinuxHost, name: str) -> None:
    first, second = ports(host, 2, netns=name)
    create(host, second)
    with guests(host, first) as [guest]:
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
        remove(host, second)
        guest.send(ethernet(guest.mac, BRIDGE_MAC, IPV4, echo_request(guest.ip, BRIDGE_IP)))
        assert guest.hears(is_icmp(0, by=BRIDGE_IP))


def test_host_reaches_its_guest_from_its_namespace(host: LinuxHost, name: str) -> None:
    with guests(host, *ports(host, 1, netns=name)) as [guest]:
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
        host_side = netns.call_inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with host_side:
            host_side.settimeout(HEARD_S)
            host_side.sendto(b"question", (guest.ip, 9))
            assert guest.hears(carries(b"question"))
            port = host_side.getsockname()[1]
            answer = bytearray(datagram(guest.ip, BRIDGE_IP, port, b"answer"))
            answer[20:22] = (9).to_bytes(2, "big")  # from where the question went
            guest.send(ethernet(guest.mac, BRIDGE_MAC, IPV4, bytes(answer)))
            assert host_side.recvfrom(100) == (b"answer", (guest.ip, 9))


@pytest.mark.parametrize("destination", LINK_LOCAL)
def test_guest_reaches_no_service_of_the_host_past_the_bridge(host: LinuxHost, name: str, destination: str) -> None:
    with guests(host, *ports(host, 1, netns=name)) as [guest], bound(name, BRIDGE_IP, 53) as listener:
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
        guest.send(ethernet(guest.mac, destination, IPV4, datagram(guest.ip, BRIDGE_IP, 53, b"query")))
        listener.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            listener.recvfrom(100)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")
def test_guest_reaches_no_address_of_its_tap(host: LinuxHost, name: str) -> None:
    """As every device that is up, it has an IPv6 address of its own."""
    (port,) = ports(host, 1, netns=name, nat=True)
    with guests(host, port) as [guest]:
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
        command = f"ip -n {name} addr add fd00::1/64 dev {port.port.device} nodad"
        subprocess.run(command.split(), check=True, capture_output=True)
        protocol = 253  # for experiments (RFC 3692), so without a checksum
        addresses = b"".join(socket.inet_pton(socket.AF_INET6, address) for address in ("fd00::2", "fd00::1"))
        packet = struct.pack(">IHBB", 6 << 28, len(b"six"), protocol, 64) + addresses + b"six"
        with netns.call_inside(name, lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, protocol)) as listener:
            listener.settimeout(SILENCE_S)
            for destination in LINK_LOCAL:
                guest.send(ethernet(guest.mac, destination, IPV6, packet))
            with pytest.raises(TimeoutError):
                listener.recvfrom(100)


@contextmanager
def outside(lab: str) -> Iterator[str]:
    """A namespace beyond the host's: it is 192.0.2.2, knows the host as 192.0.2.1, and has no other way to go."""
    with new_namespace() as beyond:
        commands = (
            f"ip -n {lab} link add uplink type veth peer name downlink netns {beyond}",
            f"ip -n {lab} addr add 192.0.2.1/24 dev uplink",
            f"ip -n {lab} link set uplink up",
            f"ip -n {beyond} addr add 192.0.2.2/24 dev downlink",
            f"ip -n {beyond} link set downlink up",
        )
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield beyond


def bound(namespace: str, address: str, port: int) -> socket.socket:
    def bind() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.settimeout(HEARD_S)
        listener.bind((address, port))
        return listener

    return netns.call_inside(namespace, bind)


@pytest.mark.parametrize("nat", [True, False])
def test_guest_reaches_other_networks_only_with_nat_and_under_the_hosts_address(host: LinuxHost, nat: bool) -> None:
    with new_namespace() as lab, outside(lab) as beyond, bound(beyond, "192.0.2.2", 7) as listener:
        host.links.forward(netns=lab)
        with guests(host, *ports(host, 1, netns=lab, nat=nat)) as [guest]:
            assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
            guest.send(ethernet(guest.mac, BRIDGE_MAC, IPV4, datagram(guest.ip, "192.0.2.2", 7, b"out")))
            if nat:
                said, (who, back) = listener.recvfrom(100)
                assert (said, who) == (b"out", "192.0.2.1")
                listener.sendto(b"back", (who, back))
                assert guest.hears(carries(b"back"))
            else:
                assert guest.hears(is_icmp(3, by=BRIDGE_IP)), "refused at once"
                listener.setblocking(False)
                with pytest.raises(BlockingIOError):
                    listener.recvfrom(100)


@pytest.mark.parametrize("nat", [True, False])
def test_guest_reaches_services_of_the_host_only_with_nat(host: LinuxHost, name: str, nat: bool) -> None:
    with guests(host, *ports(host, 1, netns=name, nat=nat)) as [guest], bound(name, BRIDGE_IP, 53) as listener:
        assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
        guest.send(ethernet(guest.mac, BRIDGE_MAC, IPV4, datagram(guest.ip, BRIDGE_IP, 53, b"query")))
        if nat:
            assert listener.recvfrom(100)[0] == b"query"
        else:
            assert guest.hears(is_icmp(3, by=BRIDGE_IP)), "refused at once"


def test_network_beyond_the_host_does_not_reach_guests(host: LinuxHost) -> None:
    with new_namespace() as lab, outside(lab) as beyond:
        host.links.forward(netns=lab)
        command = f"ip -n {beyond} route add 172.16.0.0/24 via 192.0.2.1"
        subprocess.run(command.split(), check=True, capture_output=True)
        with (
            guests(host, *ports(host, 1, netns=lab, nat=True)) as [guest],
            bound(beyond, "192.0.2.2", 7) as sender,
        ):
            assert guest.address_of(BRIDGE_IP) == BRIDGE_MAC
            sender.sendto(b"intruder", (guest.ip, 9))
            assert not guest.hears(carries(b"intruder"), SILENCE_S)


# --- killed, and quick


class Mortal:
    """Links of a process that is killed when it would do one effect more than so many."""

    def __init__(self, links: Links, effects: int) -> None:
        self._links, self._left = links, effects

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._links, method)
        if method not in vars(LinksView):
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
        return found


def killed_after(effects: int, port: TapPort) -> bool:
    """Make a port in a process of its own; whether it was killed before it was done."""
    child = os.fork()
    if child == 0:
        host: Any = LinuxHost(Path("/nowhere"))
        host.links = Mortal(host.links, effects)
        try:
            create(host, port)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return status != 0


def test_create_killed_between_any_two_steps_is_taken_away_or_finished(host: LinuxHost, name: str) -> None:
    (port,) = ports(host, 1, netns=name, nat=True)
    effects = 0
    while killed_after(effects, port):
        if effects % 2:
            create(host, port)
            assert isinstance(port.observe(host, None), Present)
        remove(host, port)
        assert host.links.look(name) is None
        assert not (netns.NAMED / name).exists()
        effects += 1
    assert effects == 7
    assert isinstance(port.observe(host, None), Present)
    remove(host, port)
    assert host.links.look(name) is None


def test_namespaces_of_others_may_come_and_go(host: LinuxHost, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = ports(host, 1, netns=name)
    real = netns.enter

    def enter(which: str) -> None:
        if which != name:
            netns.remove(which)
        real(which)

    monkeypatch.setattr(netns, "enter", enter)
    for act in (lambda: port.observe(host, None), lambda: remove(host, port)):
        with new_namespace() as other:
            monkeypatch.setattr(type(host.links), "namespaces", lambda _, theirs=other: [theirs])
            act()
            assert not netns.exists(other)


def test_file_that_a_kill_left_in_the_place_of_a_namespace_is_no_hindrance(host: LinuxHost, name: str) -> None:
    (port,) = ports(host, 1, netns=name)
    for made in ([port], []):
        netns.NAMED.mkdir(exist_ok=True)
        (netns.NAMED / name).touch()
        assert host.links.look(name) is None
        create(host, *made)
        remove(host, port)
        assert not (netns.NAMED / name).exists()


@pytest.mark.skipif("BANGER_IN_LAB" in os.environ, reason="the lab's processor is emulated")
def test_a_hundred_looks_at_a_healthy_port_are_quick(host: LinuxHost, name: str) -> None:
    (port,) = ports(host, 1, netns=name)
    create(host, port)
    try:
        before = time.process_time()
        for _ in range(100):
            assert isinstance(port.observe(host, None), Present)
        assert time.process_time() - before < 0.3
    finally:
        remove(host, port)


def test_nft_that_refuses_is_told_with_line_and_column(host: LinuxHost) -> None:
    with inside_a_new_namespace(), pytest.raises(CommandError, match=r"stdin:2:\d+"):
        host.links.load_rules("table ip t {\n\tnonsense\n}\n")
