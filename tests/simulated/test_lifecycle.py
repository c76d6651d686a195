"""Recorded VMs without their playbook: start, stop, delete, show, run; on the simulated host."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from banger.core import lifecycle
from banger.core.apply import Outcome
from banger.errors import UsageError
from banger.testing import SimulatedCrash
from tests.simulated.world import World


def start(world: World, *names: str) -> list[Outcome]:
    return lifecycle.start(world.session(), names, 1)


def stop(world: World, *names: str) -> list[Outcome]:
    return lifecycle.stop(world.session(), names, 1)


def errors(outcomes: list[Outcome]) -> list[BaseException]:
    return [outcome.error for outcome in outcomes if outcome.error]


def test_stop_syncs_the_guest_ends_the_vmm_and_keeps_the_disks(world: World) -> None:
    world.apply(world.write())
    disks = [path for path in world.of_vms() if path.suffix == ".ext4"]
    assert errors(stop(world, "web")) == []
    assert not world.runs("web")
    assert world.record("web").runtime.state == "stopped"
    assert [command[-1] for command in world.host.tools.commands] == ["sync"]
    assert [path for path in world.of_vms() if path.suffix == ".ext4"] == disks
    assert world.session().handles.of(world.record("web").directory) == {}


def test_start_writes_what_the_playbook_last_asked_for(world: World) -> None:
    path = world.write()
    world.apply(path)
    stop(world, "web")
    disk = world.record("web").directory / "root.ext4"
    world.host.ext4.patch(disk, [], ["/etc/greeting"], prefix="/upper")
    path.unlink()
    assert errors(start(world, "web")) == []
    assert world.runs("web")
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello all from web\n"


def test_start_of_what_was_made_stopped_and_start_of_what_runs(world: World) -> None:
    world.apply(world.write(state="stopped"))
    assert errors(start(world, "db", "web")) == []
    assert world.runs("db")
    effects = len(world.host.effects)
    assert [outcome.changed for outcome in start(world, "db", "web")] == [0, 0]
    assert world.host.effects[effects:] == []


def test_apply_after_start_and_stop_changes_only_what_it_must(world: World) -> None:
    path = world.write()
    world.apply(path)
    stop(world, "web")
    start(world, "web")
    world.apply(path)
    assert world.changed() == 0


def test_delete_leaves_nothing_of_the_vm(world: World) -> None:
    world.apply(world.write())
    directory = world.record("web").directory
    assert errors(lifecycle.delete(world.session(), ["web"], 1)) == []
    assert [record.name for record in world.session().store.snapshot().vms()] == ["db"]
    assert world.host.files.status(directory) is None


def test_show_tells_what_is_recorded_and_what_is_there(world: World) -> None:
    world.apply(world.write())
    shown = lifecycle.show(world.session(), "web")
    assert (shown["name"], shown["state"], shown["memory_bytes"]) == ("web", "running", 2**29)
    assert shown["resources"]["web/vmm"]["pid"] > 0
    json.dumps(shown)
    stop(world, "web")
    shown = lifecycle.show(world.session(), "web")
    assert shown["state"] == "stopped"
    assert "web/vmm" not in shown["resources"]


def test_a_wrong_name_is_told_with_the_nearest_and_touches_nothing(world: World) -> None:
    world.apply(world.write())
    effects = len(world.host.effects)
    with pytest.raises(UsageError, match="there is no VM 'wep'") as wrong:
        stop(world, "web", "wep")
    assert wrong.value.hint == "did you mean 'web'?"
    assert world.host.effects[effects:] == []


def test_run_makes_a_vm_of_a_known_image_and_then_only_starts_it(world: World) -> None:
    world.apply(world.write())
    assert errors(lifecycle.ensure_running(world.session(), "new", {"memory": "64MiB", "root_disk": "1GiB"})) == []
    assert world.runs("new")
    record = world.record("new")
    assert (record.image, record.memory_bytes, record.image_digest) == ("tiny", 2**26, world.record("web").image_digest)
    stop(world, "new")
    assert errors(lifecycle.ensure_running(world.session(), "new", {})) == []
    assert world.runs("new")


@pytest.mark.parametrize(
    ("name", "wish", "said"),
    [
        ("web", {"memory": "1GiB"}, "web is there already"),
        ("new", {"image": "tinny"}, "there is no image 'tinny'"),
        ("new", {"memory": "1 potato"}, "'memory' of the VM 'new'"),
        ("new", {"network": "nowhere"}, "no network is named 'nowhere'"),
        ("New!", {}, "cannot be the name of any VM"),
    ],
)
def test_run_of_what_cannot_be_is_refused(world: World, name: str, wish: dict[str, str], said: str) -> None:
    world.apply(world.write())
    with pytest.raises(UsageError, match=said):
        lifecycle.ensure_running(world.session(), name, wish)
    assert len(world.session().store.snapshot().vms()) == 2


def test_run_without_any_image_says_what_to_do(world: World) -> None:
    with pytest.raises(UsageError, match="not said which image") as refused:
        lifecycle.ensure_running(world.session(), "new", {})
    assert refused.value.hint == "apply a playbook with an image first"


def test_delete_is_confirmed_before_disks_go(world: World) -> None:
    world.apply(world.write())
    asked: list[list[str]] = []

    def refuse(names: Sequence[str]) -> None:
        asked.append(list(names))
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        lifecycle.delete(world.session(), ["web", "db", "web"], 1, refuse)
    assert asked == [["web", "db"]]
    assert world.runs("web")
    with pytest.raises(UsageError, match="there is no VM"):
        lifecycle.delete(world.session(), ["nobody"], 1, refuse)
    assert len(asked) == 1, "of a VM that is not there nothing is asked"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("act", ["start", "stop", "delete"])
def test_killed_at_any_effect_the_next_command_ends_as_if_nothing_had_been(world: World, act: str, after: bool) -> None:
    path = world.write()
    for number in range(1, 200):
        world.host.restart()
        world.apply(path)
        if act == "start":
            stop(world, "web")
        world.host.crash_at(number, after=after)
        acts = {"start": start, "stop": stop, "delete": lambda w, n: lifecycle.delete(w.session(), [n], 1)}
        try:
            acts[act](world, "web")
        except SimulatedCrash:
            world.host.restart()
        else:
            assert number > 2
            return
        if act != "delete" or world.session().store.snapshot().vm("web"):
            assert errors(acts[act](world, "web")) == []
        assert [record.name for record in world.session().store.snapshot().vms() if world.runs(record.name)] == (
            ["db", "web"] if act == "start" else ["db"]
        )
        lifecycle.delete(world.session(), ["db"], 1)
        if world.session().store.snapshot().vm("web"):
            lifecycle.delete(world.session(), ["web"], 1)
        assert world.of_vms() == []
        assert not [process for process in world.host.processes.all if process.alive]
    raise AssertionError("it never ended")
