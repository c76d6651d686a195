"""A playbook on the simulated host, from nothing to running VMs and back; and from every crash on the way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from banger.core.converge import Run
from banger.core.handles import HandleCache
from banger.core.locks import locked
from banger.core.members import Member, Roster
from banger.core.plan import Plan
from banger.errors import BangerError, Busy, DiskError, PlaybookError, Problem, StateError
from banger.hooks import hookimpl
from banger.testing import SimulatedCrash
from banger.types import ImageSpec
from tests.simulated.world import TinySource, World


def test_apply_makes_everything_and_a_second_one_nothing(world: World) -> None:
    path = world.write()
    outcomes = world.apply(path)
    assert {name: outcome.error for name, outcome in outcomes.items()} == dict.fromkeys(
        ("image/tiny", "vm/web", "vm/db")
    )
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello all from web\n"
    before = len(world.host.effects)
    world.apply(path)
    assert world.changed() == 0
    assert world.host.effects[before:] == [], "a second apply has no effect on the host at all"


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_first_apply_tells_and_counts_what_its_plan_did(world: World, state: str) -> None:
    def told() -> list[object]:
        plans = {event["subject"]: event["actions"] for event in world.events if event["type"] == "plan"}
        of_vms = [(subject, actions) for subject, actions in plans.items() if subject.startswith("vm/")]
        recaps = [event for event in world.events if event["type"] == "recap" and event["subject"].startswith("vm/")]
        return [*of_vms, *recaps]

    path = world.write(state=state)
    world.apply(path, check=True)
    planned = told()
    outcomes = world.apply(path)
    assert told() == planned
    assert (outcomes["vm/web"].ok, outcomes["vm/web"].changed) == (0, 7)
    assert {"verb": "create", "resource": "web/directory"}.items() <= planned[0][1][0].items()  # type: ignore[index]


def test_what_a_failed_first_start_leaves_in_the_directory_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys were made before the plan, and what was last asked for lies there too."""
    monkeypatch.setattr(world.host.processes, "start", refused)
    assert world.apply(world.write())["vm/web"].error
    assert world.host.files.status(world.record("web").directory / "record.json")


def refused(*args: object, **options: object) -> None:
    raise BangerError("no such program")


def test_apply_writes_files_to_the_disk_that_is_mounted_there(world: World) -> None:
    world.apply(world.write())
    assert world.content("web", "work.ext4", "/.greeting") == b"hello home\n"
    assert world.content("web", "root.ext4", "/upper/root/.greeting") is None
    assert world.content("db", "root.ext4", "/upper/root/.greeting") == b"hello home\n"


def test_apply_renders_fstab_from_the_images_own(world: World) -> None:  # seed S9
    world.apply(world.write())
    fstab = (world.content("web", "root.ext4", "/upper/etc/fstab") or b"").decode()
    assert "/home" not in fstab
    assert "tmpfs /tmp tmpfs defaults,nodev,nosuid,mode=1777 0 0" in fstab
    assert " /root ext4 " in fstab


def test_apply_reports_the_stages_of_a_work_disk(world: World) -> None:  # seed S14
    world.apply(world.write())
    told = [e["detail"] for e in world.events if e["type"] == "stage" and e["stage"] == "prepare_work_disk"]
    assert told == ["cloning work seed", "resizing work disk"]


def test_check_changes_nothing(world: World) -> None:
    outcomes = world.apply(world.write(), check=True)
    assert outcomes["vm/web"].changed > 5
    assert world.host.effects == []
    assert not world.home.state.exists()


def test_change_of_a_running_vm_waits_for_restart(world: World) -> None:
    world.apply(world.write())
    assert world.apply(world.write("you"))["vm/web"].pending == 1
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello all from web\n"
    outcome = world.apply(world.write("you"), restart=True)["vm/web"]
    assert (outcome.error, outcome.pending) == (None, 0)
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello you from web\n"
    world.apply(world.write("you"))
    assert world.changed() == 0


def test_stopped_vm_has_its_disks_and_no_process(world: World) -> None:
    outcomes = world.apply(world.write(state="stopped"))
    assert outcomes["vm/db"].error is None
    assert len([e for e in world.host.effects if "start" in e and "qemu" in e]) == 1
    assert world.content("db", "root.ext4", "/upper/etc/greeting") == b"hello all from db\n"
    world.apply(world.write(state="stopped"))
    assert world.changed() == 0


