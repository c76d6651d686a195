"""The device mapper, simulated here and real in the lab (tests/lab/inside/test_storage_dm.py runs these there)."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from banger.errors import BangerError, Busy, DiskError, HostError
from banger.host import Host, Inode, MapperDevice, Node, Target
from banger.linux import dm_ioctl
from banger.testing import SimulatedCrash, SimulatedHost
from banger.types import GuestFile
from tests.capabilities import device_mapper, loop_devices, require
from tests.loops import gone

MIB = 2**20
ORIGIN_BYTES = 16 * MIB
COW_BYTES = 8 * MIB
ORIGIN_SECTORS = ORIGIN_BYTES // 512
MOTD = "/etc/motd"


@pytest.fixture
def prefix(host: Host) -> Iterator[str]:
    """What the names of all devices of a test begin with."""
    if not isinstance(host, SimulatedHost):
        require(loop_devices())
        require(device_mapper(), lab_only=True)
    prefix = f"banger-test-{uuid.uuid4().hex[:8]}"
    yield prefix
    left = host.mapper.names(prefix)
    for name in reversed(left):
        host.mapper.remove(name)
    assert left == [], "the test left devices behind"


@pytest.fixture
def origin(host: Host, tmp_path: Path) -> Path:
    nodes = [Node("/etc", "directory"), Node(MOTD, "file", 0o644, content=b"of the image\n")]
    host.ext4.make(tmp_path / "origin", ORIGIN_BYTES, nodes)
    return tmp_path / "origin"


@pytest.fixture
def cow(host: Host, tmp_path: Path) -> Iterator[Path]:
    host.files.allocate(tmp_path / "cow", COW_BYTES)
    yield tmp_path / "cow"
    assert gone(host, tmp_path / "cow"), "a loop device was left behind"


def linear(host: Host, name: str, file: Path, *, sectors: int = ORIGIN_SECTORS, read_only: bool = True) -> MapperDevice:
    with host.loops.attached(file, read_only=read_only) as loop:
        table = [Target(0, sectors, "linear", f"{loop.number} 0")]
        return host.mapper.create(name, table, uuid=f"TEST-{name}", read_only=read_only)


def snapshot(host: Host, name: str, origin: Path, cow: Path) -> MapperDevice:
    with ExitStack() as held:
        beneath = held.enter_context(host.loops.attached(origin, read_only=True, share=True))
        store = held.enter_context(host.loops.attached(cow))
        table = [Target(0, ORIGIN_SECTORS, "snapshot", f"{beneath.number} {store.number} PO 8")]
        return host.mapper.create(name, table, uuid=f"TEST-{name}")


def link(name: str) -> Path:
    return Path("/dev/mapper") / name


def content(host: Host, disk: Path, path: str = MOTD) -> bytes | None:
    found = host.ext4.read(disk, [path])[path]
    return found.content if found else None


@contextlib.contextmanager
def held_open(host: Host, name: str) -> Iterator[None]:
    """Opened like a file, as a VMM opens its disks."""
    if isinstance(host, SimulatedHost):
        host.mapper.opened.add(name)
        yield
        host.mapper.opened.remove(name)
        return
    descriptor = os.open(link(name), os.O_RDWR)
    try:
        yield
    finally:
        os.close(descriptor)


def leave_half_made(host: Host, name: str) -> None:
    """As whoever is killed between making a device and giving it its table leaves it."""
    if not isinstance(host, SimulatedHost):
        dm_ioctl.call(dm_ioctl.Command.DEV_CREATE, name, uuid=f"TEST-{name}")
        return
    host.crash_at(1, after=True)
    with pytest.raises(SimulatedCrash):
        host.mapper.create(name, [Target(0, 8, "zero")], uuid=f"TEST-{name}")
    host.restart()


def give_up(host: Host, name: str) -> None:
    """Let writing to a snapshot's store fail. A real one has 258 chunks: the next table would be beyond its end."""
    if isinstance(host, SimulatedHost):
        host.mapper.give_up(name)
        return
    with pytest.raises(OSError, match="Input/output error"), link(name).open("r+b", buffering=0) as disk:
        for chunk in range(300):
            disk.seek(ORIGIN_BYTES // 2 + chunk * 4096)
            disk.write(b"x" * 4096)
        os.fsync(disk.fileno())


# --- devices -------------------------------------------------------------------------------------------------------


def test_device_of_no_such_name_is_none(host: Host, prefix: str) -> None:
    assert host.mapper.device(prefix) is None
    assert host.mapper.status(prefix) == ()
    assert host.mapper.names(prefix) == []
    host.mapper.remove(prefix)


def test_created_device_is_found_by_its_name(host: Host, prefix: str, origin: Path) -> None:
    name = f"{prefix}-a"
    made = linear(host, name, origin)
    (loop,) = host.loops.of(origin)
    assert (made.name, made.uuid, made.size_bytes) == (name, f"TEST-{name}", ORIGIN_BYTES)
    assert made.table == (Target(0, ORIGIN_SECTORS, "linear", f"{loop.number} 0"),)
    assert (made.read_only, made.open_count, made.linked) == (True, 0, True)
    assert made.path.parent == Path("/dev") and made.path.name == f"dm-{made.number.partition(':')[2]}"
    assert host.mapper.device(name) == made
    assert host.mapper.names(prefix) == [name]
    assert [(line.start, line.length, line.type) for line in host.mapper.status(name)] == [
        (0, ORIGIN_SECTORS, "linear")
    ]
    assert content(host, link(name)) == content(host, made.path) == b"of the image\n"
    host.mapper.remove(name)
    assert host.mapper.device(name) is None
    assert host.files.status(link(name)) is None
    host.mapper.remove(name)


def test_loops_last_as_long_as_the_device_on_them(host: Host, prefix: str, origin: Path) -> None:
    linear(host, prefix, origin)
    assert len(host.loops.of(origin)) == 1
    host.mapper.remove(prefix)
    assert gone(host, origin)


def test_table_of_several_targets_comes_back_in_order(host: Host, prefix: str, origin: Path) -> None:
    with host.loops.attached(origin, read_only=True) as loop:
        table = (Target(0, ORIGIN_SECTORS, "linear", f"{loop.number} 0"), Target(ORIGIN_SECTORS, 4096, "zero"))
        made = host.mapper.create(prefix, table, uuid=f"TEST-{prefix}", read_only=True)
    assert made.table == table
    assert made.size_bytes == ORIGIN_BYTES + 4096 * 512
    host.mapper.remove(prefix)


def test_names_are_those_of_the_prefix_in_order(host: Host, prefix: str, origin: Path) -> None:
    for letter in "cab":
        linear(host, f"{prefix}-{letter}", origin)
    assert host.mapper.names(f"{prefix}-") == [f"{prefix}-{letter}" for letter in "abc"]
    assert host.mapper.names(f"{prefix}-a") == [f"{prefix}-a"]
    for letter in "abc":
        host.mapper.remove(f"{prefix}-{letter}")


def test_remove_a_device_under_another_is_busy(host: Host, prefix: str, origin: Path) -> None:
    lower = linear(host, f"{prefix}-lower", origin)
    table = [Target(0, ORIGIN_SECTORS, "linear", f"{lower.number} 0")]
    host.mapper.create(f"{prefix}-upper", table, uuid=f"TEST-{prefix}-upper", read_only=True)
    found = host.mapper.device(lower.name)
    assert found is not None and found.open_count == 1
    with pytest.raises(Busy, match="in use"):
        host.mapper.remove(lower.name)
    host.mapper.remove(f"{prefix}-upper")
    host.mapper.remove(lower.name)


def test_remove_an_open_device_is_busy_until_it_is_closed(host: Host, prefix: str, origin: Path) -> None:
    linear(host, prefix, origin, read_only=False)
    with held_open(host, prefix), pytest.raises(Busy):
        host.mapper.remove(prefix)
    assert host.mapper.device(prefix) is not None
    host.mapper.remove(prefix)


def test_create_what_is_there_already_is_busy_and_changes_nothing(host: Host, prefix: str, origin: Path) -> None:
    made = linear(host, prefix, origin)
    with pytest.raises(Busy, match="already"):
        host.mapper.create(prefix, [Target(0, 8, "zero")], uuid=made.uuid)
    with pytest.raises(Busy, match="already"):
        host.mapper.create(f"{prefix}-other", [Target(0, 8, "zero")], uuid=made.uuid)
    assert host.mapper.device(prefix) == made
    assert host.mapper.names(prefix) == [prefix]
    host.mapper.remove(prefix)


def test_half_made_device_is_there_without_a_table_and_can_be_removed(host: Host, prefix: str) -> None:
    leave_half_made(host, prefix)
    found = host.mapper.device(prefix)
    assert found is not None and (found.table, found.linked) == ((), False)
    assert host.mapper.names(prefix) == [prefix]
    host.mapper.remove(prefix)
    assert host.mapper.names(prefix) == []


def test_half_made_device_is_finished_by_the_next_create(host: Host, prefix: str, origin: Path) -> None:
    leave_half_made(host, prefix)
    assert linear(host, prefix, origin).table
    host.mapper.remove(prefix)


def test_create_with_an_unknown_target_names_it_and_leaves_nothing(host: Host, prefix: str) -> None:
    with pytest.raises(HostError, match="no device-mapper target nonsense"):
        host.mapper.create(prefix, [Target(0, 8, "nonsense")], uuid=f"TEST-{prefix}")
    assert host.mapper.names(prefix) == []


def test_create_on_a_device_that_is_not_there_leaves_nothing(host: Host, prefix: str) -> None:
    with pytest.raises(BangerError, match=f"cannot make the device {prefix}"):
        host.mapper.create(prefix, [Target(0, 8, "linear", "240:1 0")], uuid=f"TEST-{prefix}")
    assert host.mapper.names(prefix) == []


def test_supports_what_snapshots_need(host: Host, prefix: str) -> None:
    assert [host.mapper.supports(target) for target in ("linear", "snapshot", "zero", "nonsense")] == [
        *(True, True, True),
        False,
    ]


# --- snapshots -----------------------------------------------------------------------------------------------------


def test_snapshot_takes_writes_and_leaves_its_origin_as_it_was(
    host: Host, prefix: str, origin: Path, cow: Path
) -> None:
    snapshot(host, prefix, origin, cow)
    before, store_before = host.files.status(origin), host.files.status(cow)
    host.ext4.patch(link(prefix), [GuestFile(MOTD, b"of the VM\n")])
    assert content(host, link(prefix)) == b"of the VM\n"
    assert content(host, origin) == b"of the image\n"
    assert host.files.status(origin) == before
    assert host.files.status(cow) != store_before
    host.mapper.remove(prefix)


def test_snapshot_keeps_what_was_written_when_it_is_made_again(
    host: Host, prefix: str, origin: Path, cow: Path
) -> None:
    snapshot(host, prefix, origin, cow)
    host.ext4.patch(link(prefix), [GuestFile("/new", b"x" * 100_000, 0o640, 7, 8)])
    written = host.files.status(cow)
    host.mapper.remove(prefix)
    after = host.files.status(cow)
    assert written is not None and after is not None
    assert written.mtime_ns == after.mtime_ns, "what was patched is in the file before the device goes"
    snapshot(host, prefix, origin, cow)
    assert host.ext4.read(link(prefix), ["/new"]) == {"/new": GuestFile("/new", b"x" * 100_000, 0o640, 7, 8)}
    again = host.files.status(cow)
    assert again is not None and again.mtime_ns == written.mtime_ns, "looking changes nothing"
    host.mapper.remove(prefix)


def test_snapshot_status_is_what_it_has_taken_of_its_store(host: Host, prefix: str, origin: Path, cow: Path) -> None:
    snapshot(host, prefix, origin, cow)
    (empty,) = host.mapper.status(prefix)
    host.ext4.patch(link(prefix), [GuestFile("/new", b"x" * MIB)])
    (written,) = host.mapper.status(prefix)
    assert (empty.type, empty.length) == ("snapshot", ORIGIN_SECTORS)
    used, more = (int(line.parameters.split("/")[0]) for line in (empty, written))
    assert {line.parameters.split("/")[1].split()[0] for line in (empty, written)} == {str(COW_BYTES // 512)}
    assert used * 512 < MIB < more * 512
    host.mapper.remove(prefix)


def test_two_snapshots_of_one_origin_are_independent(host: Host, prefix: str, origin: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        host.files.allocate(tmp_path / name, COW_BYTES)
        snapshot(host, f"{prefix}-{name}", origin, tmp_path / name)
        host.ext4.patch(link(f"{prefix}-{name}"), [GuestFile(MOTD, name.encode())])
    assert len(host.loops.of(origin)) == 1, "the origin's loop is shared"
    assert [content(host, link(f"{prefix}-{name}")) for name in ("a", "b")] == [b"a", b"b"]
    host.mapper.remove(f"{prefix}-a")
    assert content(host, link(f"{prefix}-b")) == b"b"
    host.mapper.remove(f"{prefix}-b")
    assert gone(host, origin)


def test_full_snapshot_fails_what_is_too_much_and_keeps_what_it_has(
    host: Host, prefix: str, origin: Path, cow: Path
) -> None:
    host.files.allocate(cow, MIB)
    snapshot(host, prefix, origin, cow)
    host.ext4.patch(link(prefix), [GuestFile("/kept", b"kept")])
    with pytest.raises(DiskError):
        host.ext4.patch(link(prefix), [GuestFile("/large", b"x" * 2 * MIB)])
    assert [line.parameters for line in host.mapper.status(prefix)] == ["Overflow"]
    assert content(host, link(prefix), "/kept") == b"kept"
    host.mapper.remove(prefix)
    host.files.allocate(cow, COW_BYTES)
    snapshot(host, prefix, origin, cow)
    assert host.mapper.store_is_valid(cow)
    host.ext4.recover(link(prefix))
    assert content(host, link(prefix), "/kept") == b"kept"
    host.ext4.patch(link(prefix), [GuestFile("/large", b"x" * 2 * MIB)])
    host.mapper.remove(prefix)


def test_snapshot_that_was_given_up_is_revived_with_what_it_had(
    host: Host, prefix: str, origin: Path, cow: Path
) -> None:
    host.files.allocate(cow, 258 * 4096)
    assert host.mapper.store_is_valid(cow), "one that was never used"
    snapshot(host, prefix, origin, cow)
    host.ext4.patch(link(prefix), [GuestFile("/kept", b"kept")])
    assert host.mapper.store_is_valid(cow)
    give_up(host, prefix)
    assert [line.parameters for line in host.mapper.status(prefix)] == ["Invalid"]
    assert not host.mapper.store_is_valid(cow)
    host.mapper.remove(prefix)
    snapshot(host, prefix, origin, cow)
    assert [line.parameters for line in host.mapper.status(prefix)] == ["Invalid"], "that lasts"
    host.mapper.remove(prefix)

    host.files.allocate(cow, COW_BYTES)
    host.mapper.revive_store(cow)
    assert host.mapper.store_is_valid(cow)
    snapshot(host, prefix, origin, cow)
    host.ext4.recover(link(prefix))
    assert content(host, link(prefix), "/kept") == b"kept"
    host.mapper.remove(prefix)


def test_revive_what_is_no_store_is_refused(host: Host, prefix: str, cow: Path) -> None:
    with pytest.raises(BangerError, match="no store of a snapshot"):
        host.mapper.revive_store(cow)


# --- ext4 on devices -----------------------------------------------------------------------------------------------


def test_file_system_on_an_open_device_is_busy(host: Host, prefix: str, origin: Path, cow: Path) -> None:
    snapshot(host, prefix, origin, cow)
    with held_open(host, prefix):
        with pytest.raises(Busy):
            host.ext4.patch(link(prefix), [GuestFile("/x", b"")])
        with pytest.raises(Busy):
            host.ext4.recover(link(prefix))
        assert content(host, link(prefix)) == b"of the image\n", "looking goes on"
    host.ext4.patch(link(prefix), [GuestFile("/x", b"")])
    host.mapper.remove(prefix)


def test_file_system_is_grown_to_the_size_of_its_device(host: Host, prefix: str, origin: Path, cow: Path) -> None:
    sectors = 4 * ORIGIN_SECTORS
    with host.loops.attached(origin, read_only=True) as loop, host.loops.attached(cow) as store:
        table = [
            Target(0, ORIGIN_SECTORS, "linear", f"{loop.number} 0"),
            Target(ORIGIN_SECTORS, 3 * ORIGIN_SECTORS, "zero"),
        ]
        base = host.mapper.create(f"{prefix}-base", table, uuid=f"TEST-{prefix}-base", read_only=True)
        lines = [Target(0, sectors, "snapshot", f"{base.number} {store.number} PO 8")]
        host.mapper.create(prefix, lines, uuid=f"TEST-{prefix}")
    with pytest.raises(DiskError, match="device"):
        host.ext4.grow(link(prefix), 8 * ORIGIN_BYTES)
    with pytest.raises(DiskError):
        host.ext4.patch(link(prefix), [GuestFile("/large", b"x" * (ORIGIN_BYTES + 1))])
    host.ext4.grow(link(prefix), 4 * ORIGIN_BYTES)
    host.ext4.grow(link(prefix), 4 * ORIGIN_BYTES)
    assert _usable_bytes(host, link(prefix)) > 2 * ORIGIN_BYTES
    host.mapper.remove(prefix)
    host.mapper.remove(f"{prefix}-base")


def _usable_bytes(host: Host, disk: Path) -> int:
    if isinstance(host, SimulatedHost):
        return host.ext4.tree(disk).size_bytes
    from banger.linux.debugfs import free_space

    free = free_space(disk)
    return free.blocks * free.block_bytes


def test_inode_on_a_snapshot_has_mode_and_owner(host: Host, prefix: str, origin: Path, cow: Path) -> None:
    snapshot(host, prefix, origin, cow)
    host.ext4.patch(
        link(prefix), [GuestFile("/s", b"1", 0o4750, 100000, 5)], directories=[Node("/d", "directory", 0o700)]
    )
    found = host.ext4.lookup(link(prefix), ["/s", "/d"])
    assert found["/s"] == Inode("file", 0o4750, 100000, 5, 1)
    directory = found["/d"]
    assert directory is not None and (directory.type, directory.mode) == ("directory", 0o700)
    host.mapper.remove(prefix)
