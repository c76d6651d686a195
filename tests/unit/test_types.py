"""What people write, as values: sizes, modes, paths, ids; and what is refused, with what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from banger.types import FileMode, GuestFilePath, GuestPath, OwnerId, Size, jail_uid, jail_uid_of


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (Size, "512MiB", 512 * 2**20),
        (Size, "4GiB", 2**32),
        (Size, 4096, 4096),
        (FileMode, "0644", 0o644),
        (FileMode, "4755", 0o4755),
        (GuestPath, "//etc/./motd", "/etc/motd"),
        (GuestPath, "/", "/"),
        (GuestFilePath, "/etc/motd", "/etc/motd"),
        (OwnerId, 2**32 - 2, 2**32 - 2),
    ],
)
def test_parse_of_what_is_right(kind: Any, written: object, value: object) -> None:
    assert kind.parse(written) == value


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        *((Size, wrong) for wrong in ("4 gigs", "1.5GiB", "-1MiB", -1, True, None, "4GB")),
        *((FileMode, wrong) for wrong in (420, "0888", "644 ", "07", True)),
        *((GuestPath, wrong) for wrong in ("etc", "", "/a/../b", "/a\nb", "/" + "x" * 256, "/x" * 2048, 1)),
        *((GuestFilePath, wrong) for wrong in ("/", "/etc/", "/a/../b")),
        *((OwnerId, wrong) for wrong in (-1, 2**32 - 1, "root", True)),
    ],
)
def test_parse_of_what_is_wrong_says_what_would_be_right(kind: Any, written: object) -> None:
    with pytest.raises(ValueError, match=r".{20}"):
        kind.parse(written)


def test_size_is_shown_in_its_largest_whole_unit() -> None:
    assert [str(Size(number)) for number in (2**32, 3 * 2**20, 1000, 0)] == ["4GiB", "3MiB", "1000B", "0B"]


def test_jail_of_a_vm_is_known_by_its_socket() -> None:
    assert jail_uid_of(Path("/home/vms/00ff/api.sock")) == jail_uid("00ff") == 0x700000FF
    for path in ("/home/vms/web/api.sock", "/api.sock", "api.sock", "/home/vms/0x1/api.sock", "/home/vms/-1/api.sock"):
        assert jail_uid_of(Path(path)) is None
