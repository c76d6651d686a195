"""The tap network as it decides and as it acts, on a simulated host; with real kernels: test_network_tap_guests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from ipaddress import IPv4Interface, IPv4Network
from itertools import count
from pathlib import Path
from typing import Any

import banger_network_tap as plugin
import pytest
from banger_network_tap.names import bridge_mac, bridge_name, tap_name
from banger_network_tap.ownership import NAMESPACE_ALIAS
from banger_network_tap.port import TapPort
from banger_network_tap.rules import Port, Rules
from hypothesis import given
from hypothesis import strategies as st

from banger.errors import HostError, Place, PlaybookError, Problem
from banger.host import Link, NetworkState, Route
from banger.identity import mac_address
from banger.linux.host import ReadOnlyHost
from banger.needs import Finding
from banger.resource import Absent, Drifted, Present
from banger.simulated.links import SimulatedNamespace
from banger.testing import SimulatedCrash, SimulatedHost
from banger.types import HostKey, Network, Nic, SshEndpoint, TapAttachment, Vm
from tests.simulated.world import World

IDS = ("1a2b3c4d5e", "0123456789", "ffffffffff")
TAP, BRIDGE = tap_name(IDS[0]), bridge_name("lab")


def network(name: str = "lab", **options: Any) -> Network:
    given = {"subnet": "172.16.0.0/24", "netns": "", "nat": False, "isolate": True, "dns": ""} | options
    # As a record has them: plain values that went through JSON.
    return Network(name, "tap", plugin.TapNetworkOptions(**json.loads(json.dumps(given))))


def nic(vm_id: str, taken: tuple[Nic, ...] = (), host: SimulatedHost | None = None, **options: Any) -> Nic:
    card: Nic = plugin.allocate_nic(network(**options), vm_id, taken, host or SimulatedHost())
    return card


def vm(number: int, host: SimulatedHost, **options: Any) -> Vm:
    """The VMs of one network get their cards in order, whatever their network is otherwise."""
    cards: list[Nic] = []
    for vm_id in IDS[: number + 1]:
        cards.append(plugin.allocate_nic(network(**options), vm_id, cards, host))
    where, name = Path(f"/vms/{IDS[number]}"), f"web-{number}"
    return Vm(
        *(where, IDS[number], name, "debian", 1, 2**29, 2**32, None, "overlay", "ext4", "qemu", cards[number], ()),
        host_key=HostKey("private", "public"),
        network=network(**options),
    )


def port(number: int, host: SimulatedHost, **options: Any) -> TapPort:
    (resource,) = plugin.setup_network(vm(number, host, **options)).resources
    assert isinstance(resource, TapPort)
    return resource


def create(resource: TapPort, host: SimulatedHost) -> None:
    resource.create(host, {}, lambda _: None)


def remove(resource: TapPort, host: SimulatedHost) -> None:
    resource.remove(host, None, lambda _: None)


# --- which card a VM gets


def test_nic_of_a_first_vm_has_the_address_after_the_bridges() -> None:
    assert nic(IDS[0], netns="lab") == Nic(
        *("lab", "tap", mac_address(IDS[0]), "172.16.0.2/24", "172.16.0.1", "172.16.0.1"),
        SshEndpoint("172.16.0.2", 22, "lab"),
    )


def test_nic_gets_the_lowest_address_that_nobody_has() -> None:
    taken = [nic(str(number)) for number in range(3)]
    others = tuple(replace(each, address=f"172.16.0.{n}/24") for n, each in zip((2, 4, 5), taken, strict=True))
    assert nic("new", others).ip == "172.16.0.3"


def test_nic_of_another_network_has_its_address_here_too() -> None:
    other = replace(nic(IDS[0]), network="elsewhere", plugin="other", address="172.16.0.2/16")
    assert nic(IDS[1], (other,)).ip == "172.16.0.3"


def test_nic_passes_over_an_address_that_a_tap_has_whoever_made_it() -> None:
    host = SimulatedHost()
    create(port(0, host), host)
    assert nic(IDS[1], (), host).ip == "172.16.0.3"


def test_nic_passes_over_what_was_the_bridges_address_before_the_subnet_grew() -> None:
    host = SimulatedHost()
    before = nic(IDS[0], subnet="172.16.0.4/30")
    assert before.gateway == "172.16.0.5"
    taken = [replace(before, address=f"172.16.0.{number}/24", gateway="172.16.0.1") for number in (2, 3, 4)]
    assert nic(IDS[1], (before, *taken), subnet="172.16.0.0/24").ip == "172.16.0.7"
    create(port(0, host, subnet="172.16.0.4/30"), host)
    assert nic(IDS[1], tuple(taken), host, subnet="172.16.0.0/24").ip == "172.16.0.7"


def test_subnet_that_another_network_has_is_a_mistake_that_names_both() -> None:
    first = nic(IDS[0], name="lab")
    for subnet, has in (("172.16.0.0/24", first), ("172.16.0.128/25", first), ("172.16.0.0/16", first)):
        place = Place("p.yml", 3, 7)
        with pytest.raises(PlaybookError) as caught:
            plugin.allocate_nic(replace(network("dmz", subnet=subnet), place=place), IDS[1], [has], SimulatedHost())
        (problem,) = caught.value.problems
        message = f"the subnet {subnet} of the network 'dmz' overlaps 172.16.0.0/24 of 'lab'"
        assert (problem.place, problem.message) == (place, message)
        assert "another subnet" in str(problem.hint)


def test_subnet_may_be_had_by_others_elsewhere() -> None:
    first = nic(IDS[0], name="lab")
    others = (first, replace(first, plugin="user", network="user"), nic(IDS[0], name="far", netns="far"))
    assert nic(IDS[1], others, name="lab").ip == "172.16.0.3"
    assert nic(IDS[1], (first,), name="dmz", netns="dmz").network == "dmz"
    assert nic(IDS[0], (first,), name="dmz").network == "dmz", "a network may have another name"
    assert nic(IDS[1], (first,), name="dmz", subnet="172.16.1.0/24").ip == "172.16.1.2"


def test_nic_whose_mac_another_has_gets_another() -> None:
    first = nic(IDS[0])
    second = nic(IDS[1], (replace(first, mac=mac_address(IDS[1])),))
    assert second.mac not in (mac_address(IDS[1]), first.mac)


@given(st.integers(8, 30), st.sets(st.integers(0, 40), max_size=30))
def test_nic_is_never_anothers_nor_the_subnets_own(prefix: int, given: set[int]) -> None:
    subnet = IPv4Network(("10.0.0.0", prefix))
    taken = tuple(replace(nic("old"), address=f"{subnet[number % subnet.num_addresses]}/{prefix}") for number in given)
    try:
        card = nic("new", taken, subnet=str(subnet))
    except HostError:
        assert len({each.ip for each in taken}) >= subnet.num_addresses - 3
        return
    address = IPv4Interface(card.address)
    assert address.network == subnet
    assert card.gateway == str(subnet[1])
    assert card.ip not in {str(subnet[0]), str(subnet[-1]), card.gateway} | {each.ip for each in taken}


def test_nic_of_a_full_subnet_is_a_host_error_with_the_cure() -> None:
    with pytest.raises(
        HostError, match=r"no address is left in the subnet 172.16.0.0/30 of the network 'lab'"
    ) as caught:
        nic(IDS[1], (nic(IDS[0], subnet="172.16.0.0/30"),), subnet="172.16.0.0/30")
    assert caught.value.hint and "banger destroy" in caught.value.hint


@pytest.mark.parametrize("destination", ["172.16.0.0/12", "172.16.0.128/25", "172.16.0.9/32"])
@pytest.mark.parametrize("netns", ["", "lab"])
def test_subnet_that_overlaps_a_route_is_refused_by_name(destination: str, netns: str) -> None:
    host = SimulatedHost()
    if netns:
        host.links.add_namespace(netns, "")
    host.links.of[netns].foreign_routes = [
        Route("0.0.0.0/0", "eth0"),
        Route("0.0.0.0/1", "tun0"),
        Route(destination, "wg0"),
    ]
    with pytest.raises(HostError) as caught:
        nic(IDS[0], (), host, netns=netns)
    where = "in the network namespace lab" if netns else "on this host"
    assert caught.value.message == (
        f"the subnet 172.16.0.0/24 of the network 'lab' overlaps the route to {destination} by wg0 {where}"
    )
    assert "choose another subnet" in str(caught.value.hint)


def test_subnet_beside_all_routes_and_on_its_own_bridge_is_taken() -> None:
    host = SimulatedHost()
    create(port(0, host), host)
    host.links.of[""].foreign_routes = [Route("0.0.0.0/0", "eth0"), Route("172.16.1.0/24", "eth0")]
    assert nic(IDS[1], (), host).ip == "172.16.0.3"


def test_dns_is_the_hosts_own_only_with_nat() -> None:
    host = SimulatedHost()
    for directory in ("/etc/netns/lab", "/run/systemd/resolve"):
        host.files.make_directory(Path(directory))
    host.files.put(Path("/etc/resolv.conf"), b"# x\nnameserver 127.0.0.53\nnameserver ::1\n")
    assert nic(IDS[0], (), host, nat=True).dns == "172.16.0.1"
    host.files.put(Path("/run/systemd/resolve/resolv.conf"), b"nameserver 192.0.2.53\nnameserver 192.0.2.54\n")
    assert nic(IDS[0], (), host, nat=True).dns == "192.0.2.53"
    assert nic(IDS[0], (), host).dns == "172.16.0.1"
    host.files.put(Path("/etc/netns/lab/resolv.conf"), b"nameserver 192.0.2.1\n")
    assert nic(IDS[0], (), host, nat=True, netns="lab").dns == "192.0.2.1"
    assert nic(IDS[0], (), host, nat=True, dns="192.0.2.99").dns == "192.0.2.99"


# --- what a playbook may say


def problems(tmp_path: Path, **keys: str) -> list[Problem]:
    playbook = tmp_path / "p.yml"
    playbook.write_text(f"- networks:\n    - {json.dumps({'name': 'lab', 'plugin': 'tap'} | keys)}\n")
    from banger.core.playbook import load
    from banger.core.request import Declared

    kind = plugin.register_network_kind()
    try:
        load(playbook, Declared(network_kinds={kind.name: kind}))
    except PlaybookError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("key", "value", "message", "hint"),
    [
        ("subnet", "172.16.0.1/24", "not a subnet but an address in one", "did you mean 172.16.0.0/24?"),
        ("subnet", "172.16.0.0", "not a subnet", "write an IPv4 network such as 172.16.0.0/24"),
        ("subnet", "172.16.0.0/31", "not a subnet that guests can have", "its prefix length is from 8 to 30"),
        ("subnet", "127.0.0.0/8", "not a subnet that guests can have", "choose a private one"),
        ("subnet", "fd00::/64", "not a subnet", "write an IPv4 network"),
        ("netns", "../x", "not a namespace's name", "letters, digits"),
        ("netns", "", "not a namespace's name", "letters, digits"),
        ("dns", "dns.example", "not an IPv4 address", "write four numbers"),
    ],
)
def test_options_that_are_wrong_are_told(tmp_path: Path, key: str, value: str, message: str, hint: str) -> None:
    (problem,) = problems(tmp_path, **{key: value})
    assert f"'{key}' of the network 'lab' is {message}" in problem.message
    assert hint in str(problem.hint)


def test_options_that_are_right_are_taken_and_survive_json(tmp_path: Path) -> None:
    assert problems(tmp_path, subnet="10.1.0.0/16", netns="lab_1.x", dns="192.0.2.53") == []
    default = plugin.TapNetworkOptions()
    assert plugin.TapNetworkOptions(**json.loads(json.dumps(asdict(default)))) == default
    assert type(json.loads(json.dumps(asdict(default)))["subnet"]) is str


def test_vm_whose_card_does_not_fit_its_network_any_more_is_a_problem() -> None:
    machine = vm(0, SimulatedHost())
    assert plugin.validate_vm(machine) == []
    (problem,) = plugin.validate_vm(replace(machine, network=network(subnet="10.9.0.0/24")))
    assert "now has the subnet 10.9.0.0/24, in which its address 172.16.0.2 is not" in problem.message
    (problem,) = plugin.validate_vm(replace(machine, network=network(netns="lab")))
    assert "namespace 'lab'" in problem.message
    assert plugin.validate_vm(replace(machine, network=None)) == []


# --- its port


def test_setup_is_one_resource_and_the_tap_in_its_namespace() -> None:
    setup = plugin.setup_network(vm(0, SimulatedHost(), netns="lab"))
    assert [resource.key for resource in setup.resources] == ["web-0/network/tap"]
    assert setup.attachment == TapAttachment("tap-1a2b3c4d5e", "lab")


@pytest.mark.parametrize("name", ["a", "l" * 11, "l" * 12, "l" * 63])
def test_devices_have_names_that_fit(name: str) -> None:
    assert len(bridge_name(name)) <= 15
    assert len(tap_name(name)) <= 15
    assert bridge_name(name) != bridge_name(name + "x")


def test_alias_of_the_longest_names_fits_and_tells_all() -> None:
    longest = Port("tap-1", "n" * 63, "v" * 63, "52:54:00:aa:bb:cc", "255.255.255.254/30", "255.255.255.253", nat=True)
    longest = replace(longest, isolated=False)
    assert len(longest.alias) <= 255
    assert Port.read("tap-1", longest.alias) == longest
    for flags in ({"nat": False}, {"isolated": True}, {"nat": False, "isolated": True}):
        assert Port.read("tap-1", replace(longest, **flags).alias) == replace(longest, **flags)
    assert Port.read("tap-1", "somebody's") is None


@pytest.mark.parametrize("netns", ["", "lab"])
def test_port_that_is_made_is_present_and_tells_its_handle(netns: str) -> None:  # seed S1
    host = SimulatedHost()
    first = port(0, host, netns=netns)
    assert first.observe(host, None) == Absent()
    handle = first.create(host, {}, lambda _: None)
    index = host.links.of[netns].links["tap-1a2b3c4d5e"].index
    assert handle == {"tap": "tap-1a2b3c4d5e", "bridge": "bgr-lab", "netns": netns, "index": index}
    assert first.observe(ReadOnlyHost(host), None) == Present(handle)
    bridge, tap = (host.links.of[netns].links[name] for name in ("bgr-lab", "tap-1a2b3c4d5e"))
    assert (bridge.addresses, bridge.up, bridge.mac) == (("172.16.0.1/24",), True, bridge_mac("lab"))
    assert (tap.master, tap.isolated, tap.up) == ("bgr-lab", True, True)
    effects = len(host.effects)
    create(first, host)
    assert len(host.effects) == effects, "a second time there is nothing to do"


@pytest.mark.parametrize("netns", ["", "lab"])
def test_removing_the_last_port_leaves_nothing(netns: str) -> None:
    host = SimulatedHost()
    first, second = (port(number, host, netns=netns) for number in range(2))
    create(first, host)
    create(second, host)
    remove(first, host)
    assert first.observe(host, None) == Absent()
    assert isinstance(second.observe(host, None), Present)
    assert "172.16.0.2" not in host.links.of[netns].rules
    remove(second, host)
    assert nothing_is_left(host)
    remove(second, host)


def nothing_is_left(host: SimulatedHost) -> bool:
    own = host.links.of[""]
    return (list(host.links.of), list(own.links), own.tables) == ([""], ["lo"], {})


def test_namespace_of_somebody_else_is_used_and_stays() -> None:
    host = SimulatedHost()
    host.links.add_namespace("lab", "mine")
    first = port(0, host, netns="lab")
    create(first, host)
    assert isinstance(first.observe(host, None), Present)
    remove(first, host)
    there = host.links.look("lab")
    assert there and (list(there.links), there.tables) == (["lo"], {})


def test_namespace_of_ours_stays_while_somebody_has_something_in_it() -> None:
    host = SimulatedHost()
    first = port(0, host, netns="lab")
    create(first, host)
    host.links.of["lab"].links |= {
        "sit0": Link("sit0", 80, "sit", "", up=False),  # the kernel's own
        "uplink": Link("uplink", 81, "veth", "", up=False),
    }
    remove(first, host)
    assert set(host.links.of["lab"].links) == {"lo", "sit0", "uplink"}
    del host.links.of["lab"].links["uplink"]
    remove(first, host)
    assert "lab" not in host.links.of


def test_two_networks_share_a_namespace_and_the_last_one_takes_it_away() -> None:
    host = SimulatedHost()
    lab, other = port(0, host, netns="ns"), port(1, host, netns="ns", name="other", subnet="172.17.0.0/24")
    create(lab, host)
    create(other, host)
    remove(lab, host)
    assert isinstance(other.observe(host, None), Present)
    remove(other, host)
    assert nothing_is_left(host)


def test_foreign_bridge_of_that_name_is_refused_and_untouched() -> None:
    host = SimulatedHost()
    host.links.add_bridge("bgr-lab", "02:00:00:00:00:01")
    before = dict(host.links.of[""].links)
    first = port(0, host)
    with pytest.raises(HostError, match="has a network device bgr-lab that is not banger's"):
        create(first, host)
    assert host.links.of[""].links == before
    remove(first, host)
    assert host.links.of[""].links == before


def test_foreign_device_of_the_taps_name_is_refused_and_untouched() -> None:
    host = SimulatedHost()
    host.links.add_bridge("tap-1a2b3c4d5e", "02:00:00:00:00:01")
    with pytest.raises(HostError, match="a network device tap-1a2b3c4d5e that is not banger's"):
        create(port(0, host), host)
    remove(port(0, host), host)
    assert set(host.links.of[""].links) == {"lo", "tap-1a2b3c4d5e"}


def test_overlap_that_came_later_is_refused_before_anything_is_made() -> None:
    host = SimulatedHost()
    first = port(0, host)
    host.links.of[""].foreign_routes = [Route("172.16.0.0/16", "vpn0")]
    with pytest.raises(HostError, match=r"overlaps the route to 172.16.0.0/16 by vpn0 on this host"):
        create(first, host)
    assert host.effects == []


@pytest.mark.parametrize("same", [{"address": "172.16.0.3/24"}, {"mac": mac_address(IDS[1])}], ids=["ip", "mac"])
def test_port_with_anothers_address_is_refused_by_name_before_anything_is_made(same: dict[str, str]) -> None:
    """Another home gave the address out while this one's VM was stopped."""
    host = SimulatedHost()
    mine = port(1, host)
    theirs = replace(port(0, host).port, device="tap-theirs", vm="db", **same)
    create(TapPort("db/network/tap", theirs), host)
    before = dict(host.links.of[""].links)
    with pytest.raises(HostError) as caught:
        create(mine, host)
    what = "address 172.16.0.3" if "address" in same else f"MAC {mine.port.mac}"
    assert caught.value.message == (
        f"the VM 'db', on tap-theirs in the host's own network namespace, has the {what} of 'web-1'"
    )
    assert "destroy 'web-1'" in str(caught.value.hint)
    assert host.links.of[""].links == before
    remove(TapPort("db/network/tap", theirs), host)
    create(mine, host)
    assert isinstance(mine.observe(host, None), Present)


