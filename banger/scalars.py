"""Single values as people write them: sizes, modes, paths, ids, networks. Each says itself what is wrong with one."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Written:
    """A value that pydantic reads by its class's own `parse`."""

    @classmethod
    def parse(cls, value: object) -> Any:
        """The value that was written. Raises ValueError with what would be right."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> CoreSchema:
        from pydantic_core import core_schema  # lazily: most commands never validate a playbook

        return core_schema.no_info_plain_validator_function(cls.parse)


MOST_LEVELS = 200
"""How deep directories of a guest may be nested: what walks them on the host does so by recursion."""
_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SIZE = re.compile(r"(\d+)\s*([KMGT]iB|B|)")


class Size(Written, int):
    """A number of bytes; written `512MiB`, `4GiB`, or as a plain whole number of bytes."""

    @classmethod
    def parse(cls, value: object) -> Size:
        """Read a size as a playbook has it. Raises ValueError with what would be right."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("not a size; write a whole number with a unit, such as 512MiB or 4GiB")
        return cls(int(match[1]) * _UNITS[match[2]])

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % _UNITS[unit] == 0:
                return f"{self // _UNITS[unit]}{unit}"
        return f"{int(self)}B"


class FileMode(Written, int):
    """Permission bits of a guest file, written in octal as a string or a YAML scalar with a leading 0: `0644`."""

    @classmethod
    def parse(cls, value: object) -> FileMode:
        """Read an octal mode. A YAML number without its leading zero is ambiguous and refused."""
        if isinstance(value, FileMode):
            return value
        if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3,4}", value):
            return cls(int(value, 8))
        raise ValueError("not a file mode; write it in octal with its leading zero, such as 0644")


class GuestPath(Written, str):
    """An absolute, normalised path inside a guest: no `..`, no control characters, no name over 255 bytes."""

    @classmethod
    def parse(cls, value: object) -> GuestPath:
        """Check a guest path. Raises ValueError; never silently mends one."""
        if not isinstance(value, str) or not value.startswith("/"):
            raise ValueError("not an absolute path in the guest; it must begin with /")
        return cls(_normal(value))


@lru_cache(maxsize=4096)  # each VM of a run has the same ones
def _normal(path: str) -> str:
    if _CONTROL.search(path):
        raise ValueError("a guest path cannot hold control characters")
    parts = path.split("/")
    if ".." in parts:
        raise ValueError("a guest path cannot hold '..'")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts):
        raise ValueError("a name in a guest path is longer than 255 bytes")
    if len(path.encode("utf-8", "surrogateescape")) > 4095:
        raise ValueError("a guest path cannot be longer than 4095 bytes")
    if len(parts) > MOST_LEVELS:
        raise ValueError(f"a guest path cannot lie more than {MOST_LEVELS} directories deep")
    return "/" + posixpath.normpath(path).lstrip("/")


class GuestFilePath(GuestPath):
    """A guest path that can be a file's: neither the root directory nor written as a directory."""

    @classmethod
    def parse(cls, value: object) -> GuestFilePath:
        path = GuestPath.parse(value)
        if str(value).endswith("/"):
            raise ValueError("this is a directory; name the file in it")
        return cls(path)


class OwnerId(Written, int):
    """A numeric user or group id of a guest: 0 to 4294967294 (the last one, -1, means "none" to chown(2))."""

    @classmethod
    def parse(cls, value: object) -> OwnerId:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**32 - 2:
            return cls(value)
        raise ValueError("not a numeric id; names are the guest's own and not known here")


class Subnet(Written, str):
    """An IPv4 network with room for a guest, such as `172.16.0.0/24`; kept as text, with its prefix length."""

    @classmethod
    def parse(cls, value: object) -> Subnet:
        from ipaddress import IPv4Interface, IPv4Network  # only a playbook that declares a network needs it

        try:
            written = IPv4Interface(value if isinstance(value, str) and "/" in value else "")
        except ValueError:
            raise ValueError("not a subnet; write an IPv4 network such as 172.16.0.0/24") from None
        network = written.network
        if written.ip != network.network_address:
            raise ValueError(f"not a subnet but an address in one; did you mean {network}?")
        if not 8 <= network.prefixlen <= 30:
            raise ValueError("not a subnet that guests can have; its prefix length is from 8 to 30")
        if any(network.overlaps(IPv4Network(each)) for each in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")):
            raise ValueError("not a subnet that guests can have; choose a private one, such as 172.16.0.0/24")
        return cls(network)


class Ipv4Address(Written, str):
    """One IPv4 address, such as `192.0.2.53`."""

    @classmethod
    def parse(cls, value: object) -> Ipv4Address:
        from ipaddress import IPv4Address

        try:
            return cls(IPv4Address(value if isinstance(value, str) else ""))
        except ValueError:
            raise ValueError("not an IPv4 address; write four numbers, such as 192.0.2.53") from None


class NamespaceName(Written, str):
    """The name of a network namespace, a file's in /run/netns (ip-netns(8))."""

    @classmethod
    def parse(cls, value: object) -> NamespaceName:
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", value):
            return cls(value)
        raise ValueError("not a namespace's name; write letters, digits, '_', '.' and '-', at most 63 of them")


HostPath = Annotated[str, "a path on the host"]
"""A file of the host, in the options of a plugin; a relative one is looked for beside the playbook that names it."""


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def human(size_bytes: int) -> str:
    """A size for reading, to a tenth of its unit."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}TiB"