def test_running_vm_that_shall_be_stopped_is_stopped(world: World) -> None:
    world.apply(world.write())
    world.apply(world.write(state="stopped"))
    record = world.session().store.snapshot().vm("db")
    assert record is not None
    assert record.runtime.state == "stopped"
    assert world.host.processes.find(record.runtime.api_socket) is None


def test_reboot_is_followed_by_a_start_of_what_should_run(world: World) -> None:  # seed S6
    path = world.write()
    world.apply(path)
    world.host.reboot()
    outcomes = world.apply(path)
    assert all(outcome.error is None for outcome in outcomes.values())
    record = world.session().store.snapshot().vm("web")
    assert record is not None
    assert world.host.processes.find(record.runtime.api_socket) is not None


def test_destroy_leaves_no_file_process_or_record(world: World) -> None:
    path = world.write()
    world.apply(path)
    outcomes = world.destroy(path)
    assert all(outcome.error is None for outcome in outcomes.values())
    assert world.of_vms() == []
    assert not any(process.alive for process in world.host.processes.all)
    assert world.session().store.snapshot().vms() == []
    assert all(outcome.changed == 0 for outcome in world.destroy(path).values())


def test_absent_vm_is_removed_by_apply(world: World) -> None:
    world.apply(world.write())
    world.apply(world.write(state="absent"))
    assert [record.name for record in world.session().store.snapshot().vms()] == ["web"]


def test_apply_that_fails_for_one_vm_leaves_the_other_running(world: World) -> None:
    path = world.write()
    world.apply(path, check=True)
    first = next(number for number in range(1, 200) if _fails(World(world.directory / str(number)), number, "vm/web"))
    world.host.fail_at(first)
    outcomes = world.apply(path)
    assert outcomes["vm/web"].error is not None
    assert outcomes["vm/db"].error is None
    record = world.session().store.snapshot().vm("web")
    assert record is not None
    assert record.runtime.state == "stopped"
    assert "simulated failure" in record.runtime.last_error
    world.host.restart()
    assert all(outcome.error is None for outcome in world.apply(path).values())


def _fails(world: World, number: int, subject: str) -> bool:
    world.directory.mkdir()
    world.host.fail_at(number)
    try:
        outcomes = world.apply(world.write())
    except BangerError:
        return False
    return bool(not outcomes["image/tiny"].error and outcomes[subject].error)


def test_five_mistakes_are_five_errors_and_nothing_is_touched(world: World) -> None:
    path = world.directory / "wrong.yml"
    path.write_text(
        """\
- images:
    - {name: tiny, source: tiny}
  vms:
    - {name: web, image: tiny, memroy: 1GiB}
    - {name: db, image: tinny}
    - {name: cache, image: tiny, root_disk: 4 gigs}
  tasks:
    - file: {dest: /etc/motd, content: "{{ nobody }}"}
    - copy: {src: nowhere, dest: etc/motd}
"""
    )
    with pytest.raises(PlaybookError) as error:
        world.apply(path)
    places = [(problem.place.line, problem.place.column) for problem in error.value.problems if problem.place]
    assert [line for line, _ in places] == [4, 5, 6, 8, 9]
    assert world.host.effects == []


def test_vms_of_an_image_that_cannot_even_be_planned_are_judged_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(spec: ImageSpec) -> dict[str, Any]:
        raise PlaybookError([Problem(spec.place_of("source"), "it cannot be read")])

    monkeypatch.setattr(TinySource, "image_recipe", staticmethod(hookimpl(unreadable)))
    path = world.write("all", "running", ("{name: web}", "{name: web, vmm: qemu, jailed: true}"))
    for check in (True, False):
        with pytest.raises(PlaybookError) as error:
            world.apply(path, check=check)
        said = [(problem.place.line, problem.place.column) for problem in error.value.problems if problem.place]
        assert said == [(3, 28), (8, 38)], "at the values of source and of jailed"
    assert world.host.effects == []


@pytest.mark.parametrize("check", [True, False])
def test_plugin_that_is_not_there_is_told_and_keeps_no_vm_from_going(world: World, check: bool) -> None:
    world.apply(world.write())
    path = world.write("all", "running", ("{name: web}", "{name: web, storage: zfs}"))
    with pytest.raises(PlaybookError, match="no plugin storage_zfs is in use"):
        world.apply(path, check=check)
    assert all(outcome.error is None for outcome in world.destroy(path).values())
    assert world.of_vms() == []


