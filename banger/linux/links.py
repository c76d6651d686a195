"""Network devices, addresses, routes (`banger.host.Links`): looked at by netlink, changed by pyroute2, taps by ioctl.

pyroute2 takes 0.2 s to import, so that happens where something is changed and nowhere else. A look costs a fraction of
a millisecond.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from banger.errors import Busy, CommandError, HostError
from banger.host import Link, NetworkState, Route
from banger.linux import netns as namespaces
from banger.linux import nft
from banger.linux.netlink import attribute, attributes, dump, number, order, text
from banger.linux.netns import NoSuchNamespace, call_inside

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_TUN = Path("/dev/net/tun")

# linux/if_tun.h, linux/if.h, linux/sockios.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000
_IFF_UP = 0x1
_SIOCBRADDBR = 0x89A0
_NAME_BYTES = 15

# linux/rtnetlink.h, linux/if_link.h, linux/if_bridge.h, linux/if_addr.h
_NEW_LINK, _GET_LINK, _GET_ADDRESS, _GET_ROUTE = 16, 18, 22, 26
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, prefix length of the destination, …, flags
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_EXT_MASK = 1, 3, 10, 18, 20, 29
_SKIP_STATISTICS = struct.pack("=HHI", 8, _IFLA_EXT_MASK, 1 << 3)
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5
_TUN_OWNER, _TUN_TYPE = 1, 3
_PORT_ISOLATED = 33  # IFLA_BRPORT_ISOLATED
_BRIDGE_OPTIONS = 46  # IFLA_BR_MULTI_BOOLOPT: struct br_boolopt_multi, values and which of them count
_NO_LINKLOCAL_LEARN = 1  # 1 << BR_BOOLOPT_NO_LL_LEARN
_IFA_LOCAL = 2
_RTA_DESTINATION, _RTA_DEVICE = 1, 4

T = TypeVar("T")


class LinuxLinks:
    """See `banger.host.Links`. Every method may be called from any thread."""

    def look(self, netns: str = "") -> NetworkState | None:
        with suppress(NoSuchNamespace), _refusals(f"the network{_in(netns)} cannot be looked at"):
            return call_inside(netns, _look)
        return None

    def routes(self, netns: str = "") -> list[Route]:
        with suppress(NoSuchNamespace), _refusals(f"the routes{_in(netns)} cannot be looked at"):
            return call_inside(netns, _routes)
        return []

    def namespaces(self) -> list[str]:
        return namespaces.names()

    def refusal(self, rules: str = "") -> HostError | None:
        try:
            with _refusals("a network namespace cannot be made"):
                namespaces.call_in_a_new_one(lambda: _try_all(rules))
        except HostError as error:
            return error
        return None

    def add_namespace(self, name: str, alias: str) -> None:
        def prepare() -> None:
            with _routing() as routing:
                routing.link("set", index=socket.if_nametoindex("lo"), ifalias=alias, state="up")

        with _refusals(f"the network namespace {name} cannot be made"):
            namespaces.make(name, prepare)

    def remove_namespace(self, name: str) -> None:
        with _refusals(f"the network namespace {name} cannot be removed"):
            namespaces.remove(name)

    def add_bridge(self, name: str, mac: str, *, netns: str = "") -> None:
        def add() -> None:
            with _routing() as routing:
                # Its address is set, so that it does not change with the ports that come and go.
                routing.link("add", ifname=name, kind="bridge", address=mac, br_stp_state=0, br_forward_delay=0)
            _learn_linklocal(socket.if_nametoindex(name), False)

        self._do(f"the bridge {name} cannot be made", netns, add, module="bridge")

    def add_tap(self, name: str, alias: str, *, owner: int | None = None, netns: str = "") -> None:
        def add() -> None:
            with _TUN.open("r+b", buffering=0) as tun:
                _name_tap(tun.fileno(), name)
                fcntl.ioctl(tun, _TUNSETOWNER, os.geteuid() if owner is None else owner)
                with _routing() as routing:
                    routing.link("set", index=socket.if_nametoindex(name), ifalias=alias)
                fcntl.ioctl(tun, _TUNSETPERSIST, 1)  # until here it goes with us

        self._do(f"the tap {name} cannot be made", netns, add, module="tun")

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
        def change() -> None:
            index = socket.if_nametoindex(name)
            with _routing() as routing:
                if alias is not None:
                    routing.link("set", index=index, ifalias=alias)
                if addresses is not None:
                    _set_addresses(routing, index, addresses)
                if master is not None:
                    routing.link("set", index=index, master=socket.if_nametoindex(master) if master else 0)
                if isolated is not None:
                    routing.brport("set", index=index, isolated=int(isolated))
                if learns_linklocal is not None:
                    _learn_linklocal(index, learns_linklocal)
                if up is not None:
                    routing.link("set", index=index, state="up" if up else "down")

        self._do(f"the network device {name} cannot be changed", netns, change)

    def remove(self, name: str, *, netns: str = "") -> None:
        def remove() -> None:
            with _routing() as routing:
                routing.link("del", ifname=name)

        self._do(f"the network device {name} cannot be removed", netns, remove, gone=errno.ENODEV)

    def load_rules(self, rules: str, *, netns: str = "") -> None:
        call_inside(netns, lambda: nft.load(rules))

    def forward(self, *, netns: str) -> None:
        def forward() -> None:
            _FORWARD.write_text("1\n")

        self._do("net.ipv4.ip_forward cannot be set", netns, forward)

    def _do(self, failure: str, netns: str, change: Callable[[], None], *, gone: int = 0, module: str = "") -> None:
        """Change something inside a namespace; an error of the number `gone` is success. `module`: see `_refusals`."""
        with _refusals(failure + _in(netns), gone=gone, module=module):
            call_inside(netns, change)


def _look() -> NetworkState:
    addresses: dict[int, list[str]] = {}
    for message in dump(socket.NETLINK_ROUTE, _GET_ADDRESS, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, index = _ADDRESS.unpack_from(message)
        local = attributes(message[_ADDRESS.size :])[_IFA_LOCAL]
        addresses.setdefault(index, []).append(f"{socket.inet_ntoa(local)}/{prefix}")
    found = dump(socket.NETLINK_ROUTE, _GET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _SKIP_STATISTICS)
    headers = [(_LINK.unpack_from(message), attributes(message[_LINK.size :])) for message in found]
    names = {header[2]: text(about[_IFLA_IFNAME]) for header, about in headers}
    links = [_link(index, flags, about, names, addresses) for (_, _, index, flags, _), about in headers]
    return NetworkState({link.name: link for link in links}, nft.tables(), _FORWARD.read_text().strip() != "0")


def _link(
    index: int, flags: int, about: dict[int, bytes], names: dict[int, str], addresses: dict[int, list[str]]
) -> Link:
    info = attributes(about.get(_IFLA_LINKINFO, b""))
    data, port = attributes(info.get(_INFO_DATA, b"")), attributes(info.get(_INFO_SLAVE_DATA, b""))
    kind, master = text(info.get(_INFO_KIND)), number(about.get(_IFLA_MASTER))
    tap = kind == "tun" and number(data.get(_TUN_TYPE)) == _IFF_TAP
    return Link(
        name=names[index],
        index=index,
        kind="tap" if tap else kind,
        mac=about.get(_IFLA_ADDRESS, b"").hex(":"),
        up=bool(flags & _IFF_UP),
        alias=text(about.get(_IFLA_IFALIAS)),
        master=names.get(master, "") if master else "",
        isolated=bool(number(port.get(_PORT_ISOLATED))),
        learns_linklocal=kind == "bridge" and not _options(data) & _NO_LINKLOCAL_LEARN,
        owner=number(data.get(_TUN_OWNER)) if tap else None,
        addresses=tuple(addresses.get(index, ())),
    )


def _options(bridge: dict[int, bytes]) -> int:
    """The options of a bridge that are on, a bit for each; none where the kernel knows of none."""
    return number(bridge.get(_BRIDGE_OPTIONS, b"")[:4]) or 0


def _learn_linklocal(index: int, on: bool) -> None:
    """ip-link(8): no_linklocal_learn, of a bridge."""
    options = struct.pack("=II", 0 if on else _NO_LINKLOCAL_LEARN, _NO_LINKLOCAL_LEARN)
    info = attribute(_INFO_KIND, b"bridge") + attribute(_INFO_DATA, attribute(_BRIDGE_OPTIONS, options))
    order(
        socket.NETLINK_ROUTE,
        _NEW_LINK,
        _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(_IFLA_LINKINFO, info),
    )


def _routes() -> list[Route]:
    names = dict(socket.if_nameindex())
    routes = []
    for message in dump(socket.NETLINK_ROUTE, _GET_ROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        about = attributes(message[_ROUTE.size :])
        destination = socket.inet_ntoa(about.get(_RTA_DESTINATION, bytes(4)))
        device = number(about.get(_RTA_DEVICE))
        routes.append(Route(f"{destination}/{message[1]}", names.get(device, "") if device else ""))
    return routes


def _set_addresses(routing: Any, index: int, wanted: Sequence[str]) -> None:
    there = next((link.addresses for link in _look().links.values() if link.index == index), ())
    for verb, which in (("add", [a for a in wanted if a not in there]), ("del", [a for a in there if a not in wanted])):
        for each in which:
            address, _, prefix = each.partition("/")
            routing.addr(verb, index=index, address=address, prefixlen=int(prefix))


def _name_tap(descriptor: int, name: str) -> None:
    """Make a tap of this name, whose packets have no header but virtio's; fails when the name is taken."""
    encoded = name.encode()
    if len(encoded) > _NAME_BYTES:
        raise OSError(errno.ERANGE, f"{name} has more than {_NAME_BYTES} bytes")
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", encoded, flags))