def test_port_that_is_in_use_is_mended_though_another_has_its_address() -> None:
    host = SimulatedHost()
    mine = port(0, host)
    create(mine, host)
    host.links.add_tap("tap-theirs", replace(mine.port, vm="db").alias)
    host.links.of[""].tables.clear()
    mine.update(host, {}, lambda _: None)
    assert host.links.of[""].tables


def test_nat_turns_forwarding_on_only_in_a_namespace_of_its_own() -> None:
    host = SimulatedHost()
    create(port(0, host, netns="lab", nat=True), host)
    assert host.links.of["lab"].forwards
    with pytest.raises(HostError, match="does not forward packets") as caught:
        create(port(0, host, nat=True), host)
    assert caught.value.hint == "sysctl -w net.ipv4.ip_forward=1"
    host.links.add_namespace("theirs", "")
    with pytest.raises(HostError) as caught:
        create(port(0, host, nat=True, netns="theirs"), host)
    assert caught.value.hint == "ip netns exec theirs sysctl -w net.ipv4.ip_forward=1"
    assert list(host.links.of["theirs"].links) == ["lo"]
    host.links.of[""].forwards = True
    create(port(0, host, nat=True), host)


def broken(device: str, **changes: Any) -> Callable[[SimulatedNamespace], None]:
    def damage(there: SimulatedNamespace) -> None:
        there.links[device] = replace(there.links[device], **changes)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken(BRIDGE, addresses=()), "bgr-lab has no address 172.16.0.1/24"),
        (broken(BRIDGE, up=False), "bgr-lab is down"),
        (broken(BRIDGE, learns_linklocal=True), "bgr-lab believes addresses that no firewall rule sees"),
        (lambda there: there.links.pop(BRIDGE), "its bridge bgr-lab is not there"),
        (lambda there: there.tables.clear(), "the firewall rules of lab are not in force"),
        (lambda there: there.tables.update({"ip banger-lab": "x"}), "the firewall rules of lab are not in force"),
        (broken(TAP, up=False), f"{TAP} is down"),
        (broken(TAP, isolated=False), "isolate false -> true"),
        (broken(TAP, master=""), f"{TAP} is on no bridge, not on bgr-lab"),
        (broken(TAP, alias="x"), f"{TAP} has another alias"),
    ],
)
def test_damage_is_told_in_words_and_mended_in_place(damage: Callable[[SimulatedNamespace], object], said: str) -> None:
    host = SimulatedHost()
    first, second = (port(number, host, netns="lab") for number in range(2))
    create(first, host)
    create(second, host)
    damage(host.links.of["lab"])
    seen = first.observe(host, None)
    assert isinstance(seen, Drifted) and seen.in_place
    assert seen.live is (said != f"{TAP} has another alias")
    assert said in seen.differences
    first.update(host, seen.handle, lambda _: None)
    assert isinstance(first.observe(host, None), Present)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"nat": True}, "nat false -> true"), ({"isolate": False}, "isolate true -> false")],
)
def test_wish_that_changed_is_taken_up_in_place_by_one_vm(options: dict[str, Any], said: str) -> None:
    host = SimulatedHost()
    second = port(1, host, netns="lab")
    create(port(0, host, netns="lab"), host)
    create(second, host)
    wanted = port(0, host, netns="lab", **options)
    seen = wanted.observe(host, None)
    assert isinstance(seen, Drifted) and (seen.differences, seen.in_place, seen.live) == ((said,), True, False)
    wanted.update(host, seen.handle, lambda _: None)
    assert isinstance(wanted.observe(host, None), Present)
    assert isinstance(second.observe(host, None), Present), "the other VM's wishes are its own"