@pytest.mark.parametrize("after", [False, True])
def test_every_crash_during_apply_is_followed_by_convergence(short: Path, after: bool) -> None:
    whole = World(short / "whole")
    whole.directory.mkdir()
    whole.apply(whole.write())
    for number in range(1, len(whole.host.effects) + 1):
        world = World(short / f"{number}")
        world.directory.mkdir()
        path = world.write()
        world.host.crash_at(number, after=after)
        with pytest.raises(SimulatedCrash):
            world.apply(path)
        world.host.restart()
        assert all(outcome.error is None for outcome in world.apply(path).values()), f"after a crash at {number}"
        world.apply(path)
        assert world.changed() == 0, f"after a crash at {number}"
        world.destroy(path)
        assert world.of_vms() == []
        assert not any(process.alive for process in world.host.processes.all)


OTHER_IMAGE = ('content: "tiny\\n"', 'content: "other\\n"')


def test_changed_image_waits_for_recreate_and_the_vm_starts_on_its_old_one(world: World) -> None:
    world.apply(world.write())
    path = world.write("all", "running", OTHER_IMAGE)
    for restart in (False, True):
        outcome = world.apply(path, restart=restart)["vm/web"]
        assert (outcome.error, outcome.pending) == (None, 1)
        assert world.reasons()[-1] == "image tiny has changed: needs --recreate"
        assert world.runs("web")
    world.host.reboot()
    assert world.apply(path)["vm/web"].error is None
    assert world.runs("web"), "a change that waits never keeps a VM from starting"
    before = world.content("web", "work.ext4", "/.greeting")
    outcome = world.apply(path, recreate=True)["vm/web"]
    assert (outcome.error, outcome.pending) == (None, 0)
    assert world.content("web", "work.ext4", "/.greeting") == before
    world.apply(path)
    assert world.changed() == 0


def test_changed_image_whose_old_one_is_gone_is_a_failure_that_says_what_to_do(world: World) -> None:
    world.apply(world.write())
    old = world.home.image_directory(world.record("web").image_digest)
    world.host.reboot()
    world.host.files.remove_tree(old)
    outcome = world.apply(world.write("all", "running", OTHER_IMAGE))["vm/web"]
    assert "made for another image: needs --recreate" in str(outcome.error)
    assert not world.runs("web")


@pytest.mark.parametrize("storage", ["overlay", "dm", "file"])
def test_image_that_was_built_anew_is_not_put_under_disks_of_the_former(world: World, storage: str) -> None:
    """Two builds of one recipe need not have the same blocks; a copy needs no image any more."""
    world.blocked = set()
    chosen = ("{image: tiny,", f"{{image: tiny, storage: {storage}, network: user, vmm: qemu,")
    world.apply(world.write("all", "stopped", chosen, ("{name: web}", "{name: web, state: stopped}")))
    world.host.files.remove_tree(world.home.images)
    path = world.write("all", "running", chosen)
    shared = storage != "file"
    outcome = world.apply(path, check=True)["vm/web"]
    assert any("its image is gone: needs --recreate" in reason for reason in world.reasons()) == shared
    for _ in range(2):
        outcome = world.apply(path, restart=True)["vm/web"]
        assert any("its image was built anew: needs --recreate" in reason for reason in world.reasons()) == shared
        assert world.runs("web") == (not shared)
    assert bool(outcome.error) == shared
    outcome = world.apply(path, restart=True, recreate=True)["vm/web"]
    assert outcome.error is None
    assert world.runs("web")


def test_other_storage_is_never_booted_from_the_wrong_disk(world: World) -> None:
    world.apply(world.write())
    path = world.write("all", "running", ("{name: web}", "{name: web, storage: file}"))
    outcome = world.apply(path, restart=True)["vm/web"]
    assert outcome.error is None
    assert any("made for another storage" in reason for reason in world.reasons())
    assert world.content("web", "root.ext4", "/upper/etc/greeting") is not None, "the old disk is untouched"
    assert world.apply(path, recreate=True)["vm/web"].error is None
    assert world.content("web", "root.ext4", "/etc/greeting") == b"hello all from web\n"
    assert world.runs("web")


