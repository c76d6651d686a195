"""Network devices, real and simulated. The real ones are in a namespace of the test's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.errors import BangerError, HostError
from banger.host import Host, Links, NetworkState, Route
from banger.linux.host import LinuxHost
from banger.simulated.links import SimulatedLinks
from banger.testing import SimulatedHost
from tests.networks import inside_a_new_namespace, namespace_name

MAC = "52:54:00:aa:bb:cc"
TABLE = 'table ip t {{\n\tcomment "{}"\n}}\n'


@pytest.fixture(params=["linux", "simulated"])
def links(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Links]:
    if request.param == "simulated":
        yield SimulatedHost().links
        return
    with inside_a_new_namespace():
        yield LinuxHost(tmp_path).links


@pytest.fixture
def name(links: Links) -> Iterator[str]:
    if isinstance(links, SimulatedLinks):
        yield "simulated"
        return
    with namespace_name() as name:
        yield name


def state(links: Links, netns: str = "") -> NetworkState:
    there = links.look(netns)
    assert there is not None
    return there


@pytest.fixture
def by_itself(links: Links) -> set[str]:
    """The devices that a new namespace has: lo, and where the kernel's modules of tunnels are loaded one of each."""
    return {"lo"} if isinstance(links, SimulatedLinks) else {name for _, name in socket.if_nameindex()}


def test_own_namespace_has_lo_and_no_device_of_anybodys(links: Links, by_itself: set[str]) -> None:
    assert "lo" in by_itself
    assert set(state(links).links) == by_itself
    assert state(links).tables == {}
    assert not state(links).forwards
    assert links.routes() == []
    assert links.refusal() is None


def test_bridge_is_down_and_has_its_address_from_the_beginning(links: Links) -> None:
    links.add_bridge("b0", MAC)
    bridge = state(links).links["b0"]
    assert (bridge.kind, bridge.mac, bridge.up, bridge.alias, bridge.addresses) == ("bridge", MAC, False, "", ())
    with pytest.raises(HostError, match="the bridge b0 cannot be made"):
        links.add_bridge("b0", MAC)


def test_bridge_learns_from_link_local_frames_only_when_told_to(links: Links) -> None:
    links.add_bridge("b0", MAC)
    links.add_tap("t0", "")
    learned = [state(links).links["b0"].learns_linklocal]
    for wanted in (True, False):
        links.change("b0", learns_linklocal=wanted)
        learned.append(state(links).links["b0"].learns_linklocal)
    assert learned == [False, True, False]
    assert not state(links).links["t0"].learns_linklocal
    with pytest.raises(HostError, match="the network device t0 cannot be changed"):
        links.change("t0", learns_linklocal=False)


def test_tap_has_alias_and_owner_and_stays(links: Links) -> None:
    links.add_tap("t0", "whose it is", owner=0)
    tap = state(links).links["t0"]
    assert (tap.kind, tap.alias, tap.owner, tap.up, tap.master) == ("tap", "whose it is", 0, False, "")
    with pytest.raises(BangerError):
        links.add_tap("t0", "another's")
    assert state(links).links["t0"] == tap


def test_change_makes_a_device_so_and_leaves_the_rest(links: Links) -> None:
    links.add_bridge("b0", MAC)
    links.change("b0", alias="ours", addresses=["172.16.0.1/24", "172.16.1.1/24"], up=True)
    links.change("b0", addresses=["172.16.1.1/24", "172.16.2.1/25"])
    bridge = state(links).links["b0"]
    assert (bridge.alias, bridge.up, bridge.mac) == ("ours", True, MAC)
    assert set(bridge.addresses) == {"172.16.1.1/24", "172.16.2.1/25"}
    links.change("b0", up=False, addresses=[], alias="")
    assert (state(links).links["b0"].up, state(links).links["b0"].addresses) == (False, ())


