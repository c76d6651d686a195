"""What belongs to nothing is found and removed, and nothing else is; on the simulated host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from banger.core import lifecycle, teardown
from banger.core.gc import collect, find
from banger.core.locks import locked
from banger.core.recover import recover
from banger.errors import Busy
from banger.host import Target
from banger.testing import SimulatedCrash
from tests.simulated.test_microvms import NOTHING, errors, left, written
from tests.simulated.world import World


def found(world: World, *, images: bool = False) -> list[str]:
    """What would be removed."""
    return [each.what for each in find(world.session(), images=images) if each.resource]


def untouched(world: World) -> dict[str, str]:
    return {each.what: each.why for each in find(world.session()) if not each.resource}


def collected(world: World, *, images: bool = False) -> list[BaseException]:
    outcome, _ = collect(world.session(), images=images)
    return errors([outcome])


def forget(world: World, name: str, *, entirely: bool = True) -> str:
    """The record goes, and nothing else; `entirely`: with the copy of it in the VM's directory."""
    record = world.record(name)
    with world.session().store.transaction() as records:
        records.remove(record.id)
    if entirely:
        world.host.files.remove(record.directory / "record.json")
    return record.id


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown, "BUSY_TIMEOUT_S", 0.0)


@pytest.fixture
def microvms(world: World) -> World:
    world.blocked = set()
    return world


@pytest.fixture(params=["overlay", "dm", "dm jailed"])
def applied(request: pytest.FixtureRequest, microvms: World) -> World:
    jailed = request.param == "dm jailed"
    if request.param == "overlay":
        microvms.blocked = {"network_tap", "storage_dm", "vmm_firecracker"}
    microvms.apply(microvms.write() if request.param == "overlay" else written(microvms, jailed=jailed))
    microvms.blocked = set()
    return microvms


def test_nothing_is_found_where_all_is_in_order(applied: World) -> None:
    effects = len(applied.host.effects)
    assert found(applied) == []
    lifecycle.stop(applied.session(), ["web"], 1)
    assert found(applied) == []
    assert collected(applied) == []
    assert applied.runs("db")
    assert [
        effect for effect in applied.host.effects[effects:] if "remove_tree" in effect and "jail" not in effect
    ] == []


def test_vm_that_is_not_recorded_goes_with_all_it_has_and_no_other_does(applied: World) -> None:
    db = applied.record("db")
    vm_id = forget(applied, "web")
    named = found(applied)
    assert any("the process" in what and vm_id in what for what in named)
    assert any(what.startswith("the directory ") and vm_id in what for what in named)
    assert not any(db.id in what for what in named)
    assert collected(applied) == []
    assert found(applied) == []
    assert [path.name for path in applied.of_vms()] == [db.id]
    assert applied.runs("db")
    assert not any(vm_id in str(left(applied)[kind]) for kind in ("dm", "links"))
    lifecycle.delete(applied.session(), ["db"], 1)
    assert left(applied) == NOTHING


@pytest.mark.parametrize("gone", [True, False])
def test_kernel_objects_of_a_vm_whose_directory_was_removed_by_hand_are_found(microvms: World, gone: bool) -> None:
    """Their files' paths, and the mark on the tap, still tell whose they are."""
    microvms.apply(written(microvms, state="absent"))
    directory = microvms.record("web").directory
    vm_id = forget(microvms, "web")
    if gone:
        microvms.host.files.remove_tree(directory)
    named = found(microvms)
    assert [what.split()[1] for what in named if vm_id in what and "lock" not in what][:3] == [
        "tap",
        "device",
        "process",
    ]
    assert collected(microvms) == []
    assert left(microvms) == NOTHING
    assert microvms.host.loops.all == []
    assert microvms.of_vms() == []