def test_smaller_work_disk_is_told_and_stops_nothing(world: World) -> None:
    world.apply(world.write())
    path = world.write("all", "running", ("work_disk: 64MiB", "work_disk: 48MiB"))
    world.host.reboot()
    for allowed in ({}, {"restart": True, "recreate": True}):
        outcome = world.apply(path, **allowed)["vm/web"]
        assert (outcome.error, outcome.pending) == (None, 1)
        (reason,) = world.reasons()
        assert reason.startswith("work_disk 64MiB -> 48MiB: never done,")
        assert "write what there is, or delete the VM first" in reason
        assert world.runs("web")
        assert world.record("web").work_disk_bytes == 64 * 2**20, "what is recorded is the disk there is"


def test_work_disk_smaller_than_the_seed_is_a_problem_of_the_playbook(world: World) -> None:
    with pytest.raises(PlaybookError, match="smaller than its image's work seed, 32MiB"):
        world.apply(world.write("all", "running", ("work_disk: 64MiB", "work_disk: 24MiB")))
    assert world.host.effects == []


def test_unknown_plugins_are_problems_with_a_suggestion(world: World) -> None:
    path = world.write("all", "running", ("{name: web}", "{name: web, storage: overlya, vmm: qemuu}"))
    with pytest.raises(PlaybookError) as error:
        world.apply(path)
    assert [problem.hint for problem in error.value.problems] == ["did you mean 'overlay'?", "did you mean 'qemu'?"]
    assert world.host.effects == []


@pytest.mark.parametrize("plugin", ["storage_overlay", "vmm_qemu", "workdisk_ext4"])
def test_destroy_without_the_plugin_that_made_it_leaves_nothing(world: World, plugin: str) -> None:
    path = world.write()
    world.apply(path)
    world.blocked = {plugin}
    outcomes = world.destroy(path)
    assert all(outcome.error is None for outcome in outcomes.values())
    assert world.of_vms() == []
    assert not any(process.alive for process in world.host.processes.all)
    assert world.session().store.snapshot().vms() == []


def test_other_network_waits_for_restart_and_ssh_stays_where_it_is(world: World) -> None:
    world.apply(world.write())
    old = world.record("web").nic
    closed = "  networks: [{name: closed, plugin: user, outbound: false}]\n  vms:\n    - {name: web, network: closed}"
    path = world.write("all", "running", ("  vms:\n    - {name: web}", closed))
    assert world.apply(path)["vm/web"].pending == 1
    assert world.record("web").nic == old
    assert world.apply(path, restart=True)["vm/web"].error is None
    assert world.record("web").nic.network == "closed"
    world.apply(path)
    assert (world.changed(), world.reasons()) == (0, [])


def test_port_that_someone_else_took_is_given_up_at_the_next_start(world: World) -> None:
    path = world.write()
    world.apply(path)
    port = world.record("web").nic.ssh.port
    world.host.reboot()
    world.host.network.taken.add(port)
    assert world.apply(path)["vm/web"].error is None
    assert world.record("web").nic.ssh.port != port


def test_check_tells_of_vms_that_would_be_removed(world: World) -> None:
    world.apply(world.write())
    before = list(world.host.effects)
    outcomes = world.apply(world.write(state="absent"), check=True)
    assert outcomes["vm/db"].changed > 3
    assert world.host.effects == before


def test_lost_handles_do_not_hide_a_changed_machine(world: World) -> None:
    world.apply(world.write())
    (world.record("web").directory / "handles.json").unlink()
    world.apply(world.write("all", "running", ("{name: web}", "{name: web, memory: 1GiB}")))
    assert world.reasons() == ["memory 512MiB -> 1GiB: needs --restart"]


def test_spoilt_note_of_one_vm_is_that_vms_alone(world: World) -> None:
    path = world.write()
    world.apply(path)
    world.host.files.write(world.record("web").directory / "root.image", b"\xff\xfe")
    outcomes = world.apply(path)
    assert outcomes["vm/db"].error is None
    assert outcomes["vm/web"].pending == 1


