"""VMs on dm-snapshots and taps under Firecracker, on the simulated host: moved elsewhere, jailed, broken off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from banger.core import lifecycle, teardown
from banger.core.apply import Outcome
from banger.core.converge import Run
from banger.core.reconcile import reconcile
from banger.core.session import Session
from banger.errors import PlaybookError
from banger.testing import SimulatedCrash
from tests.simulated.world import World

STORAGE, NETWORK, VMM = "storage: dm", "network: tap", "vmm: firecracker"
CHOSEN = (
    "{image: tiny, root_disk: 1GiB,",
    f"{{image: tiny, {STORAGE}, {NETWORK}, {VMM}, jailed: JAILED, root_disk: 1GiB,",
)


@pytest.fixture
def microvms(world: World) -> World:
    world.blocked = set()
    return world


def written(world: World, *changes: tuple[str, str], jailed: bool = False, state: str = "running") -> Path:
    return world.write("all", state, CHOSEN, ("JAILED", str(jailed).lower()), *changes)


def left(world: World) -> dict[str, object]:
    """Every kernel object, and every file that only a running VM has."""
    host = world.host
    state = host.links.of[""]
    run = {"api.sock", "vsock.sock", "log.pipe", "metrics.pipe", "jail"}
    directories = world.host.files.list(world.home.root / "vms")
    return {
        "processes": [process.argv[0] for process in host.processes.all if process.alive],
        "dm": host.mapper.names("banger-"),
        "links": [name for name in state.links if name != "lo"],
        "tables": list(state.tables),
        "files": [path.name for each in directories for path in host.files.list(each) if path.name in run],
    }


NOTHING: dict[str, object] = {"processes": [], "dm": [], "links": [], "tables": [], "files": []}


def errors(outcomes: dict[str, Outcome] | list[Outcome]) -> list[BaseException]:
    listed = outcomes.values() if isinstance(outcomes, dict) else outcomes
    return [outcome.error for outcome in listed if outcome.error]


@pytest.mark.parametrize("jailed", [False, True])
def test_microvms_run_stop_and_leave_nothing(microvms: World, jailed: bool) -> None:
    path = written(microvms, jailed=jailed)
    assert errors(microvms.apply(path)) == []
    assert left(microvms)["dm"]
    owners = {link.owner for link in microvms.host.links.of[""].links.values() if link.kind == "tap"}
    assert all(owner is not None and (owner >= 0x70000000) == jailed for owner in owners)
    microvms.apply(path)
    assert microvms.changed() == 0
    assert errors(lifecycle.stop(microvms.session(), ["web", "db"], 1)) == []
    assert left(microvms) == NOTHING


def test_network_of_a_running_vm_that_moves_waits_and_then_leaves_nothing(microvms: World) -> None:
    microvms.apply(written(microvms, state="absent"))
    moved = written(microvms, (NETWORK, "network: user"), (VMM, "vmm: qemu"), state="absent")
    microvms.apply(moved)
    assert left(microvms)["links"]
    assert errors(microvms.apply(moved, restart=True)) == []
    assert microvms.runs("web")
    assert {**left(microvms), "processes": [], "dm": [], "files": []} == NOTHING
    assert set(left(microvms)["files"]) == {"api.sock"}  # type: ignore[call-overload]


def test_vm_that_moves_to_firecracker_waits_on_its_network_under_its_vmm(microvms: World) -> None:
    before = written(microvms, (NETWORK, "network: user"), (VMM, "vmm: qemu"), state="absent")
    microvms.apply(before)
    moved = written(microvms, state="absent")
    for check in (True, False):
        outcome = microvms.apply(moved, check=check)["vm/web"]
        assert (outcome.error, outcome.changed) == (None, 0)
        assert "network user -> tap: needs --restart" in microvms.reasons()
    assert microvms.runs("web")
    assert errors(microvms.apply(moved, restart=True)) == []
    assert microvms.record("web").vmm == "firecracker"


@pytest.mark.parametrize("restart", [False, True])
def test_vm_that_moves_to_another_network_waits_with_its_whole_machine(microvms: World, restart: bool) -> None:
    """A jailed VM on the overlay storage, or one with 64 processors in Firecracker, is what nobody asked for."""
    microvms.apply(written(microvms, (STORAGE, "storage: file"), jailed=True, state="absent"))
    qemu = f"{STORAGE}, network: user, vmm: qemu, vcpus: 64"
    moved = written(microvms, (f"{STORAGE}, {NETWORK}, {VMM}", qemu.replace("dm", "overlay")), state="absent")
    before = microvms.record("web")
    outcome = microvms.apply(moved, restart=restart)["vm/web"]
    assert (outcome.error, outcome.changed) == (None, 0)
    assert outcome.pending
    assert microvms.runs("web")
    assert microvms.record("web").with_runtime(last_error="") == before
    assert errors(microvms.apply(moved, restart=True, recreate=True)) == []
    record = microvms.record("web")
    assert (record.vmm, record.storage, record.jailed, record.vcpus) == ("qemu", "overlay", False, 64)
    assert left(microvms)["dm"] == left(microvms)["tables"] == []


def test_storage_of_a_running_vm_that_moves_leaves_no_device(microvms: World) -> None:
    microvms.apply(written(microvms))
    moved = written(microvms, (STORAGE, "storage: file"))
    microvms.apply(moved)
    assert left(microvms)["dm"]
    assert errors(microvms.apply(moved, recreate=True)) == []
    assert microvms.runs("web")
    assert left(microvms)["dm"] == []


@pytest.mark.parametrize("jailed", [False, True])
@pytest.mark.parametrize("way", ["stop", "delete", "restart"])
def test_vmm_that_was_exchanged_in_the_playbook_is_ended_by_its_own_plugin(
    microvms: World, way: str, jailed: bool
) -> None:
    microvms.apply(written(microvms, jailed=jailed, state="absent"))
    changed = written(microvms, (VMM, "vmm: qemu"), state="absent")
    microvms.apply(changed)
    effects = len(microvms.host.effects)
    if way == "restart":
        assert errors(microvms.apply(changed, restart=True)) == []
        assert microvms.runs("web")
        assert left(microvms)["files"] == ["api.sock"]
    else:
        act = lifecycle.stop if way == "stop" else lifecycle.delete
        assert errors(act(microvms.session(), ["web"], 1)) == []
        assert left(microvms) == NOTHING
    done = microvms.host.effects[effects:]
    if way != "delete":
        assert any("SendCtrlAltDel" in effect for effect in done)
        assert not any("kill" in effect or "qmp" in effect for effect in done)


def test_jail_that_cannot_be_is_a_problem_and_records_nothing(microvms: World) -> None:
    path = written(microvms, (STORAGE, "storage: overlay"), jailed=True)
    for _ in range(2):
        with pytest.raises(PlaybookError, match="it reads a disk of others too"):
            microvms.apply(path)
    assert len(microvms.session().store.snapshot().vms()) == 0


def test_vm_whose_record_is_refused_can_be_stopped_and_deleted(microvms: World) -> None:
    microvms.apply(written(microvms, (STORAGE, "storage: overlay"), state="absent"))
    session = microvms.session()
    with session.store.transaction() as records:
        record = records.vm("web")
        assert record is not None
        records.put(replace(record, jailed=True))
    lifecycle.show(microvms.session(), "web")
    assert errors(lifecycle.stop(microvms.session(), ["web"], 1)) == []
    assert {**left(microvms), "links": [], "tables": []} == NOTHING
    assert errors(lifecycle.delete(microvms.session(), ["web"], 1)) == []
    assert left(microvms) == NOTHING


@pytest.mark.parametrize("after", [False, True])
def test_run_that_is_killed_at_any_effect_can_be_run_again(world: World, after: bool) -> None:
    world.apply(world.write(state="absent"))
    for number in range(1, 200):
        world.host.crash_at(number, after=after)
        try:
            lifecycle.ensure_running(world.session(), "new", {"memory": "64MiB", "root_disk": "1GiB"})
        except SimulatedCrash:
            world.host.restart()
        else:
            assert number > 10
            return
        assert errors(lifecycle.ensure_running(world.session(), "new", {})) == []
        assert world.runs("new")
        assert errors(lifecycle.delete(world.session(), ["new"], 1)) == []
    raise AssertionError("it never ended")


def test_stop_needs_nothing_of_what_belongs_into_the_guest(world: World) -> None:
    world.apply(world.write())
    world.host.files.put(world.record("web").directory / "guest.json", b"spoilt")
    assert errors(lifecycle.stop(world.session(), ["web"], 1)) == []
    assert not world.runs("web")


def test_network_that_is_renamed_keeps_its_subnet(microvms: World) -> None:
    """Also of several VMs: what they give up in this run is nobody's."""
    declared = "  networks: [{name: NAME, plugin: tap, subnet: 172.30.0.0/24}]\n  vms:\n    - {name: web}"
    for name in ("lab", "bench"):
        path = written(
            microvms, (NETWORK, f"network: {name}"), ("  vms:\n    - {name: web}", declared.replace("NAME", name))
        )
        assert errors(microvms.apply(path)) == []
        lifecycle.stop(microvms.session(), ["web", "db"], 1)
        assert left(microvms)["links"] == []
    lifecycle.start(microvms.session(), ["web", "db"], 1)
    assert {microvms.record(vm).nic.network for vm in ("web", "db")} == {"bench"}
    assert [name for name in microvms.host.links.of[""].links if "bgr" in name] == ["bgr-bench"]