def test_what_is_another_homes_stays_whatever_has_become_of_ours(microvms: World) -> None:
    theirs = World(microvms.directory.parent / "other")
    theirs.directory.mkdir()
    theirs.host, theirs.blocked = microvms.host, set()
    microvms.host.files.make_directory(theirs.directory)
    microvms.apply(written(microvms, state="absent"))
    theirs.apply(written(theirs, state="absent"))
    running = theirs.record("web")
    forget(microvms, "web")
    assert any(running.id in what and "another home's" in why for what, why in untouched(microvms).items())
    assert collected(microvms, images=True) == []
    assert theirs.runs("web")
    theirs.apply(written(theirs, state="absent"))
    assert theirs.changed() == 0
    assert not microvms.host.files.list(microvms.home.vms)


def test_other_home_that_lost_its_store_cannot_be_judged_from_here(microvms: World) -> None:
    host = microvms.host
    host.links.add_tap("tap-00000000aa", "banger tap lab old 52:54:00:00:00:01 172.16.0.9/24 172.16.0.1")
    host.mapper.create("banger-00000000bb-root", [Target(0, 8, "zero")], uuid="BANGER-00000000bb-root")
    assert untouched(microvms) == {
        "the device banger-00000000bb-root": "it does not tell whose it is: dmsetup info banger-00000000bb-root",
        "the tap tap-00000000aa, of the VM old": "it does not tell of which home it is",
    }
    assert collected(microvms) == []
    assert host.mapper.names() and "tap-00000000aa" in host.links.of[""].links


def test_vm_that_can_be_recovered_is_left_alone_running_or_not(applied: World) -> None:
    """A store that was put back from a backup knows nothing of what was made since."""
    for name in ("web", "db"):
        forget(applied, name, entirely=False)
    before, effects = left(applied), len(applied.host.effects)
    assert sorted(what.split()[2] for what in untouched(applied) if what.startswith("the VM")) == ["db", "web"]
    assert collected(applied) == []
    assert left(applied) == before
    assert applied.host.effects[effects:] == []
    recover(applied.session())
    assert applied.runs("web") and applied.runs("db")


def test_bridge_firewall_and_namespace_without_a_tap_are_nobodys(microvms: World) -> None:
    declared = "  networks: [{name: lab, plugin: tap, netns: lab}]\n  vms:\n    - {name: web}"
    changes = (("network: tap", "network: lab"), ("  vms:\n    - {name: web}", declared))
    microvms.apply(written(microvms, *changes, state="absent"))
    lifecycle.stop(microvms.session(), ["web"], 1)
    assert microvms.host.links.namespaces() == []
    microvms.apply(written(microvms, *changes, state="absent"))
    record = microvms.record("web")
    process = microvms.host.processes.find(record.runtime.api_socket)
    assert process
    microvms.host.processes.end(process)
    del microvms.host.links.of["lab"].links[f"tap-{record.id}"]
    assert "bridge and firewall of the network lab in the namespace lab, which has no tap" in found(microvms)
    assert collected(microvms) == []
    assert microvms.host.links.namespaces() == []


def test_image_is_unused_when_no_record_disk_or_name_has_it(world: World) -> None:
    world.apply(world.write())
    first = world.session().store.snapshot().images()["tiny"]
    world.apply(world.write("all", "running", ("tiny\\n", "tinier\\n")))
    assert not any(first in what for what in found(world, images=True)), "the VMs' disks are still of it"
    world.apply(world.write("all", "running", ("tiny\\n", "tinier\\n")), recreate=True)
    assert any(first in what and "--images" in why for what, why in untouched(world).items())
    assert found(world) == []
    (unused,) = [each for each in find(world.session(), images=True) if first in each.what]
    assert unused.size_bytes > 0
    assert collected(world, images=True) == []
    assert world.host.files.status(world.home.image_directory(first)) is None
    assert world.changed() == 0
    world.apply(world.write("all", "running", ("tiny\\n", "tinier\\n")))
    assert world.changed() == 0


