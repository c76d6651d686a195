"""Planning: what is observed decides what is done, and a running thing is not changed under its user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from banger.core.plan import Plan, Verb, ordered, plan
from banger.errors import PluginError
from banger.host import Host, HostView
from banger.resource import Absent, Drifted, Handle, Lifetime, Needs, Observation, Present, Resource, Stage

HOST = cast(Any, object())


@dataclass(frozen=True)
class Thing(Resource):
    key: str
    needs: tuple[str, ...] = ()
    seen: Observation = Absent()
    lifetime: Lifetime = Lifetime.DISK
    keeps: bool = False

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return self.seen

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None: ...


def vm(disk: Observation, vmm: Observation, *, keeps: bool = False) -> list[Resource]:
    return [
        Thing("vm/vmm", ("vm/disk",), vmm, Lifetime.BOOT),
        Thing("vm/disk", (), disk, keeps=keeps),
    ]


def verbs(made: Plan) -> list[tuple[str, str]]:
    return [(action.verb.value, action.resource.key) for action in made.actions]


def test_plan_of_nothing_there_creates_in_order_of_need() -> None:
    assert verbs(plan("vm", vm(Absent(), Absent()), HOST, {})) == [("create", "vm/disk"), ("create", "vm/vmm")]


def test_plan_of_all_there_changes_nothing() -> None:
    made = plan("vm", vm(Present(), Present()), HOST, {})
    assert made.changes == 0
    assert not made.pending


def test_plan_with_drift_under_a_running_vm_waits_for_restart() -> None:
    things = vm(Drifted({}, ("/etc/motd",)), Present())
    (waiting,) = plan("vm", things, HOST, {}).pending
    assert "/etc/motd: needs --restart" in waiting.reason
    assert verbs(plan("vm", things, HOST, {}, restart=True)) == [
        ("remove", "vm/vmm"),
        ("update", "vm/disk"),
        ("create", "vm/vmm"),
    ]


def test_plan_with_drift_of_a_stopped_vm_updates_it() -> None:
    assert verbs(plan("vm", vm(Drifted({}, ("x",)), Absent()), HOST, {}))[0] == ("update", "vm/disk")


def test_plan_looks_again_at_an_unverified_disk_only_before_it_is_used() -> None:
    unsure = Present(verified=False)
    assert verbs(plan("vm", vm(unsure, Absent()), HOST, {}))[0] == ("update", "vm/disk")
    assert plan("vm", vm(unsure, Present()), HOST, {}).changes == 0
    assert plan("vm", vm(unsure, Absent())[1:], HOST, {}).changes == 0


def test_plan_that_needs_a_new_disk_starts_nothing_on_the_old_one() -> None:
    things = vm(Drifted({}, ("made for another image",), in_place=False, usable=False), Absent())
    made = plan("vm", things, HOST, {}, restart=True)
    assert made.changes == 0
    (pending,), (blocked,) = made.pending, made.blocked
    assert pending.reason == "made for another image: needs --recreate"
    assert blocked.reason == "waits for vm/disk (made for another image: needs --recreate)"
    assert verbs(plan("vm", things, HOST, {}, recreate=True)) == [
        ("remove", "vm/disk"),
        ("create", "vm/disk"),
        ("create", "vm/vmm"),
    ]


def test_plan_with_restart_stops_nothing_that_could_not_start_again() -> None:
    things = vm(Drifted({}, ("made for another image",), in_place=False, usable=False), Present())
    made = plan("vm", things, HOST, {}, restart=True)
    assert made.changes == 0
    assert len(made.pending) == 1


def test_plan_starts_a_vm_on_a_disk_that_is_only_too_large() -> None:
    things = vm(Drifted({}, ("work_disk 64MiB -> 48MiB",), in_place=False), Absent(), keeps=True)
    assert verbs(plan("vm", things, HOST, {})) == [("pending", "vm/disk"), ("create", "vm/vmm")]


def test_plan_never_makes_anew_what_holds_data() -> None:
    things = vm(Drifted({}, ("smaller",), in_place=False), Present(), keeps=True)
    made = plan("vm", things, HOST, {}, recreate=True)
    assert made.changes == 0
    assert "never made anew" in made.pending[0].reason


def test_plan_with_a_disk_missing_under_a_running_vm_waits_for_restart() -> None:
    made = plan("vm", vm(Absent(), Present()), HOST, {})
    assert made.changes == 0
    assert "is missing under vm/vmm" in made.pending[0].reason


def test_plan_removes_what_is_unwanted_first_and_last_made_first() -> None:
    gone = [Thing("a", seen=Present()), Thing("b", ("a",), Present()), Thing("c", ("b",), Absent())]
    made = plan("vm", [Thing("d")], HOST, {}, unwanted=gone)
    assert verbs(made) == [("remove", "b"), ("remove", "a"), ("create", "d")]


def test_plan_restarts_a_vmm_that_itself_differs() -> None:
    things = vm(Present(), Drifted({"pid": 1}, ("memory 512MiB -> 1GiB",), in_place=False))
    assert "needs --restart" in plan("vm", things, HOST, {}).pending[0].reason
    assert verbs(plan("vm", things, HOST, {}, restart=True))[0] == ("remove", "vm/vmm")
    assert plan("vm", things, HOST, {}, restart=True).actions[-1].verb is Verb.CREATE


def test_ordered_with_a_cycle_names_it() -> None:
    with pytest.raises(PluginError, match="stand on each other"):
        ordered([Thing("a", ("b",)), Thing("b", ("a",))])


def test_ordered_with_one_key_twice_says_which() -> None:
    with pytest.raises(PluginError, match="two resources have the key 'a'"):
        ordered([Thing("a"), Thing("a")])


def stopped(files: Observation, snapshot: Observation) -> tuple[list[Resource], list[Resource]]:
    """A stopped VM whose guest files are written through a device: (wanted, unwanted)."""
    wanted: list[Resource] = [Thing("vm/cow", (), Present()), Thing("vm/files", ("vm/cow", "vm/snapshot"), files)]
    return wanted, [Thing("vm/snapshot", ("vm/cow",), snapshot, Lifetime.BOOT)]


def test_plan_puts_up_scaffolding_for_what_is_written_and_takes_it_down() -> None:
    wanted, unwanted = stopped(Drifted({}, ("/etc/motd",)), Absent())
    assert verbs(plan("vm", wanted, HOST, {}, unwanted=unwanted)) == [
        ("ok", "vm/cow"), ("create", "vm/snapshot"), ("update", "vm/files"), ("remove", "vm/snapshot")
    ]  # fmt: skip


def test_plan_puts_up_no_scaffolding_for_what_is_as_it_should_be() -> None:
    wanted, unwanted = stopped(Present(), Absent())
    assert plan("vm", wanted, HOST, {}, unwanted=unwanted).changes == 0


def test_plan_of_stopping_only_takes_the_device_down() -> None:
    wanted, unwanted = stopped(Present(verified=False), Present())
    assert verbs(plan("vm", wanted, HOST, {}, unwanted=unwanted)) == [
        ("remove", "vm/snapshot"), ("ok", "vm/cow"), ("ok", "vm/files")
    ]  # fmt: skip


def test_plan_mends_under_a_running_vm_what_may_be_mended_there() -> None:
    things = vm(Drifted({}, ("rules are gone",), live=True), Present())
    for restart in (False, True):
        assert verbs(plan("vm", things, HOST, {}, restart=restart)) == [("update", "vm/disk"), ("ok", "vm/vmm")]


def test_plan_takes_away_what_handles_still_stand_for_once_nothing_runs_on_it() -> None:
    stray = Thing("vm/tap", (), Present(), Lifetime.BOOT)
    waits = plan("vm", vm(Present(), Present()), HOST, {}, former=[stray], user="vm/vmm")
    assert verbs(waits)[0] == ("pending", "vm/tap")
    goes = plan("vm", vm(Present(), Absent()), HOST, {}, former=[stray], user="vm/vmm")
    assert verbs(goes)[0] == ("remove", "vm/tap")


def test_plan_lets_whoever_made_a_thing_take_it_away() -> None:
    made_by = Thing("vm/vmm", (), Present(), Lifetime.BOOT, keeps=True)
    stopped = plan("vm", [], HOST, {}, unwanted=vm(Present(), Present())[:1], former=[made_by])
    assert [action.resource for action in stopped.actions] == [made_by]
    drifted = vm(Present(), Drifted({}, ("it runs under another",), in_place=False))
    again = plan("vm", drifted, HOST, {}, former=[made_by], restart=True)
    assert [(action.verb.value, action.resource is made_by) for action in again.actions if action.changes] == [
        ("remove", True),
        ("create", False),
    ]