# --- what is found dead, or alive, when a command begins


def die(world: World, name: str) -> None:
    process = world.host.processes.find(world.record(name).runtime.api_socket)
    assert process is not None
    world.host.processes.end(process)


def test_command_about_one_vm_takes_down_what_is_left_of_another(microvms: World) -> None:
    microvms.apply(written(microvms))
    die(microvms, "db")
    before = left(microvms)
    lifecycle.start(microvms.session(), ["web"], 1)
    assert microvms.record("db").runtime.state == "stopped"
    assert microvms.session().handles.of(microvms.record("db").directory) == {}
    assert len(left(microvms)["dm"]) == len(before["dm"]) / 2  # type: ignore[arg-type]


def test_vm_that_died_is_stopped_and_started(microvms: World) -> None:
    microvms.apply(written(microvms, state="absent"))
    die(microvms, "web")
    assert errors(lifecycle.stop(microvms.session(), ["web"], 1)) == []
    assert left(microvms) == NOTHING
    assert errors(lifecycle.start(microvms.session(), ["web"], 1)) == []
    assert microvms.runs("web")


def test_plan_for_a_vm_that_died_tells_what_an_apply_takes_down_and_makes(microvms: World) -> None:  # seed S6
    def told(verb: str) -> list[str]:
        plans = [event for event in microvms.events if event["type"] == "plan" and event["subject"] == "vm/web"]
        return [action["resource"] for action in plans[-1]["actions"] if action["verb"] == verb]

    path = written(microvms, state="absent")
    microvms.apply(path)
    die(microvms, "web")
    microvms.apply(path, check=True)
    removed, created = told("remove"), told("create")
    assert set(removed) == {"web/network/tap", "web/root/snapshot"}
    assert {"web/network/tap", "web/root/snapshot", "web/vmm"} < set(created)
    assert errors(microvms.apply(path)) == []
    assert (told("remove"), told("create")) == ([], created), "the rest was taken down before"
    assert microvms.runs("web")