def test_image_that_only_a_name_or_only_a_disk_has_is_in_use(world: World) -> None:
    world.apply(world.write())
    digest = world.record("web").image_digest
    for name in ("web", "db"):
        with world.session().store.transaction() as records:
            records.put(replace(world.record(name), image_digest="0" * 20))
            records.put_image("tiny", "0" * 20)
    assert not any(digest in what for what in found(world, images=True))
    with world.session().store.transaction() as records:
        records.put_image("tiny", digest)
    world.destroy(world.directory / "playbook.yml")
    assert not any(digest in what for what in found(world, images=True))
    with world.session().store.transaction() as records:
        records.put_image("tiny", "0" * 20)
    assert any(digest in what for what in found(world, images=True))


def test_image_that_was_never_finished_goes_also_without_being_asked(world: World) -> None:
    world.apply(world.write())
    half = world.home.image_directory("0123456789abcdef0123")
    directories = [half.with_name(half.name + ending) for ending in ("", ".new", ".building-4711", ".building-12")]
    for directory in directories:
        world.host.files.make_directory(directory / "staging")
        world.host.files.put(directory / "staging" / "rootfs.ext4", b"half")
    others = half.with_name(half.name + ".building-"), half.with_name(half.name + ".building-1.old")
    for directory in others:  # not as anyone of ours calls it
        world.host.files.make_directory(directory)
    with locked(world.home.lock(f"image-{half.name}"), purpose="building it"):
        assert sorted(what for what in found(world) if "never finished" in what) == sorted(
            f"the image {directory.name}, which was never finished" for directory in directories
        )
        assert all("locked by" in str(error) for error in collected(world)[0].exceptions)  # type: ignore[attr-defined]
        assert all(world.host.files.status(directory) for directory in directories)
    assert collected(world) == []
    assert not any(world.host.files.status(directory) for directory in directories)
    assert all(world.host.files.status(directory) for directory in others)


def test_images_that_lie_outside_of_this_home_are_not_judged(world: World) -> None:
    world.apply(world.write())
    digest = "0123456789abcdef0123"
    world.host.files.make_directory(world.home.images / digest)
    status = world.host.files.status
    linked = replace(status(world.home.images), is_directory=False)  # type: ignore[type-var]
    world.host.files.status = lambda path: linked if path == world.home.images else status(path)  # type: ignore[method-assign]
    assert collected(world, images=True) == []
    assert status(world.home.images / digest) is not None
    assert any(digest in what and "leads out of this home" in why for what, why in untouched(world).items())


def test_scratch_files_and_locks_of_nobody_go(world: World) -> None:
    world.apply(world.write())
    directory = world.record("web").directory
    world.host.files.put(directory / ".guest.json.abc.tmp", b"half")
    world.host.files.put(directory / ".bashrc", b"a user's")
    world.host.files.make_directory(directory / ".banger-stage-x")
    world.host.files.put(directory / ".banger-stage-x" / "content", b"half")
    stray = world.home.lock("vm-gone")
    stray.write_text("pid 0 banger apply\n")
    assert found(world) == [
        f"the scratch file {directory}/.banger-stage-x",
        f"the scratch file {directory}/.guest.json.abc.tmp",
        f"the lock file {stray}",
    ]
    assert collected(world) == []
    assert found(world) == []
    assert world.host.files.status(directory / ".bashrc")
    assert not stray.exists()


@pytest.mark.parametrize("name", ["web", "of-a-new-vm"])
def test_while_another_command_is_at_work_nothing_is_removed(world: World, name: str) -> None:
    world.apply(world.write())
    forget(world, "db")
    with locked(world.home.lock(f"vm-{name}"), purpose="banger apply"), pytest.raises(Busy, match="banger apply"):
        collect(world.session())
    assert len(world.of_vms()) == 2