def _try_all(rules: str) -> None:
    """Make one of each. Raises HostError with the cure of what fails."""
    with _refusals("a tap cannot be made", module="tun"), _TUN.open("r+b", buffering=0) as tun:
        _name_tap(tun.fileno(), "tap")
    with (
        _refusals("a bridge cannot be made", module="bridge"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket,
    ):
        fcntl.ioctl(any_socket, _SIOCBRADDBR, b"bridge\0")
    if rules:
        try:
            nft.load(rules)
        except CommandError as error:
            said = next((line for line in error.message.splitlines() if "Error" in line), error.message)
            raise HostError(f"its firewall cannot be made: {said}", hint=_RULES_CURE) from error


@contextmanager
def _routing() -> Iterator[Any]:
    """pyroute2's rtnetlink socket in the namespace that we are in; its errors become OSError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute(ext_ack=True) as routing:
            yield routing
    except NetlinkError as error:
        raise OSError(error.code, error.args[-1]) from error


@contextmanager
def _refusals(failure: str, *, gone: int = 0, module: str = "") -> Iterator[None]:
    """Tell what the kernel refused, and why. `module`: of the kernel, without which it knows nothing of this."""
    try:
        yield
    except OSError as error:
        if gone and error.errno == gone:
            return
        message = f"{failure}: {error.strerror or error}"
        if error.errno == errno.EBUSY:
            raise Busy(message) from error
        missing = module and error.errno in _NOT_KNOWN
        raise HostError(message, hint=f"modprobe {module}" if missing else _CURES.get(error.errno or 0)) from error


_CURES = {
    errno.EPERM: "run as root",
    errno.EACCES: "run as root",
    errno.EEXIST: "see what it is: ip -d link",
}
_NOT_KNOWN = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP, errno.ENOPKG})
_RULES_CURE = "use a kernel with CONFIG_NF_TABLES_BRIDGE, CONFIG_NF_TABLES_INET and CONFIG_NFT_MASQ"


def _in(netns: str) -> str:
    return f" in the network namespace {netns}" if netns else ""
