"""The store lost or spoilt, and made again from the host alone; on the simulated host."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.core import lifecycle
from banger.core.recover import Findings, look, recover
from banger.core.state import SpoiltState
from banger.testing import SimulatedCrash
from tests.simulated.test_microvms import NOTHING, errors, left, written
from tests.simulated.world import World


@pytest.fixture(params=["overlay, user, qemu", "dm, tap, firecracker", "dm, tap, firecracker, jailed"])
def playbook(request: pytest.FixtureRequest, world: World) -> Path:
    """A VM that runs, and one that does not."""
    if "dm" not in request.param:
        return world.write(state="stopped")
    world.blocked = set()
    return written(world, state="stopped", jailed="jailed" in request.param)


def lose_the_store(world: World, *, backup: bool = True) -> None:
    world.home.state.unlink()
    if backup:
        world.home.state.with_name("state.json.bak").unlink(missing_ok=True)
    for path in world.home.root.rglob("handles.json"):
        path.unlink()


def recovered(world: World) -> Findings:
    return recover(world.session())


def processes(world: World) -> list[object]:
    return [process.identity for process in world.host.processes.all if process.alive]


def test_store_that_is_lost_is_made_again_from_the_host_alone(world: World, playbook: Path) -> None:
    world.apply(playbook)
    before = world.session().store.snapshot()
    running, effects = processes(world), len(world.host.effects)
    lose_the_store(world)
    assert [record.name for record in look(world.session()).records] == ["db", "web"]
    assert not world.home.state.exists()
    recovered(world)
    after = world.session().store.snapshot()
    assert after.vms() == before.vms()
    assert after.images() == before.images()
    assert [(record.name, record.runtime.state) for record in after.vms()] == [("db", "stopped"), ("web", "running")]
    assert (processes(world), world.host.effects[effects:]) == (running, [])
    world.apply(playbook)
    assert world.changed() == 0
    assert processes(world) == running
    assert not look(world.session()).anything


def test_recovered_vms_stop_start_and_go(world: World, playbook: Path) -> None:
    world.apply(playbook)
    lose_the_store(world)
    recovered(world)
    assert errors(lifecycle.stop(world.session(), ["web"], 1)) == []
    assert left(world) == NOTHING
    assert errors(lifecycle.start(world.session(), ["web", "db"], 1)) == []
    assert world.runs("web") and world.runs("db")
    assert errors(lifecycle.delete(world.session(), ["web", "db"], 1)) == []
    assert left(world) == NOTHING
    assert world.of_vms() == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 1, "vms": {"1": {"id": 7}}}'])
def test_store_that_is_spoilt_is_set_aside(world: World, content: bytes) -> None:
    path = world.write()
    world.apply(path)
    was = world.home.state.read_bytes()
    world.home.state.write_bytes(content)
    with pytest.raises(SpoiltState) as spoilt:
        world.session().store.snapshot().vms()
    assert "banger recover" in str(spoilt.value.hint)
    assert look(world.session()).spoilt
    recovered(world)
    assert world.home.state.with_name("state.json.spoilt").read_bytes() == content
    assert len(was) == len(world.home.state.read_bytes())
    world.apply(path)
    assert world.changed() == 0


def test_store_of_another_version_is_left_as_it_is(world: World) -> None:
    world.apply(world.write())
    world.home.state.write_bytes(b'{"schema": 99}')
    with pytest.raises(Exception, match="schema 99"):
        recovered(world)
    assert world.home.state.read_bytes() == b'{"schema": 99}'


def test_what_is_recorded_stays_and_what_is_missing_is_added(world: World) -> None:
    world.apply(world.write())
    with world.session().store.transaction() as records:
        web = records.vm("web")
        assert web is not None
        records.put(web.with_runtime(last_error="as it was"))
        db = records.vm("db")
        assert db is not None
        records.remove(db.id)
    was = world.home.state.read_bytes()
    assert [record.name for record in recovered(world).records] == ["db"]
    recovered(world)
    assert world.home.state.with_name("state.json.bak").read_bytes() == was
    assert world.record("web").runtime.last_error == "as it was"
    assert world.record("db") == db


def test_vm_whose_record_is_gone_too_comes_from_the_backup_or_is_told(world: World) -> None:
    world.apply(world.write(state="stopped"))
    for name in ("web", "db"):
        world.host.files.put(world.record(name).directory / "record.json", b"{")
    directory = world.record("db").directory
    lose_the_store(world, backup=False)
    assert [record.name for record in look(world.session()).records] == ["db", "web"]
    world.home.state.with_name("state.json.bak").unlink()
    findings = look(world.session())
    assert findings.records == []
    assert directory in [found.directory for found in findings.vms]
    assert all("is not what banger wrote" in found.why for found in findings.vms)


def test_directory_that_was_copied_from_elsewhere_is_not_taken_for_a_vm(world: World) -> None:
    world.apply(world.write())
    record = world.record("web")
    copy = record.directory.with_name("0123456789")
    world.host.files.make_directory(copy)
    world.host.files.put(copy / "record.json", world.host.files.read(record.directory / "record.json"))
    (found,) = look(world.session()).vms
    assert (found.record, found.why) == (None, f"{copy}/record.json is of the VM {record.id} in {record.directory}")


def test_of_two_vms_of_one_name_the_running_one_is_taken(world: World) -> None:
    path = world.write()
    world.apply(path)
    lifecycle.stop(world.session(), ["web"], 1)
    first = world.record("web")
    with world.session().store.transaction() as records:
        records.remove(first.id)
    world.apply(path)
    second = world.record("web")
    assert second.id != first.id
    lose_the_store(world)
    findings = recovered(world)
    assert world.record("web") == second
    assert [found.why for found in findings.vms if found.why] == [
        f"another VM is called 'web'; to give this one up: rm -r {first.directory}"
    ]


def test_name_of_an_image_that_moved_is_the_newer_ones(world: World) -> None:
    world.apply(world.write())
    world.apply(world.write("all", "running", ("tiny\\n", "tinier\\n")), recreate=True)
    names = world.session().store.snapshot().images()
    for destroyed in (False, True):
        if destroyed:
            world.destroy(world.directory / "playbook.yml")
        lose_the_store(world)
        recovered(world)
        assert world.session().store.snapshot().images() == names


def test_run_that_changes_nothing_writes_no_record(world: World) -> None:
    path = world.write()
    world.apply(path)
    effects = len(world.host.effects)
    world.apply(path)
    assert world.host.effects[effects:] == []


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_effect_of_an_apply_what_can_be_recovered_converges(world: World, after: bool) -> None:
    """Also when the store goes with it: what was made so far is found, or so little that it is garbage."""
    path = world.write()
    for number in range(1, 200):
        world.host.crash_at(number, after=after)
        try:
            world.apply(path)
        except SimulatedCrash:
            world.host.restart()
        else:
            assert number > 20
            return
        if world.home.state.exists():
            lose_the_store(world)
        recovered(world)
        assert errors(world.apply(path)) == []
        assert world.runs("web") and world.runs("db")
        world.apply(path)
        assert world.changed() == 0
        world.destroy(path)
        world.host.files.remove_tree(world.home.vms)
        world.host.files.remove_tree(world.home.images)
        lose_the_store(world)
    raise AssertionError("it never ended")