@pytest.mark.parametrize("storage", ["overlay", "file", "dm"])
def test_disk_whose_note_is_lost_is_left_alone_until_it_may_be_made_anew(world: World, storage: str) -> None:
    world.blocked -= {"storage_dm"}
    chosen = f"root_disk: 1GiB, storage: {storage}, network: user, vmm: qemu"
    path = world.write("all", "stopped", ("{name: web}", "{name: web, state: stopped}"), ("root_disk: 1GiB", chosen))
    world.apply(path)
    disk = Path(world.record("web").runtime.system_overlay)
    before = world.host.files.status(disk)
    world.host.files.remove(disk.with_name("root.image"))
    assert world.apply(path)["vm/web"].pending == 1
    assert world.reasons() == [f"{disk.with_name('root.image')} does not say what it was made for: needs --recreate"]
    assert world.host.files.status(disk) == before
    assert world.apply(path, recreate=True)["vm/web"].error is None
    world.apply(path, check=True)
    assert world.changed() == 0


@pytest.mark.parametrize("check", [False, True])
def test_spoilt_host_key_of_one_vm_is_that_vms_alone(world: World, check: bool) -> None:
    world.apply(world.write("all", "stopped"))
    world.host.files.write(world.record("web").directory / "ssh_host_ed25519_key", b"spoilt")
    outcomes = world.apply(world.write(), check=check)
    assert "ssh_host_ed25519_key is not the private key that was made" in str(outcomes["vm/web"].error)
    assert outcomes["vm/db"].error is None and outcomes["vm/db"].changed
    assert world.runs("db") != check
    assert all(outcome.error is None for outcome in world.destroy(world.directory / "playbook.yml").values())


def test_half_a_host_key_is_made_again(world: World) -> None:
    path = world.write()
    world.apply(path)
    world.host.files.remove(world.record("web").directory / "ssh_host_ed25519_key")
    assert world.apply(path, restart=True)["vm/web"].error is None
    world.destroy(path)
    assert world.session().store.snapshot().vms() == []


def test_failed_customisation_keeps_the_base(world: World) -> None:
    path = world.write()
    world.host.fail_at(6)
    outcome = world.apply(path)["image/tiny"]
    assert outcome.error is not None
    world.host.restart()
    before = len(world.host.effects)
    assert world.apply(path)["image/tiny"].error is None
    made = [effect for effect in world.host.effects[before:] if "vmlinuz" in effect and "write" in effect]
    assert made == [], "the base was not built a second time"


def test_destroy_with_handles_that_cannot_be_written_still_removes_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write()
    world.apply(path)

    def full(path: Path, content: bytes, *, durable: bool = True) -> None:
        raise StateError("cannot write: No space left on device")

    monkeypatch.setattr("banger.core.handles.write_atomically", full)
    assert all(outcome.error is None for outcome in world.destroy(path).values())
    assert world.of_vms() == []
    assert not any(process.alive for process in world.host.processes.all)


def test_vm_that_died_is_recorded_as_stopped_by_any_apply(world: World) -> None:  # seed S6
    world.apply(world.write())
    world.host.processes.end_all()
    other = world.directory / "other.yml"
    other.write_text("- images: [{name: tiny, source: tiny}]\n")
    world.apply(other)
    assert [world.record(name).runtime.state for name in ("web", "db")] == ["stopped", "stopped"]
    assert HandleCache("").of(world.record("web").directory) == {}


def test_base_that_was_cleaned_away_is_not_built_again_for_its_customised_image(world: World) -> None:
    path = world.write()
    world.apply(path)
    customised = world.record("web").image_digest
    (base,) = [d for d in world.host.files.list(world.home.root / "images") if d.name != customised]
    world.host.files.remove_tree(base)
    before = len(world.host.effects)
    world.apply(path)
    assert world.host.effects[before:] == []


def test_failed_base_is_the_error_and_nothing_is_made_of_it(world: World) -> None:
    world.host.fail_at(2, DiskError("the base failed"))
    outcome = world.apply(world.write())["image/tiny"]
    assert str(outcome.error) == "the base failed"


@pytest.mark.parametrize("disk", ["root_disk: 1GiB", "work_disk: 64MiB"])
@pytest.mark.parametrize("after", [False, True])
def test_growing_a_disk_that_is_interrupted_is_finished_by_the_next_apply(short: Path, disk: str, after: bool) -> None:
    name = f"{disk.partition('_')[0]}.ext4"
    for number in range(1, 100):
        world = World(short / f"{number}")
        world.directory.mkdir()
        world.apply(world.write(state="stopped"))
        world.host.processes.end_all()
        path = world.write("all", "stopped", (disk, disk.split()[0] + " 2GiB"))
        world.host.crash_at(number, after=after)
        try:
            world.apply(path)
            break
        except SimulatedCrash:
            world.host.restart()
        world.apply(path)
        world.apply(path)
        assert world.changed() == 0, f"after a crash at {number}"
        tree = world.host.files.status(world.record("web").directory / name)
        assert tree is not None and tree.size_bytes == 2 * 2**30
    assert number > 5