def test_forwarding_that_somebody_turned_off_is_mended_under_a_running_vm() -> None:
    host = SimulatedHost()
    first = port(0, host, netns="lab", nat=True)
    create(first, host)
    host.links.of["lab"].forwards = False
    seen = first.observe(host, None)
    assert isinstance(seen, Drifted) and (seen.in_place, seen.live) == (True, True)
    assert seen.differences == ("net.ipv4.ip_forward is off in the network namespace lab",)
    first.update(host, seen.handle, lambda _: None)
    assert isinstance(first.observe(host, None), Present)


def test_wish_that_comes_with_damage_waits_for_a_restart_as_a_whole() -> None:
    host = SimulatedHost()
    create(port(0, host), host)
    broken(BRIDGE, up=False)(host.links.of[""])
    seen = port(0, host, nat=True).observe(host, None)
    assert isinstance(seen, Drifted) and (len(seen.differences), seen.live) == (2, False)


def test_vm_that_moves_to_another_network_leaves_nothing_behind() -> None:
    host = SimulatedHost()
    create(port(0, host), host)
    moved = port(0, host, name="other", subnet="172.17.0.0/24")
    seen = moved.observe(host, None)
    assert isinstance(seen, Drifted) and not seen.in_place
    assert "network lab -> other" in seen.differences[-1]
    create(moved, host)
    assert isinstance(moved.observe(host, None), Present)
    assert set(host.links.of[""].links) == {"lo", TAP, "bgr-other"}
    assert set(host.links.of[""].tables) == {"bridge banger-other", "inet banger-other", "ip banger-other"}