def test_write_to_a_stopped_disk_that_was_killed_is_taken_down_by_any_command(microvms: World) -> None:
    microvms.apply(written(microvms, state="stopped"))
    lifecycle.stop(microvms.session(), ["web"], 1)
    path = written(microvms, ("hello", "goodbye"), state="stopped")
    for number in range(1, 100):
        microvms.host.crash_at(number)
        try:
            microvms.apply(path)
        except SimulatedCrash:
            microvms.host.restart()
        if left(microvms)["dm"]:
            break
        lifecycle.stop(microvms.session(), ["web"], 1)
    assert left(microvms)["dm"]
    reconcile(microvms.session())
    assert left(microvms)["dm"] == []


def test_what_could_not_be_taken_down_stays_known(microvms: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown, "BUSY_TIMEOUT_S", 0.0)
    microvms.apply(written(microvms, state="absent"))
    die(microvms, "web")
    devices = microvms.host.mapper.names("banger-")
    microvms.host.mapper.opened.update(devices)
    reconcile(microvms.session())
    record = microvms.record("web")
    assert "in use" in record.runtime.last_error
    assert "web/root/snapshot" in microvms.session().handles.of(record.directory)
    microvms.host.mapper.opened.clear()
    reconcile(microvms.session())
    assert left(microvms) == NOTHING


