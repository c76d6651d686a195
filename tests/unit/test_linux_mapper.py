"""banger.linux.mapper: what it asks the kernel and what it leaves in files. The lab has the real device mapper."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

import pytest

from banger.errors import BangerError
from banger.host import Target
from banger.linux import dm_ioctl
from banger.linux import mapper as module
from banger.linux.dm_ioctl import Command
from banger.linux.mapper import LinuxMapper

MAPPER = LinuxMapper()
EVENT_NR = 32
"""Where struct dm_ioctl has `event_nr`, of which udev(7) gets the upper half (linux/dm-ioctl.h)."""
NO_RULES = 0x4F
"""libdevmapper.h: PRIMARY_SOURCE, and DISABLE_ DM, SUBSYSTEM, DISK and OTHER rules."""


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in place of /dev/mapper."""
    monkeypatch.setattr(module, "_LINKS", tmp_path)
    return tmp_path


@pytest.fixture
def asked(links: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Command, bytes]]:
    """What a kernel is asked that says nothing new and does nothing."""
    found = []

    def ioctl(_: int, number: int, buffer: bytearray) -> int:
        found.append((Command(number & 0xFF), bytes(buffer)))
        return 0

    (links / "control").write_bytes(b"")
    monkeypatch.setattr(dm_ioctl, "CONTROL", links / "control")
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return found


def refuse(number: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_udev_is_told_to_keep_its_hands_off_with_each_event(asked: list[tuple[Command, bytes]]) -> None:
    MAPPER.create("banger-x", [Target(0, 8, "zero")], uuid="BANGER-x")
    MAPPER.remove("banger-x")
    assert [(command, struct.unpack_from("=I", buffer, EVENT_NR)[0] >> 16) for command, buffer in asked] == [
        (Command.DEV_CREATE, 0),
        (Command.TABLE_LOAD, 0),
        (Command.DEV_SUSPEND, NO_RULES),
        (Command.TABLE_STATUS, 0),
        (Command.DEV_REMOVE, NO_RULES),
    ]


def test_remove_takes_the_link_and_one_that_was_being_made(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("banger-x", ".banger-x.new", ".banger-xy.new", "banger-xy"):
        (links / name).symlink_to("../dm-77")
    monkeypatch.setattr(dm_ioctl, "call", refuse(errno.ENXIO))
    MAPPER.remove("banger-x")
    assert sorted(path.name for path in links.iterdir()) == [".banger-xy.new", "banger-xy"]
    MAPPER.remove("banger-x")


def test_remove_logs_what_it_did_and_nothing_else(
    asked: list[tuple[Command, bytes]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    MAPPER.remove("banger-x")
    assert caplog.messages == ["run: dmsetup remove banger-x"]
    caplog.clear()
    monkeypatch.setattr(dm_ioctl, "call", refuse(errno.ENXIO))
    MAPPER.remove("banger-x")
    assert caplog.messages == []


def test_store_that_is_revived_has_its_mark_and_is_the_same_else(tmp_path: Path) -> None:
    """struct disk_header (drivers/md/dm-snap-persistent.c): magic `SnAp`, valid, version, chunk size, little-endian."""
    store = tmp_path / "cow"
    rest = struct.pack("<II", 1, 8) + os.urandom(8192)
    store.write_bytes(b"SnAp" + bytes(4) + rest)
    assert not MAPPER.store_is_valid(store)
    MAPPER.revive_store(store)
    assert store.read_bytes() == b"SnAp\x01\0\0\0" + rest
    assert MAPPER.store_is_valid(store)
    before = store.stat().st_mtime_ns
    MAPPER.revive_store(store)
    assert store.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"", bytes(4096), b"pAnS" + bytes(4)], ids=["empty", "unused", "something else"])
def test_store_that_is_none_is_valid_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cow").write_bytes(content)
    assert MAPPER.store_is_valid(tmp_path / "cow")
    with pytest.raises(BangerError, match="no store of a snapshot"):
        MAPPER.revive_store(tmp_path / "cow")
    assert (tmp_path / "cow").read_bytes() == content