def test_vm_that_moves_to_another_namespace_leaves_nothing_behind() -> None:
    host = SimulatedHost()
    create(port(0, host, netns="old"), host)
    moved = port(0, host, netns="new")
    seen = moved.observe(host, None)
    assert isinstance(seen, Drifted) and not seen.in_place
    assert seen.differences == ("its tap is in the network namespace old, not in the network namespace new",)
    remove(moved, host)
    assert nothing_is_left(host)


def closed(host: SimulatedHost, *names: str) -> None:
    """There, and not to be entered, as one of another user namespace."""
    look = host.links.look

    def refuse(netns: str = "") -> NetworkState | None:
        if netns in names:
            raise HostError(f"cannot enter the network namespace {netns}: Operation not permitted", hint="run as root")
        return look(netns)

    host.links.of |= {name: host.links.of.get(name, SimulatedNamespace()) for name in names}
    host.links.look = refuse  # type: ignore[method-assign]


@pytest.mark.parametrize("netns", ["", "lab"])
def test_namespace_of_others_that_cannot_be_entered_is_in_nobodys_way(netns: str) -> None:
    host = SimulatedHost()
    closed(host, "theirs")
    tap = port(0, host, netns=netns)
    assert tap.observe(host, None) == Absent()
    create(tap, host)
    remove(tap, host)
    assert set(host.links.of) == {"", "theirs"} and set(host.links.of[""].links) == {"lo"}


