"""nftables: rules go in as text, by nft(8), all of them or none; what is in force is told by a table's comment."""

from __future__ import annotations

import errno
import socket
import struct

from banger.linux.netlink import attributes, dump, text
from banger.linux.run import run

_NETLINK_NETFILTER = 12
_GET_TABLE = 10 << 8 | 1  # linux/netfilter/nfnetlink.h: NFNL_SUBSYS_NFTABLES; nf_tables.h: NFT_MSG_GETTABLE
_FAMILY = struct.Struct("=BxH")  # struct nfgenmsg: family, version, resource id
_TABLE_NAME, _TABLE_USERDATA = 1, 6
_USERDATA_COMMENT = 0  # libnftnl: NFTNL_UDATA_TABLE_COMMENT
_FAMILIES = {0: "", 1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_TIMEOUT_S = 30.0


def tables() -> dict[str, str]:
    """The comment of every table of the namespace we are in, by `family name`; the comment is empty where none is.

    Asked of the kernel itself, which takes no process. Raises OSError when the kernel does not answer us.
    """
    try:
        found = dump(_NETLINK_NETFILTER, _GET_TABLE, _FAMILY.pack(socket.AF_UNSPEC, 0))
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EINVAL):  # a kernel without nftables
            return {}
        raise
    return dict(map(_table, found))


def load(rules: str) -> None:
    """Carry out commands of nft(8) in the namespace we are in.

    Raises HostError when nft is not installed, CommandError with line and column of what it refuses.
    """
    run(["nft", "-f", "-"], input=rules.encode(), timeout_s=_TIMEOUT_S)


def _table(message: bytes) -> tuple[str, str]:
    family, _ = _FAMILY.unpack_from(message)
    found = attributes(message[_FAMILY.size :])
    return f"{_FAMILIES.get(family, family)} {text(found.get(_TABLE_NAME))}", _comment(found.get(_TABLE_USERDATA, b""))


def _comment(userdata: bytes) -> str:
    """Userdata is a row of type, length, value; each of the first two is a byte (libnftnl, udata.h)."""
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _USERDATA_COMMENT:
            return text(userdata[at + 2 : at + 2 + length])
        at += 2 + length
    return ""