@pytest.mark.parametrize("after", [False, True])
def test_every_crash_during_recreate_leaves_vms_that_start(short: Path, after: bool) -> None:
    for number in range(1, 100):
        world = World(short / f"{number}")
        world.directory.mkdir()
        world.apply(world.write())
        path = world.write("all", "running", OTHER_IMAGE)
        world.host.crash_at(number, after=after)
        try:
            world.apply(path, recreate=True)
            break
        except SimulatedCrash:
            world.host.restart()
        world.host.reboot()
        outcomes = world.apply(path)
        assert all(outcome.error is None for outcome in outcomes.values()), f"after a crash at {number}"
        assert world.runs("web") and world.runs("db"), f"after a crash at {number}"
        assert world.content("web", "work.ext4", "/.greeting") == b"hello home\n"
    assert number > 20


def test_failed_recreate_leaves_the_others_on_their_images(world: World) -> None:
    world.apply(world.write())
    path = world.write("all", "running", OTHER_IMAGE)
    world.host.processes.unkillable.update(process.identity for process in world.host.processes.all)
    before = len(world.host.effects)
    world.apply(path, check=True, recreate=True)
    assert len(world.host.effects) == before
    for number in (4, 8, 12):
        world.host.restart()
        world.host.fail_at(number)
        world.apply(path, recreate=True)
        world.host.restart()
        outcomes = world.apply(path)
        assert all(outcome.error is None for outcome in outcomes.values())


def test_network_of_a_vm_that_cannot_be_restarted_stays_what_it_is(world: World) -> None:
    world.apply(world.write())
    old = world.record("web").nic
    closed = "  networks: [{name: closed, plugin: user}]\n  vms:\n    - {name: web, network: closed, storage: file}"
    path = world.write("all", "running", ("  vms:\n    - {name: web}", closed))
    world.apply(path, restart=True)
    assert world.runs("web")
    assert world.record("web").nic == old
    assert "network user -> closed: needs --restart" in world.reasons()


def test_network_of_a_vm_whose_restart_fails_stays_what_it_is(world: World) -> None:
    world.apply(world.write())
    old = world.record("web").nic
    world.host.fail_at(2)  # the first is of db, whose tasks have moved in the playbook
    closed = "  networks: [{name: closed, plugin: user}]\n  vms:\n    - {name: web, network: closed}"
    outcome = world.apply(world.write("all", "running", ("  vms:\n    - {name: web}", closed)), restart=True)["vm/web"]
    assert outcome.error is not None
    if world.runs("web"):
        assert world.record("web").nic == old


def test_copy_smaller_than_its_image_is_a_problem_of_the_playbook(world: World) -> None:
    world.apply(world.write())
    before = len(world.host.effects)
    path = world.write("all", "running", ("{name: web}", "{name: web, storage: file, root_disk: 64MiB}"))
    with pytest.raises(PlaybookError, match="root_disk 64MiB is smaller than its image, 256MiB"):
        world.apply(path, recreate=True)
    assert len(world.host.effects) == before


def test_size_taken_back_after_an_interrupted_grow_is_no_dead_end(world: World) -> None:
    world.apply(world.write())
    directory = world.record("web").directory
    world.host.reboot()
    world.host.ext4.grow(directory / "work.ext4", 2**27)
    world.host.files.write(directory / "work.growing", b"")
    outcome = world.apply(world.write())["vm/web"]
    assert outcome.error is None
    assert world.runs("web")


def test_leftovers_of_a_killed_command_are_swept(world: World) -> None:
    path = world.write()
    world.apply(path)
    directory = world.record("web").directory
    world.host.files.write(directory / ".root.ext4.x1y2.tmp", b"half")
    world.host.files.make_directory(directory / ".banger-stage-abc")
    world.apply(world.write("all", "running", OTHER_IMAGE), recreate=True)
    names = [file.name for file in world.host.files.list(directory)]
    assert not [name for name in names if name.startswith(".")]