def test_namespace_that_the_tap_was_recorded_in_must_be_entered() -> None:
    host = SimulatedHost()
    create(port(0, host, netns="old"), host)
    closed(host, "old", "theirs")
    moved = port(0, host, netns="new")
    with pytest.raises(HostError, match="namespace old"):
        moved.observe(host, {"netns": "old"})
    with pytest.raises(HostError, match="namespace old"):
        moved.remove(host, {"netns": "old"}, lambda _: None)
    assert TAP in host.links.of["old"].links


def test_hosts_own_namespace_must_be_looked_at() -> None:
    host = SimulatedHost()
    closed(host, "")
    with pytest.raises(HostError):
        port(0, host, netns="lab").observe(host, None)


def test_tap_of_another_user_is_made_anew() -> None:
    host = SimulatedHost()
    create(port(0, host), host)
    jailed = replace(port(0, host), owner=4711)
    seen = jailed.observe(host, None)
    assert isinstance(seen, Drifted) and (seen.differences, seen.in_place, seen.live) == (
        (f"{TAP} belongs to the user 0, not 4711",),
        False,
        False,
    )
    create(jailed, host)
    assert host.links.of[""].links[TAP].owner == 4711
    assert isinstance(jailed.observe(host, None), Present)


def test_recorded_handle_stands_for_the_port_whatever_became_of_the_network() -> None:
    host = SimulatedHost()
    machine = vm(0, host, netns="lab")
    create(port(0, host, netns="lab"), host)
    assert plugin.teardown_handles(machine, {"web-0/vmm": {}}) == []
    user = replace(machine.nic, network="user", plugin="user", ssh=SshEndpoint("127.0.0.1", 22200))
    for now in (
        machine,
        replace(machine, network=None),
        replace(machine, nic=user, network=Network("user", "user", object())),
    ):
        create(port(0, host, netns="lab"), host)
        (resource,) = plugin.teardown_handles(now, {"web-0/network/tap": {}})
        resource.remove(host, {}, lambda _: None)
        assert nothing_is_left(host)