def test_vm_that_another_command_takes_away_meanwhile_stays_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply(world.write(state="absent"))
    die(world, "web")
    session = world.session()
    locked = Session.locked

    @contextmanager
    def too_late(self: Session, names: list[str], purpose: str) -> Iterator[None]:
        with self.store.transaction() as records:
            for record in records.vms():
                records.remove(record.id)
        with locked(self, names, purpose):
            yield

    monkeypatch.setattr(Session, "locked", too_late)
    reconcile(session)
    assert session.store.snapshot().vms() == []


def test_vm_that_lives_though_its_record_says_stopped_is_left_alive_and_recorded(world: World) -> None:
    world.apply(world.write(state="absent"))
    with world.session().store.transaction() as records:
        records.put(world.record("web").with_runtime(state="stopped"))
    reconcile(world.session())
    assert world.runs("web")
    assert world.record("web").runtime.state == "running"


# --- starting and stopping


def test_start_is_recorded_before_it_is_done(world: World) -> None:
    world.apply(world.write(state="absent"))
    lifecycle.stop(world.session(), ["web"], 1)
    seen: list[str] = []
    world.host.processes.on_start = lambda process: seen.append(world.record("web").runtime.state)
    lifecycle.start(world.session(), ["web"], 1)
    assert seen == ["running"]


def test_start_that_fails_is_told_until_one_succeeds(world: World) -> None:
    world.apply(world.write(state="absent"))
    lifecycle.stop(world.session(), ["web"], 1)
    world.host.tools.missing.add("qemu-system-x86_64")
    (error,) = errors(lifecycle.start(world.session(), ["web"], 1))
    assert world.record("web").runtime.last_error == str(error)
    assert lifecycle.show(world.session(), "web")["state"] == "failed"
    world.host.tools.missing.clear()
    assert errors(lifecycle.start(world.session(), ["web"], 1)) == []
    assert world.record("web").runtime.last_error == ""


def test_stop_leaves_the_disks_alone(world: World) -> None:
    world.apply(world.write(state="absent"))
    lifecycle.stop(world.session(), ["web"], 1)
    (planned,) = [event for event in world.events if event["type"] == "plan"]
    assert {action["verb"] for action in planned["actions"]} == {"remove"}
    assert {action["resource"] for action in planned["actions"]} == {"web/ready", "web/vmm"}


def test_vm_on_a_declared_network_stays_there_when_its_key_is_left_out(world: World) -> None:
    declared = "  networks: [{name: closed, plugin: user, outbound: false}]\n  vms:\n    - {name: web, network: closed}"
    world.apply(world.write("all", "absent", ("  vms:\n    - {name: web}", declared)))
    world.apply(world.write(state="absent"))
    assert (world.changed(), world.reasons()) == (0, [])
    assert world.record("web").nic.network == "closed"


def test_address_that_another_command_gave_out_meanwhile_is_nobody_elses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command moves a stopped VM to a network while the other makes a new VM there."""
    world.blocked = set()
    networks = "[{name: one, plugin: tap, subnet: 10.9.1.0/24}, {name: two, plugin: tap, subnet: 10.9.2.0/24}]"

    def of(name: str, network: str, state: str) -> Path:
        path = world.directory / f"{name}.yml"
        path.write_text(
            "- images: [{name: tiny, source: tiny}]\n"
            f"- defaults: {{image: tiny, root_disk: 1GiB, storage: file, {VMM}}}\n"
            f"  networks: {networks}\n"
            f"  vms: [{{name: {name}, network: {network}, state: {state}}}]\n"
        )
        return path

    world.apply(of("web", "one", "stopped"))
    keep_names, others = Run._keep_names, iter([of("db", "two", "running")])

    def beside(run: Run, *arguments: dict[str, str]) -> None:
        keep_names(run, *arguments)
        for other in others:
            assert errors(world.apply(other)) == []

    monkeypatch.setattr(Run, "_keep_names", beside)
    assert errors(world.apply(of("web", "two", "running"))) == []
    addresses = {world.record(name).nic.address for name in ("web", "db")}
    assert len(addresses) == 2 and all(address.startswith("10.9.2.") for address in addresses)