def test_port_of_a_bridge_is_isolated_as_asked(links: Links) -> None:
    links.add_bridge("b0", MAC)
    links.add_tap("t0", "")
    links.change("t0", master="b0", isolated=True, up=True)
    port = state(links).links["t0"]
    assert (port.master, port.isolated, port.up) == ("b0", True, True)
    links.change("t0", isolated=False)
    assert not state(links).links["t0"].isolated
    links.change("t0", isolated=True)
    links.change("t0", master="")
    port = state(links).links["t0"]
    assert (port.master, port.isolated) == ("", False)
    with pytest.raises(HostError):
        links.change("t0", isolated=True)


def test_remove_of_a_bridge_sets_its_ports_free(links: Links, by_itself: set[str]) -> None:
    links.add_bridge("b0", MAC)
    links.add_tap("t0", "")
    links.change("t0", master="b0")
    links.remove("b0")
    links.remove("b0")
    assert set(state(links).links) - by_itself == {"t0"}
    assert state(links).links["t0"].master == ""
    links.remove("t0")
    assert set(state(links).links) == by_itself


def test_change_of_what_is_not_there_is_a_host_error(links: Links) -> None:
    with pytest.raises(HostError, match="the network device b0 cannot be changed"):
        links.change("b0", up=True)


def test_address_that_is_up_has_a_route(links: Links) -> None:
    links.add_bridge("b0", MAC)
    links.change("b0", addresses=["172.16.0.1/20"])
    assert Route("172.16.0.0/20", "b0") not in links.routes()
    links.change("b0", up=True)
    assert Route("172.16.0.0/20", "b0") in links.routes()


def test_rules_are_known_by_the_comment_of_their_table(links: Links) -> None:
    links.load_rules(TABLE.format("one"))
    assert state(links).tables == {"ip t": "one"}
    links.load_rules("table ip t\ndelete table ip t\n" + TABLE.format("another"))
    assert state(links).tables == {"ip t": "another"}
    links.load_rules("table ip t\ndelete table ip t\n")
    assert state(links).tables == {}


def test_rules_that_fail_change_nothing(links: Links) -> None:
    links.load_rules(TABLE.format("one"))
    with pytest.raises(BangerError):
        links.load_rules("delete table ip t\ndelete table ip nothing\n")
    assert state(links).tables == {"ip t": "one"}


def test_namespace_is_there_with_its_alias_until_it_is_removed(links: Links, name: str) -> None:
    assert links.look(name) is None
    assert (name in links.namespaces(), links.routes(name)) == (False, [])
    links.add_namespace(name, "ours")
    lo = state(links, name).links["lo"]
    assert (lo.alias, lo.up, name in links.namespaces()) == ("ours", True, True)
    with pytest.raises(HostError):
        links.add_namespace(name, "another's")
    assert state(links, name).links["lo"].alias == "ours"
    links.remove_namespace(name)
    links.remove_namespace(name)
    assert links.look(name) is None
    assert name not in links.namespaces()


def test_devices_of_a_namespace_are_nowhere_else(links: Links, name: str, by_itself: set[str]) -> None:
    links.add_namespace(name, "")
    links.add_bridge("b0", MAC, netns=name)
    links.add_tap("t0", "", netns=name)
    links.change("b0", addresses=["172.16.0.1/24"], up=True, netns=name)
    links.load_rules(TABLE.format("inside"), netns=name)
    links.forward(netns=name)
    assert set(state(links).links) == by_itself
    assert (state(links).tables, state(links).forwards) == ({}, False)
    assert {"lo", "b0", "t0"} <= set(state(links, name).links)
    assert (state(links, name).tables, state(links, name).forwards) == ({"ip t": "inside"}, True)
    assert Route("172.16.0.0/24", "b0") in links.routes(name)
    links.remove("t0", netns=name)
    assert "t0" not in state(links, name).links


def test_devices_in_a_namespace_that_is_not_there_are_a_host_error(links: Links) -> None:
    with pytest.raises(HostError, match="there is no network namespace nowhere"):
        links.add_bridge("b0", MAC, netns="nowhere")


def test_process_in_a_namespace_that_is_not_there_is_a_host_error(host: Host, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no network namespace nowhere"):
        host.processes.start(["true"], log=tmp_path / "log", cwd=tmp_path, netns="nowhere")