# --- with the rest of banger

CHOSEN = ("{image: tiny,", "{image: tiny, storage: overlay, vmm: qemu,")


def test_networks_with_one_subnet_are_told_before_anything_is_touched(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.blocked = set()
    networks = ("- images:", "- networks: [{name: lab, plugin: tap}, {name: dmz, plugin: tap}]\n  images:")
    path = world.write(
        *("all", "running", networks),
        *(("{name: web}", "{name: web, network: lab}"), ("{name: db,", "{name: db, network: dmz,"), CHOSEN),
    )
    before = world.host.effects
    with pytest.raises(PlaybookError) as caught:
        world.apply(path)
    (problem,) = caught.value.problems
    assert problem.message == "the subnet 172.16.0.0/24 of the network 'dmz' overlaps 172.16.0.0/24 of 'lab'"
    assert problem.place and problem.place.line == 2
    assert (world.host.effects, world.session().store.snapshot().by_name()) == (before, {})


def test_damage_is_mended_under_a_running_vm_and_a_wish_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.blocked = set()
    chosen = (CHOSEN[0], f"{CHOSEN[1]} network: tap,")
    path = world.write("all", "absent", chosen)
    world.apply(path)
    process, there = world.record("web").runtime, world.host.links.of[""]
    there.tables.clear()
    there.links["bgr-tap"] = replace(there.links["bgr-tap"], addresses=(), up=False)
    world.apply(path)
    assert (world.reasons(), world.record("web").runtime) == ([], process)
    assert there.links["bgr-tap"].addresses == ("172.16.0.1/24",)
    assert len(there.tables) == 3
    opened = ("- images:", "- networks: [{name: tap, plugin: tap, isolate: false}]\n  images:")
    world.apply(world.write("all", "absent", chosen, opened))
    assert world.reasons() == ["isolate true -> false: needs --restart"]


# --- killed at every effect


def crashes(scene: Callable[[SimulatedHost], Callable[[], object]]) -> list[SimulatedHost]:
    """The hosts that are left when the scene's action is killed before or after each of its effects."""
    left = []
    for number in count(1):
        hosts = []
        for after in (False, True):
            host = SimulatedHost()
            action = scene(host)
            host.crash_at(number, after=after)
            try:
                action()
            except SimulatedCrash:
                hosts.append(host)
            host.restart()
        left += hosts
        if not hosts:
            return left
    raise AssertionError


@pytest.mark.parametrize("options", [{}, {"netns": "lab", "nat": True}], ids=["own", "netns"])
@pytest.mark.parametrize("neighbour", [False, True])
def test_create_killed_anywhere_is_finished_or_taken_away(options: dict[str, Any], neighbour: bool) -> None:
    def scene(host: SimulatedHost) -> Callable[[], object]:
        if neighbour:
            create(port(1, host, **options), host)
        mine = port(0, host, **options)
        return lambda: create(mine, host)

    made = crashes(scene)
    assert len(made) >= 2 * (3 if neighbour else 5)
    for host in made:
        if neighbour:
            assert isinstance(port(1, host, **options).observe(host, None), Present), host.effects
        create(port(0, host, **options), host)
        assert isinstance(port(0, host, **options).observe(host, None), Present), host.effects
    for host in crashes(scene):
        remove(port(0, host, **options), host)
        if neighbour:
            assert isinstance(port(1, host, **options).observe(host, None), Present), host.effects
            remove(port(1, host, **options), host)
        assert nothing_is_left(host), host.effects


@pytest.mark.parametrize("options", [{}, {"netns": "lab", "nat": True}], ids=["own", "netns"])
@pytest.mark.parametrize("neighbour", [False, True])
def test_remove_killed_anywhere_is_finished_or_undone(options: dict[str, Any], neighbour: bool) -> None:
    def scene(host: SimulatedHost) -> Callable[[], object]:
        if neighbour:
            create(port(1, host, **options), host)
        mine = port(0, host, **options)
        create(mine, host)
        return lambda: remove(mine, host)

    left = crashes(scene)
    assert len(left) >= 2 * (3 if neighbour else 4)
    for host in left:
        if neighbour:
            assert isinstance(port(1, host, **options).observe(host, None), Present), host.effects
        create(port(0, host, **options), host)
        assert isinstance(port(0, host, **options).observe(host, None), Present), host.effects
    for host in crashes(scene):
        remove(port(0, host, **options), host)
        if neighbour:
            assert isinstance(port(1, host, **options).observe(host, None), Present), host.effects
            remove(port(1, host, **options), host)
        assert nothing_is_left(host), host.effects


def test_update_killed_anywhere_never_leaves_an_open_port_without_its_rules() -> None:
    def scene(host: SimulatedHost) -> Callable[[], object]:
        create(port(0, host, netns="lab"), host)
        wanted = port(0, host, netns="lab", nat=True)
        return lambda: wanted.update(host, {}, lambda _: None)

    for host in crashes(scene):
        tap = host.links.of["lab"].links[TAP]
        told = Port.read(TAP, tap.alias)
        assert told is not None
        assert not tap.up or Rules("lab", "bgr-lab", (told,)).text() == host.links.of["lab"].rules
        wanted = port(0, host, netns="lab", nat=True)
        create(wanted, host)
        assert isinstance(wanted.observe(host, None), Present)


def test_move_killed_anywhere_leaves_nothing_of_the_old_network() -> None:
    def scene(host: SimulatedHost) -> Callable[[], object]:
        create(port(0, host, netns="old"), host)
        moved = port(0, host, netns="new", name="other", subnet="172.17.0.0/24")

        def move() -> None:
            remove(moved, host)
            create(moved, host)

        return move

    for host in crashes(scene):
        moved = port(0, host, netns="new", name="other", subnet="172.17.0.0/24")
        remove(moved, host)
        assert nothing_is_left(host), host.effects


def test_reboot_leaves_nothing_and_the_port_is_made_again() -> None:
    host = SimulatedHost()
    first = port(0, host, netns="lab")
    create(first, host)
    host.reboot()
    assert first.observe(host, None) == Absent()
    create(first, host)
    assert isinstance(first.observe(host, None), Present)
    assert host.links.of["lab"].links["lo"].alias == NAMESPACE_ALIAS


# --- who answers, and what is needed


def test_guest_answers_while_its_process_has_the_tap() -> None:
    host = SimulatedHost()
    first = port(0, host, netns="lab")
    create(first, host)
    ssh = SshEndpoint("172.16.0.2", 22, "lab")
    assert host.network.ssh_banner(ssh, 1) is None
    vmm = host.processes.add(["qemu", "-netdev", f"tap,id=net0,ifname={TAP},script=no"], "lab")
    assert host.network.ssh_banner(ssh, 1)
    assert host.network.ssh_banner(replace(ssh, netns=""), 1) is None
    assert host.network.ssh_banner(replace(ssh, host="172.16.0.3"), 1) is None
    host.processes.end(vmm.identity)
    assert host.network.ssh_banner(ssh, 1) is None


DEVICES = "a tap on a bridge, firewalled"


def test_needs_tell_what_is_missing_and_the_cure() -> None:
    host = SimulatedHost()
    assert all(need.check(host).met for need in plugin.register_needs())
    host.links.refused, host.tools.missing = HostError("a tap cannot be made: x", hint="modprobe tun"), {"nft"}
    found = {need.name: need.check(host) for need in plugin.register_needs()}
    assert {name for name, finding in found.items() if not finding.met} == {"nft", DEVICES}
    assert found[DEVICES] == Finding(False, "a tap cannot be made: x", "modprobe tun")
    assert "sysctl -w net.ipv4.ip_forward=1" in found["forwarding"].found
    host.links.of[""].forwards = True
    assert plugin.register_needs()[-1].check(host).found == "is on"
