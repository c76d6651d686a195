"""Root disks as snapshots, on the simulated host. The lab has the real ones (tests/lab/inside/test_storage_dm.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import banger_storage_dm as plugin
import pytest
from banger_storage_dm.overlay import CHUNK_BYTES, CowFile, overlay_size
from banger_storage_dm.snapshot import Snapshot
from hypothesis import given
from hypothesis import strategies as st

from banger.core.apply import NoJournal, carry_out
from banger.core.guest_files import GuestFiles
from banger.core.plan import Verb, plan
from banger.errors import BangerError, Busy, DiskError
from banger.host import Target
from banger.linux.host import ReadOnlyHost
from banger.needs import Finding
from banger.resource import Absent, Drifted, Handle, Present, Resource
from banger.rootdisk import image_of
from banger.scalars import human
from banger.testing import SimulatedCrash, SimulatedHost
from banger.types import Disk, GuestFile, Image, RootDisk, Vm
from tests.plugins import disks
from tests.plugins.disks import IMAGE_BYTES, Stages

MIB = 2**20
MOTD = GuestFile("/etc/motd", b"of the VM\n")
DEVICE = Path("/dev/mapper/banger-0123456789-root")


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    simulated = SimulatedHost()
    for name in ("image", "vm", "vm-2"):
        simulated.files.make_directory(tmp_path / name)
    return simulated


@pytest.fixture
def image(host: SimulatedHost, tmp_path: Path) -> Image:
    return disks.image(host, tmp_path / "image")


@pytest.fixture
def machine(tmp_path: Path) -> Vm:
    return disks.vm(tmp_path / "vm", storage="dm")


def resources(vm: Vm, image: Image, *files: GuestFile) -> tuple[CowFile, Snapshot, GuestFiles]:
    disk: RootDisk = plugin.prepare_root_disk(vm, image)
    cow, snapshot = disk.resources
    keys = (cow.key, snapshot.key)
    manifest = vm.directory / "guest-files-root.json"
    written = GuestFiles(f"{vm.name}/root/guest-files", keys, disk.guest_disk, files or (MOTD,), (), manifest)
    return cow, snapshot, written


def apply(
    host: SimulatedHost, wanted: Sequence[Resource], unwanted: Sequence[Resource] = (), **how: Any
) -> list[tuple[str, str]]:
    """Plan and carry out, as a command does; what was done, by the last word of the key."""
    made = plan("vm/web", wanted, ReadOnlyHost(host), {}, unwanted=unwanted, **how)
    outcome = carry_out(made, host, NoJournal(), lambda event: None, Event())
    if outcome.error is not None:
        raise outcome.error
    return [(action.verb.value, action.resource.key.rpartition("/")[2]) for action in made.actions if action.changes]


def pending(host: SimulatedHost, wanted: Sequence[Resource]) -> list[str]:
    """What a plan says must wait, and for what."""
    made = plan("vm/web", wanted, ReadOnlyHost(host), {})
    return [f"{action.resource.key} {action.reason}" for action in made.actions if action.verb is Verb.PENDING]


def content(host: SimulatedHost, disk: Path = DEVICE, path: str = MOTD.path) -> bytes | None:
    found = host.ext4.read(disk, [path])[path]
    return found.content if found else None


def remove_all(host: SimulatedHost, *wanted: Resource) -> None:
    for resource in reversed(wanted):
        resource.remove(host, None, Stages())


def assert_nothing_is_left(host: SimulatedHost, directory: Path | None = None) -> None:
    assert (host.mapper.names(), host.loops.all) == ([], [])
    assert directory is None or host.files.list(directory) == []


def start_vmm(host: SimulatedHost) -> None:
    host.processes.add(["qemu-system-x86_64", f"file={DEVICE}"])


class Vmm(Resource):
    """Something that runs on the disk as long as its process does."""

    lifetime = Snapshot.lifetime

    def __init__(self, *beneath: Resource) -> None:
        self.key, self.needs = "web/vmm", tuple(resource.key for resource in beneath)

    def observe(self, host: Any, recorded: Handle | None) -> Absent | Present:
        return Present() if host.processes.find("/vm.sock") else Absent()

    def create(self, host: Any, needs: Any, stage: Any) -> Handle:
        host.processes.start(
            ["qemu-system-x86_64", "unix:/vm.sock", f"file={DEVICE}"], log=Path("/tmp/log"), cwd=Path("/tmp")
        )
        return {}

    def remove(self, host: Any, handle: Handle | None, stage: Any) -> None:
        if process := host.processes.find("/vm.sock"):
            host.processes.kill(process)


# --- what comes out ------------------------------------------------------------------------------------------------


def test_root_disk_is_one_plain_disk_over_the_image(machine: Vm, image: Image) -> None:
    disk = plugin.prepare_root_disk(machine, image)
    assert disk.disks == (Disk(DEVICE, role="root"),)
    guest = disk.guest_disk
    assert (guest.path, guest.prefix, guest.base, guest.backing) == (DEVICE, "", image.rootfs, machine.root_overlay)
    assert disk.kernel_arguments == ("banger.root=/dev/vda", "root=/dev/vda", "rw")


def test_handle_names_what_the_kernel_made(host: SimulatedHost, machine: Vm, image: Image) -> None:  # seed S1
    cow, snapshot, _ = resources(machine, image)
    cow.create(host, {}, Stages())
    handle = snapshot.create(host, {}, Stages())
    assert handle == {
        "base_loop": "/dev/loop0",
        "cow_loop": "/dev/loop1",
        "dm_name": "banger-0123456789-root",
        "dm_device": "/dev/dm-1",  # dm-0 makes the image as large as the disk
    }
    assert snapshot.observe(host, None) == Present(handle)
    devices = [host.mapper.device(name) for name in host.mapper.names()]
    assert [device.uuid for device in devices if device] == ["BANGER-0123456789-root", "BANGER-0123456789-root-base"]


def test_base_is_attached_under_the_lock_of_its_image_and_the_overlay_past_the_cache(
    host: SimulatedHost, machine: Vm, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def noted(name: str) -> Iterator[None]:
        host.effects.append(f"lock {name}")
        yield
        host.effects.append(f"unlock {name}")

    cow, snapshot, _ = resources(machine, image)
    cow.create(host, {}, Stages())
    monkeypatch.setattr(host, "locked", noted)
    snapshot.create(host, {}, Stages())
    taken = [effect for effect in host.effects if "lock" in effect.split()[0] or effect.startswith("loops.")]
    assert taken == [
        f"lock base-{image.digest}",
        f"loops.attach {image.rootfs}",
        f"unlock base-{image.digest}",
        f"loops.attach {machine.root_overlay}",
    ]
    assert host.loops.direct == {machine.root_overlay}


def test_files_go_to_the_overlay_and_the_image_stays(host: SimulatedHost, machine: Vm, image: Image) -> None:
    before = host.ext4.tree(image.rootfs).copy()
    assert apply(host, resources(machine, image)) == [
        ("create", "cow"),
        ("create", "snapshot"),
        ("create", "guest-files"),
    ]
    assert content(host) == MOTD.content
    assert host.ext4.tree(image.rootfs) == before
    assert apply(host, resources(machine, image)) == []


def test_disk_as_large_as_its_image_needs_one_device_and_no_growing(
    host: SimulatedHost, machine: Vm, image: Image
) -> None:
    cow, snapshot, _ = resources(replace(machine, root_disk_bytes=IMAGE_BYTES), image)
    stages = Stages()
    cow.create(host, {}, stages)
    snapshot.create(host, {}, stages)
    assert host.mapper.names() == ["banger-0123456789-root"]
    assert stages == ["making the overlay"]
    assert isinstance(snapshot.observe(host, None), Present)


def test_larger_disk_is_filled_by_its_file_system(host: SimulatedHost, machine: Vm, image: Image) -> None:
    cow, snapshot, _ = resources(machine, image)
    stages = Stages()
    cow.create(host, {}, stages)
    snapshot.create(host, {}, stages)
    assert host.mapper.names() == ["banger-0123456789-root", "banger-0123456789-root-base"]
    assert stages == ["making the overlay", "growing the root disk"]
    assert host.ext4.tree(DEVICE).size_bytes == machine.root_disk_bytes
    assert image_of(host, machine.root_overlay) == image.digest


def test_overlay_that_is_there_is_kept(host: SimulatedHost, machine: Vm, image: Image) -> None:  # seed S8
    wanted = resources(machine, image)
    apply(host, wanted)
    host.reboot()
    assert wanted[1].observe(host, None) == Absent()
    assert apply(host, wanted) == [("create", "snapshot")]
    assert content(host) == MOTD.content


def test_vms_of_one_image_share_its_loop_and_leave_it_to_the_other(
    host: SimulatedHost, machine: Vm, image: Image, tmp_path: Path
) -> None:
    other = disks.vm(tmp_path / "vm-2", storage="dm", id="9876543210", name="db")
    first, second = resources(machine, image), resources(other, image)
    apply(host, first)
    apply(host, second)
    assert len(host.loops.of(image.rootfs)) == 1
    assert len(host.loops.all) == 3
    remove_all(host, *first)
    assert isinstance(second[1].observe(host, None), Present)
    assert content(host, second[1].path) == MOTD.content
    remove_all(host, *second)
    assert_nothing_is_left(host, tmp_path / "vm-2")


def test_files_of_a_stopped_vm_are_written_through_a_snapshot_for_the_moment(
    host: SimulatedHost, machine: Vm, image: Image
) -> None:
    cow, snapshot, files = resources(machine, image)
    assert apply(host, [cow, files], [snapshot]) == [
        ("create", "cow"),
        ("create", "snapshot"),
        ("create", "guest-files"),
        ("remove", "snapshot"),
    ]
    assert_nothing_is_left(host)
    assert apply(host, [cow, files], [snapshot]) == []
    snapshot.create(host, {}, Stages())
    assert content(host) == MOTD.content


def test_disk_that_a_guest_used_is_looked_into_again(host: SimulatedHost, machine: Vm, image: Image) -> None:  # seed S9
    wanted = resources(machine, image)
    apply(host, wanted)
    host.guest_writes(DEVICE, replace(MOTD, content=b"of the guest\n"))
    assert wanted[2].observe(host, None) == Present(verified=False)
    assert apply(host, [*wanted, Vmm(*wanted)]) == [("update", "guest-files"), ("create", "vmm")]
    assert content(host) == MOTD.content


# --- killed, failing -----------------------------------------------------------------------------------------------


def fresh(machine: Vm, tmp_path: Path) -> tuple[SimulatedHost, tuple[CowFile, Snapshot, GuestFiles]]:
    """A host with nothing but an image, and what a VM on it consists of."""
    host = SimulatedHost()
    for name in ("image", "vm"):
        host.files.make_directory(tmp_path / name)
    return host, resources(machine, disks.image(host, tmp_path / "image"))


def effects_of_apply(machine: Vm, tmp_path: Path) -> list[str]:
    host, wanted = fresh(machine, tmp_path)
    before = len(host.effects)
    apply(host, wanted)
    return host.effects[before:]


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_effect_the_next_command_ends_it(machine: Vm, tmp_path: Path, after: bool) -> None:
    for number, effect in enumerate(effects_of_apply(machine, tmp_path), 1):
        host, wanted = fresh(machine, tmp_path)
        host.crash_at(number, after=after)
        with pytest.raises(SimulatedCrash):
            apply(host, wanted)
        host.restart()
        apply(host, wanted)
        assert apply(host, wanted) == [], f"not settled after being killed at {effect}"
        assert content(host) == MOTD.content
        assert host.ext4.tree(DEVICE).size_bytes == machine.root_disk_bytes
        remove_all(host, *wanted)
        assert_nothing_is_left(host, tmp_path / "vm")


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_effect_it_can_be_removed_without_the_playbook(machine: Vm, tmp_path: Path, after: bool) -> None:
    for number in range(1, len(effects_of_apply(machine, tmp_path)) + 1):
        host, wanted = fresh(machine, tmp_path)
        host.crash_at(number, after=after)
        with pytest.raises(SimulatedCrash):
            apply(host, wanted)
        host.restart()
        (recorded,) = plugin.teardown_handles(machine, {"web/root/snapshot": {}})
        recorded.remove(host, {}, Stages())
        assert_nothing_is_left(host)


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_removing_the_next_remove_ends_it(
    host: SimulatedHost, machine: Vm, image: Image, tmp_path: Path, after: bool
) -> None:
    wanted = resources(machine, image)
    apply(host, wanted)
    before = len(host.effects)
    remove_all(host, *wanted)
    for number in range(1, len(host.effects) - before + 1):
        apply(host, wanted)
        host.crash_at(number, after=after)
        with pytest.raises(SimulatedCrash):
            remove_all(host, *wanted)
        host.restart()
        remove_all(host, *wanted)
        assert_nothing_is_left(host, tmp_path / "vm")


def test_failing_at_any_effect_is_rolled_back(machine: Vm, tmp_path: Path) -> None:
    for number in range(1, len(effects_of_apply(machine, tmp_path)) + 1):
        host, wanted = fresh(machine, tmp_path)
        host.fail_at(number)
        with pytest.raises(BangerError, match="simulated failure"):
            apply(host, wanted)
        assert_nothing_is_left(host, tmp_path / "vm")


def killed_while_growing(machine: Vm, tmp_path: Path, *, after: bool) -> tuple[SimulatedHost, Snapshot]:
    effects = effects_of_apply(machine, tmp_path)
    host, wanted = fresh(machine, tmp_path)
    host.crash_at(effects.index(f"ext4.grow {DEVICE}") + 1, after=after)
    with pytest.raises(SimulatedCrash):
        apply(host, wanted)
    host.restart()
    return host, wanted[1]


@pytest.mark.parametrize("after", [False, True])
def test_growing_that_was_cut_off_is_noticed_and_ended(machine: Vm, tmp_path: Path, after: bool) -> None:
    host, snapshot = killed_while_growing(machine, tmp_path, after=after)
    seen = snapshot.observe(host, None)
    assert isinstance(seen, Drifted)
    assert (seen.differences, seen.in_place, seen.usable) == (("growing the root disk was interrupted",), True, False)
    snapshot.update(host, {}, Stages())
    assert isinstance(snapshot.observe(host, None), Present)
    assert host.ext4.tree(DEVICE).size_bytes == machine.root_disk_bytes


def test_growing_that_was_cut_off_is_ended_though_less_is_wanted_by_now(machine: Vm, tmp_path: Path) -> None:
    host, snapshot = killed_while_growing(machine, tmp_path, after=True)
    host.reboot()
    assert snapshot.overlay is not None
    smaller = replace(snapshot, overlay=replace(snapshot.overlay, root_disk_bytes=IMAGE_BYTES))
    smaller.create(host, {}, Stages())
    assert host.mapper.size_bytes(DEVICE) == machine.root_disk_bytes, "the file system may reach that far"


# --- changes -------------------------------------------------------------------------------------------------------


def test_larger_root_disk_waits_for_a_restart_and_is_grown(host: SimulatedHost, machine: Vm, image: Image) -> None:
    small = resources(machine, image)
    apply(host, [*small, Vmm(*small)])
    large = resources(replace(machine, root_disk_bytes=96 * MIB), image)
    wanted = [*large, Vmm(*large)]
    assert pending(host, wanted) == [
        "web/root/cow root_disk 64MiB -> 96MiB: needs --restart",
        "web/root/snapshot root_disk 64MiB -> 96MiB: needs --restart",
    ]
    apply(host, wanted, restart=True)
    assert host.ext4.tree(DEVICE).size_bytes == 96 * MIB
    assert content(host) == MOTD.content
    assert apply(host, wanted) == []


def test_smaller_root_disk_waits_for_a_new_one_and_stays_usable(host: SimulatedHost, machine: Vm, image: Image) -> None:
    large = resources(machine, image)
    apply(host, large)
    host.reboot()
    small = resources(replace(machine, root_disk_bytes=48 * MIB), image)
    assert pending(host, small) == ["web/root/cow root_disk 64MiB -> 48MiB: needs --recreate"]
    apply(host, small)
    assert host.mapper.size_bytes(DEVICE) == 64 * MIB, "never smaller than the file system on it"
    apply(host, small, recreate=True)
    assert host.mapper.size_bytes(DEVICE) == host.ext4.tree(DEVICE).size_bytes == 48 * MIB
    assert apply(host, small) == []


def test_larger_overlay_waits_for_a_restart_and_smaller_for_a_new_disk(
    host: SimulatedHost, machine: Vm, image: Image
) -> None:
    bounded = replace(machine, overlay_bytes=8 * MIB)
    before = resources(bounded, image)
    apply(host, [*before, Vmm(*before)])
    smaller = resources(replace(bounded, overlay_bytes=4 * MIB), image)
    assert pending(host, smaller) == ["web/root/cow overlay 8.0MiB -> 4.0MiB: needs --recreate"]
    larger = resources(replace(bounded, overlay_bytes=16 * MIB), image)
    wanted = [*larger, Vmm(*larger)]
    assert pending(host, wanted) == ["web/root/cow overlay 8.0MiB -> 16.0MiB: needs --restart"]
    apply(host, wanted, restart=True)
    assert apply(host, wanted) == []
    status = host.files.status(machine.root_overlay)
    assert status is not None and status.size_bytes == 16 * MIB
    assert content(host) == MOTD.content


def test_overlay_without_a_bound_holds_the_whole_disk(host: SimulatedHost, machine: Vm, image: Image) -> None:
    bounded = resources(replace(machine, overlay_bytes=8 * MIB), image)
    apply(host, bounded)
    host.reboot()
    unbounded = resources(machine, image)
    assert unbounded[0].observe(host, None) == Drifted({}, ("overlay as large as root_disk",))
    assert apply(host, unbounded) == [("update", "cow"), ("create", "snapshot")]
    status = host.files.status(machine.root_overlay)
    assert status is not None and status.size_bytes == overlay_size(machine.root_disk_bytes, None)
    assert unbounded[0].observe(host, None) == Present()


def test_another_image_needs_a_new_disk(host: SimulatedHost, machine: Vm, image: Image) -> None:
    apply(host, resources(machine, image))
    host.reboot()
    other = resources(machine, replace(image, digest="d2"))
    assert pending(host, other) == ["web/root/cow made for another image: needs --recreate"]
    made = plan("vm/web", other, ReadOnlyHost(host), {})
    assert [action.reason for action in made.blocked] == [
        "waits for web/root/cow (made for another image: needs --recreate)"
    ]
    apply(host, other, recreate=True)
    assert apply(host, other) == []


def test_devices_that_stand_on_something_else_are_made_anew(
    host: SimulatedHost, machine: Vm, image: Image, tmp_path: Path
) -> None:
    cow, snapshot, _ = resources(machine, image)
    cow.create(host, {}, Stages())
    disks.image(host, tmp_path / "vm-2")
    host.files.allocate(tmp_path / "vm-2" / "cow", cow.size_bytes)
    sectors = machine.root_disk_bytes // 512
    image_sectors = IMAGE_BYTES // 512

    def mapped(origin: Path, store: Path, size: int, kind: str = "PO 8") -> None:
        with host.loops.attached(origin, read_only=True) as beneath, host.loops.attached(store) as above:
            base = (Target(0, image_sectors, "linear", f"{beneath.number} 0"), Target(image_sectors, sectors, "zero"))
            number = host.mapper.create(f"{snapshot.name}-base", base, uuid="b", read_only=True).number
            table = [Target(0, size, "snapshot", f"{number} {above.number} {kind}")]
            host.mapper.create(snapshot.name, table, uuid="s")

    for origin, store, size, kind, said in (
        (tmp_path / "vm-2" / "rootfs.ext4", cow.path, sectors, "PO 8", "is of another image"),
        (image.rootfs, tmp_path / "vm-2" / "cow", sectors, "PO 8", "keeps what is written in another file"),
        (image.rootfs, cow.path, image_sectors, "PO 8", "root_disk 32MiB -> 64MiB"),
        (image.rootfs, cow.path, sectors, "N 16", "its devices are put together differently"),
        (image.rootfs, cow.path, sectors, "PO 8", "its devices are put together differently"),
    ):
        mapped(origin, store, size, kind)
        seen = snapshot.observe(host, None)
        assert isinstance(seen, Drifted)
        assert (seen.differences, seen.in_place, seen.usable) == ((said,), True, False)
        snapshot.update(host, {}, Stages())
        assert isinstance(snapshot.observe(host, None), Present)
        snapshot.remove(host, None, Stages())


# --- a full overlay, a lost one ------------------------------------------------------------------------------------


def test_full_overlay_is_told_by_the_playbooks_key_and_mended_by_a_larger_one(
    host: SimulatedHost, machine: Vm, image: Image
) -> None:
    bounded = replace(machine, overlay_bytes=4 * MIB, root_disk_bytes=IMAGE_BYTES)
    before = resources(bounded, image)
    apply(host, [*before, Vmm(*before)])
    host.guest_writes(DEVICE, GuestFile("/large", b"x" * 8 * MIB))
    words = "its overlay is full (4.0MiB of 4.0MiB): raise `overlay`, then apply --restart"
    assert pending(host, [*before, Vmm(*before)]) == [f"web/root/snapshot {words}: needs --restart"]
    assert before[1].describe(host, {}) == {"overlay": words}

    larger = resources(replace(bounded, overlay_bytes=16 * MIB), image)
    wanted = [*larger, Vmm(*larger)]
    apply(host, wanted, restart=True)
    assert apply(host, wanted) == []
    assert content(host) == MOTD.content
    host.guest_writes(DEVICE, GuestFile("/large", b"x" * 8 * MIB))
    assert isinstance(larger[1].observe(host, None), Present)


def test_full_overlay_that_is_not_raised_fails_with_the_same_words(
    host: SimulatedHost, machine: Vm, image: Image
) -> None:
    wanted = resources(replace(machine, overlay_bytes=MIB, root_disk_bytes=IMAGE_BYTES), image)
    apply(host, wanted)
    host.guest_writes(DEVICE, GuestFile("/most", b"x" * (MIB - 5 * CHUNK_BYTES)))
    assert host.mapper.status(wanted[1].name)[0].parameters == "2048/2048 16", "there is no room for another chunk"
    host.reboot()
    with pytest.raises(
        DiskError, match=r"web/root/snapshot: its overlay is full \(1.0MiB of 1.0MiB\): raise `overlay`"
    ):
        apply(host, wanted)
    assert_nothing_is_left(host)


def test_overlay_that_was_given_up_is_taken_up_again_with_what_it_holds(
    host: SimulatedHost, machine: Vm, image: Image
) -> None:
    wanted = resources(machine, image)
    running = [*wanted, Vmm(*wanted)]
    apply(host, running)
    host.mapper.give_up(wanted[1].name)
    assert [line.partition(" ")[0] for line in pending(host, running)] == ["web/root/cow", "web/root/snapshot"]
    assert all("the kernel gave its overlay up" in line for line in pending(host, running))
    assert "gave its overlay up (Invalid)" in wanted[1].describe(host, {})["overlay"]
    apply(host, running, restart=True)
    assert apply(host, running) == []
    assert content(host) == MOTD.content


def test_describe_of_a_given_up_snapshot_whose_overlay_is_gone_says_so(
    host: SimulatedHost, machine: Vm, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = resources(machine, image)
    apply(host, wanted)
    host.mapper.give_up(wanted[1].name)
    host.files.remove(machine.root_overlay)
    status, asked = host.mapper.status, list[str]()

    def noted(name: str) -> tuple[Target, ...]:
        asked.append(name)
        return status(name)

    monkeypatch.setattr(host.mapper, "status", noted)
    assert "gave its overlay up (Invalid)" in wanted[1].describe(host, {})["overlay"]
    assert asked == [wanted[1].name], "once is enough"


def test_describe_tells_how_much_of_the_overlay_is_taken(host: SimulatedHost, machine: Vm, image: Image) -> None:
    wanted = resources(replace(machine, overlay_bytes=256 * MIB), image, GuestFile("/x", b"x" * 12 * MIB))
    assert wanted[1].describe(host, {}) == {}
    apply(host, wanted)
    assert wanted[1].describe(host, {}) == {"overlay": "12.0MiB of 256.0MiB (4.7%)"}


def test_describe_of_the_file_tells_what_it_takes_on_disk(host: SimulatedHost, machine: Vm, image: Image) -> None:
    cow, snapshot, files = resources(replace(machine, overlay_bytes=256 * MIB), image)
    assert cow.describe(host, {}) == {}
    apply(host, (cow, snapshot, files))
    snapshot.remove(host, None, Stages())
    status = host.files.status(cow.path)
    assert status
    assert cow.describe(host, {}) == {"overlay": f"{human(status.allocated_bytes)} of 256.0MiB on disk"}


def test_describe_of_the_file_says_that_it_was_given_up(host: SimulatedHost, machine: Vm, image: Image) -> None:
    cow, snapshot, files = resources(machine, image)
    apply(host, (cow, snapshot, files))
    host.mapper.give_up(snapshot.name)
    snapshot.remove(host, None, Stages())
    seen = cow.observe_size(host)
    assert seen
    assert cow.describe(host, {}) == {"overlay": seen.differences[0]}
    assert "is the host's disk full?" in seen.differences[0]


# --- sizes ---------------------------------------------------------------------------------------------------------


def fill_as_the_kernel_does(size_bytes: int, changed_chunks: int) -> str:
    """What comes of a snapshot with a store of this size (drivers/md/dm-snap-persistent.c)."""
    chunks = size_bytes // CHUNK_BYTES
    next_free = 2  # after the header and the first table
    for count in range(1, changed_chunks + 1):
        if chunks < next_free + 1:
            return "Overflow"
        next_free += 1
        if (next_free - 1) % 257 == 0:
            next_free += 1
        if count % 256 == 0 and 1 + 257 * (count // 256) >= chunks:
            return "Invalid"
    return "full" if chunks < next_free + 1 else "room"


@given(st.integers(1, 3000), st.integers(0, CHUNK_BYTES - 1))
def test_default_overlay_takes_a_disk_that_is_all_rewritten(chunks: int, more: int) -> None:
    disk_bytes = chunks * CHUNK_BYTES + more
    size_bytes = overlay_size(disk_bytes, None)
    assert fill_as_the_kernel_does(size_bytes, chunks + bool(more)) == "room"
    assert size_bytes < disk_bytes * 1.01 + 2.1 * MIB


@given(st.integers(3 * CHUNK_BYTES, 3000 * CHUNK_BYTES))
def test_overlay_of_any_size_overflows_and_is_never_given_up(asked_bytes: int) -> None:
    size_bytes = overlay_size(4 * 2**30, asked_bytes)
    assert asked_bytes <= size_bytes < asked_bytes + 2 * CHUNK_BYTES
    assert fill_as_the_kernel_does(size_bytes, 4000) == "Overflow"


def test_overlay_of_256_mib_is_one_that_would_be_given_up() -> None:
    assert fill_as_the_kernel_does(256 * MIB, 70_000) == "Invalid"
    assert overlay_size(4 * 2**30, 256 * MIB) == 256 * MIB + CHUNK_BYTES


@pytest.mark.parametrize(
    ("size_bytes", "said"), [(0, "0.0B"), (12 * MIB + MIB // 3, "12.3MiB"), (4 * 2**30, "4.0GiB"), (2**41, "2.0TiB")]
)
def test_size_for_people(size_bytes: int, said: str) -> None:
    assert human(size_bytes) == said


# --- in use, leftovers, hooks --------------------------------------------------------------------------------------


def test_snapshot_in_use_is_busy_and_stays(host: SimulatedHost, machine: Vm, image: Image) -> None:
    wanted = resources(machine, image)
    apply(host, wanted)
    start_vmm(host)
    for change in (wanted[1].remove, wanted[1].update):
        with pytest.raises(Busy):
            change(host, {}, Stages())
    assert isinstance(wanted[1].observe(host, None), Present)


def test_loop_of_the_overlay_that_somebody_left_is_taken_away(host: SimulatedHost, machine: Vm, image: Image) -> None:
    wanted = resources(machine, image)
    wanted[0].create(host, {}, Stages())
    left = host.loops.add(machine.root_overlay)
    apply(host, wanted)
    (used,) = host.loops.of(machine.root_overlay)
    assert used.autoclear and not left.autoclear
    remove_all(host, *wanted)
    assert_nothing_is_left(host)


def test_recorded_handles_stand_for_the_snapshot_alone(host: SimulatedHost, machine: Vm, image: Image) -> None:
    wanted = resources(machine, image)
    apply(host, wanted)
    assert plugin.teardown_handles(machine, {"web/vmm": {"pid": 1}}) == []
    (recorded,) = plugin.teardown_handles(machine, {"web/root/snapshot": {"dm_device": "/dev/dm-77"}, "web/vmm": {}})
    assert recorded.key == wanted[1].key
    assert isinstance(recorded.observe(host, None), Present)
    with pytest.raises(ValueError, match="cannot be made"):
        recorded.create(host, {}, Stages())
    recorded.remove(host, {"dm_device": "/dev/dm-77"}, Stages())
    assert recorded.observe(host, None) == Absent()
    assert_nothing_is_left(host)


def test_validate_a_root_disk_smaller_than_its_image(machine: Vm, image: Image) -> None:
    (problem,) = plugin.validate_vm(replace(machine, root_disk_bytes=2 * MIB), image)
    assert problem.message == "root_disk 2MiB is smaller than its image, 32MiB"
    assert plugin.validate_vm(machine, image) == []
    assert plugin.validate_vm(replace(machine, root_disk_bytes=2 * MIB, storage="file"), image) == []


def test_needs_name_what_is_missing_and_the_command_that_mends_it(host: SimulatedHost) -> None:
    needs = {need.name: need for need in plugin.register_needs()}
    assert list(needs) == [*("CAP_SYS_ADMIN", "/dev/loop-control", "/dev/mapper/control", "device-mapper snapshots")]
    targets = needs["device-mapper snapshots"]
    assert targets.check(host).met
    host.mapper.targets = {"linear"}
    finding = targets.check(host)
    assert (finding.met, finding.found) == (False, "not there: snapshot, zero")
    assert finding.cure == "modprobe -a dm_snapshot dm_zero"


def test_need_of_targets_cannot_be_asked_for_by_an_ordinary_user(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (targets,) = [need for need in plugin.register_needs() if need.name == "device-mapper snapshots"]
    control = Path("/dev/mapper/control")
    host.mapper.available = False
    assert targets.check(host).found == "not there: snapshot, linear, zero"
    monkeypatch.setattr(host.files, "writable", lambda path: path != control)
    assert targets.check(host) == Finding(False, "an ordinary user may not ask", "run as root")


def test_dry_run_tells_the_commands_that_would_make_it(host: SimulatedHost, machine: Vm, image: Image) -> None:
    _, snapshot, _ = resources(replace(machine, root_disk_bytes=IMAGE_BYTES), image)
    sectors = IMAGE_BYTES // 512
    assert list(snapshot.by_hand(host)) == [
        f"base=$(losetup --find --show --read-only {image.rootfs})",
        f"cow=$(losetup --find --show --direct-io=on {machine.root_overlay})",
        f'dmsetup create {snapshot.name} --uuid BANGER-0123456789-root --table "0 {sectors} snapshot $base $cow PO 8"',
    ]
    _, snapshot, _ = resources(replace(machine, root_disk_bytes=2 * IMAGE_BYTES), image)
    base, last = list(snapshot.by_hand(host))[2:]
    assert base == (
        f'printf "0 {sectors} linear $base 0\\n{sectors} {sectors} zero" | '
        f"dmsetup create {snapshot.name}-base --uuid BANGER-0123456789-root-base --readonly"
    )
    assert last.endswith(f'"0 {2 * sectors} snapshot /dev/mapper/{snapshot.name}-base $cow PO 8"')


def test_dry_run_before_the_image_is_built_tells_no_commands(host: SimulatedHost, machine: Vm, image: Image) -> None:
    _, snapshot, _ = resources(machine, replace(image, facts=replace(image.facts, rootfs_bytes=0)))
    assert list(snapshot.by_hand(host)) == []