def test_files_that_cannot_both_be_there_are_a_problem(world: World) -> None:
    path = world.write("all", "running", ("/root/.greeting", "/etc/greeting/below"))
    with pytest.raises(PlaybookError, match="/etc/greeting is a file"):
        world.apply(path)
    assert world.host.effects == []


def test_files_of_an_image_that_cannot_both_be_there_are_a_problem_with_its_place(world: World) -> None:
    two = 'content: "tiny\\n"}\n    - file: {dest: /etc/motd/below, content: x}'
    path = world.write("all", "running", ('content: "tiny\\n"}', two))
    with pytest.raises(PlaybookError, match="/etc/motd is a file") as error:
        world.apply(path)
    (problem,) = error.value.problems
    assert problem.place is not None and problem.place.line in (5, 6)


def test_loss_of_disks_is_confirmed_before_anything_is_done(world: World) -> None:
    asked: list[Sequence[str]] = []

    def refuse(names: Sequence[str]) -> None:
        asked.append(names)
        raise BangerError("no")

    for _ in range(2):
        world.apply(world.write(), confirm=refuse)
    world.apply(world.write("you"), confirm=refuse, restart=True, recreate=True)
    assert asked == []
    changes = (("1GiB, work", "512MiB, work"), ("{name: web}", "{name: web, root_disk: 1GiB}"))
    smaller = partial(world.write, "you", "running", *changes)
    for act, write, options in (
        (world.apply, partial(world.write, "you", "absent"), {}),
        (world.apply, smaller, {"recreate": True}),
        (world.destroy, partial(world.write, "you"), {}),
    ):
        path = write()
        world.host.effects.clear()
        with pytest.raises(BangerError, match="no"):
            act(path, confirm=refuse, **options)
        assert world.host.effects == []
    assert asked == [["db"], ["db"], ["web", "db"]]


def test_tasks_that_were_not_for_a_vm_are_counted(world: World) -> None:
    path = world.write(
        "all", "running", ('content: "hello home\\n"}', "content: \"hello home\\n\"}\n      when: vm.name == 'db'")
    )
    for check in (True, False):
        outcomes = world.apply(path, check=check)
        assert {name: outcome.skipped for name, outcome in outcomes.items()} == {
            "image/tiny": 0,
            "vm/db": 0,
            "vm/web": 1,
        }


def test_dry_run_that_something_changes_under_looks_again_with_the_locks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write()
    world.apply(path)
    plan_of, failing = Roster._plan, iter([DiskError("it is just being removed")])

    def once(roster: Roster, member: Member) -> Plan:
        for error in failing:
            raise error
        assert world.home.lock(f"vm-{member.vm.name}").exists()
        return plan_of(roster, member)

    monkeypatch.setattr(Roster, "_plan", once)
    assert [outcome.error for outcome in world.apply(path, check=True).values()] == [None] * 3
    assert world.changed() == 0


def test_dry_run_of_a_vm_that_another_command_is_at_says_who_holds_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write()
    world.apply(path)

    def fail(roster: Roster, member: Member) -> Plan:
        raise DiskError("it is just being removed")

    monkeypatch.setattr(Roster, "_plan", fail)
    with locked(world.home.lock("vm-web"), purpose="banger destroy"), pytest.raises(Busy, match="vm-web is locked by"):
        world.apply(path, check=True)
    outcomes = world.apply(path, check=True)
    assert isinstance(outcomes["vm/web"].error, DiskError), "what is so and stays so is told of each VM"


def test_dry_run_that_fails_leaves_no_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(roster: Roster, member: Member) -> Plan:
        raise DiskError("it cannot be read")

    monkeypatch.setattr(Roster, "_plan", fail)
    assert world.apply(world.write(), check=True)["vm/web"].error is not None
    assert not world.home.root.exists()


def test_vm_that_is_destroyed_while_a_dry_run_begins_is_a_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write()
    world.apply(path)
    check, once = Run.check, iter([None])

    def beside(run: Run) -> object:
        for _ in once:
            world.destroy(path)
        return check(run)

    monkeypatch.setattr(Run, "check", beside)
    outcomes = world.apply(path, check=True)
    assert outcomes["vm/web"].error is None and outcomes["vm/web"].changed