def test_vmm_that_cannot_be_ended_keeps_what_it_stands_on(microvms: World) -> None:
    microvms.apply(written(microvms))
    process = microvms.host.processes.find(microvms.record("web").runtime.api_socket)
    assert process
    microvms.host.processes.unkillable.add(process)
    vm_id = forget(microvms, "web")
    forget(microvms, "db")
    (error,) = collected(microvms)
    assert "still there" in str(error.exceptions[0])  # type: ignore[attr-defined]
    assert [path.name for path in microvms.of_vms()] == [vm_id]
    assert left(microvms)["dm"] == [f"banger-{vm_id}-root", f"banger-{vm_id}-root-base"]
    microvms.host.processes.unkillable.clear()
    assert collected(microvms) == []
    assert left(microvms) == NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_effect_the_next_one_ends_it(microvms: World, after: bool) -> None:
    path = written(microvms)
    for number in range(1, 100):
        microvms.apply(path)
        for name in ("web", "db"):
            forget(microvms, name)
        microvms.host.crash_at(number, after=after)
        try:
            collected(microvms)
        except SimulatedCrash:
            microvms.host.restart()
        else:
            assert number > 8
            return
        assert collected(microvms) == []
        assert left(microvms) == NOTHING
        assert found(microvms) == []
        assert microvms.of_vms() == []
    raise AssertionError("it never ended")


def test_vm_that_is_made_while_we_look_is_none_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded before anything of it is made, so whoever reads the records again afterwards knows it."""
    world.apply(world.write())
    session = world.session()
    records = session.store.snapshot
    forgetful = iter([True])

    def snapshot() -> object:
        now = records()
        if next(forgetful, False):
            others = [record for record in now.vms() if record.name != "web"]
            return SimpleNamespace(vms=lambda: others, images=now.images)
        return now

    world.host.files.remove(Path(world.record("web").directory / "record.json"))
    monkeypatch.setattr(type(session.store), "snapshot", lambda store: snapshot())
    assert [each.what for each in find(session) if each.resource] == []


@pytest.mark.parametrize("looks", [1, 2])
def test_image_of_a_vm_that_is_recorded_while_we_look_is_in_use(
    world: World, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """An apply that makes a VM of an image that is there takes no lock of the image."""
    world.apply(world.write())
    session = world.session()
    digest = world.record("web").image_digest
    with session.store.transaction() as records:
        records.put_image("tiny", "0" * 20)
    for name in ("web", "db"):
        world.host.files.remove(world.record(name).directory / "record.json")
    first = iter([SimpleNamespace(vms=list, images=dict)] * looks)
    snapshot = type(session.store).snapshot
    monkeypatch.setattr(type(session.store), "snapshot", lambda store: next(first, None) or snapshot(store))
    found = [each.what for each in find(session, images=True)]
    assert not [what for what in found if what.startswith(f"the image {digest}")]


def test_image_that_has_come_into_use_since_it_was_found_stays(world: World) -> None:
    world.apply(world.write())
    session = world.session()
    record = world.record("web")
    world.destroy(world.directory / "playbook.yml")
    with session.store.transaction() as records:
        records.put_image("tiny", "0" * 20)
    directory = world.home.image_directory(record.image_digest)
    (image,) = [
        each.resource for each in find(session, images=True) if each.what.startswith(f"the image {directory.name}")
    ]
    assert image
    beginning = world.home.lock("vm-new")
    beginning.write_text("pid 1 banger apply\n")
    with pytest.raises(Busy, match="vm-new is locked by another command"):
        image.remove(world.host, None, lambda _: None)
    beginning.unlink()
    with session.store.transaction() as records:
        records.put(record)
    with pytest.raises(Busy, match="has come into use"):
        image.remove(world.host, None, lambda _: None)
    with session.store.transaction() as records:
        records.remove(record.id)
        records.put_image("another", record.image_digest)
    with pytest.raises(Busy, match="has come into use"):
        image.remove(world.host, None, lambda _: None)
    with session.store.transaction() as records:
        records.put_image("another", "0" * 20)
    image.remove(world.host, None, lambda _: None)
    assert world.host.files.status(directory) is None
