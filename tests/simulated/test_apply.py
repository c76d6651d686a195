"""Carrying out plans: journalled before each effect, rolled back on failure, every teardown stage tried."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Any

import pytest

from banger.core.apply import Interrupted, Outcome, carry_out, in_parallel
from banger.core.plan import plan
from banger.core.report import Event, silent
from banger.core.teardown import tear_down
from banger.errors import Busy, DiskError
from banger.host import Host, HostView
from banger.resource import Absent, Handle, Lifetime, Needs, Observation, Present, Resource, Stage


@dataclass
class World:
    """A host with named things on it; `log` is every effect and journal entry in order."""

    there: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    stuck: dict[str, int] = field(default_factory=dict)

    def announce(self, key: str) -> None:
        self.log.append(f"announce {key}")

    def record(self, key: str, handle: Handle) -> None:
        self.log.append(f"record {key}")

    def forget(self, key: str) -> None:
        self.log.append(f"forget {key}")


@dataclass(frozen=True)
class Thing(Resource):
    key: str
    world: World
    needs: tuple[str, ...] = ()
    lifetime: Lifetime = Lifetime.DISK

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Present({"name": self.key}) if self.key in self.world.there else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        self.world.log.append(f"create {self.key}")
        if f"create {self.key} by an exit" in self.world.broken:
            sys.exit(3)
        if f"create {self.key}" in self.world.broken:
            raise DiskError(f"cannot make {self.key}")
        assert all(needs[key] == {"name": key} for key in self.needs), "made after what it stands on, with its handle"
        self.world.there.add(self.key)
        return {"name": self.key}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        self.world.log.append(f"remove {self.key}")
        if f"remove {self.key} by an exit" in self.world.broken:
            sys.exit(3)
        if f"remove {self.key}" in self.world.broken:
            raise DiskError(f"cannot remove {self.key}")
        if self.world.stuck.get(self.key, 0):
            self.world.stuck[self.key] -= 1
            raise Busy(f"{self.key} is in use")
        self.world.there.discard(self.key)


HOST: Any = object()


def machine(world: World) -> list[Resource]:
    return [
        Thing("disk", world),
        Thing("tap", world, (), Lifetime.BOOT),
        Thing("vmm", world, ("disk", "tap"), Lifetime.BOOT),
    ]


def run(world: World, report: Any = silent, cancelled: Flag | None = None) -> Outcome:
    return carry_out(plan("vm/a", machine(world), HOST, {}), HOST, world, report, cancelled or Flag())


def test_carry_out_announces_what_a_reboot_would_lose_before_it_happens() -> None:  # seed S1
    world = World()
    assert run(world).changed == 3
    assert world.log == [
        "create disk",
        *("announce tap", "create tap", "record tap"),
        *("announce vmm", "create vmm", "record vmm"),
    ]


def test_carry_out_a_second_time_changes_nothing() -> None:
    world = World()
    run(world)
    assert (run(world).changed, run(world).ok) == (0, 3)


def test_carry_out_that_fails_leaves_nothing_and_the_first_error() -> None:
    world = World(broken={"create vmm"})
    outcome = run(world)
    assert str(outcome.error) == "cannot make vmm"
    assert world.there == set()
    assert world.log[-5:] == ["remove vmm", "forget vmm", "remove tap", "forget tap", "remove disk"]


def test_exit_of_a_resource_is_its_failure() -> None:
    world = World(broken={"create vmm by an exit", "remove tap by an exit"})
    error = run(world).error
    assert str(error) == "vmm: its plugin called sys.exit(3)"
    assert any("tap: its plugin called sys.exit(3)" in note for note in getattr(error, "__notes__", []))
    assert world.there == {"tap"}


def test_carry_out_that_fails_keeps_what_was_there_before() -> None:
    world = World(there={"disk"}, broken={"create vmm"})
    run(world)
    assert world.there == {"disk"}


def test_roll_back_that_fails_is_a_note_on_the_first_error() -> None:
    world = World(broken={"create vmm", "remove tap"})
    error = run(world).error
    assert str(error) == "cannot make vmm"
    assert any("cannot remove tap" in note for note in getattr(error, "__notes__", []))
    assert world.there == {"tap"}


def test_carry_out_when_cancelled_rolls_back() -> None:
    cancelled = Flag()
    world = World()

    def cancel_after_first(event: Event) -> None:
        if event["type"] == "done":
            cancelled.set()

    assert isinstance(run(world, cancel_after_first, cancelled).error, Interrupted)
    assert world.there == set()


def test_tear_down_goes_on_after_a_failure_and_reports_all() -> None:
    world = World(there={"disk", "tap", "other"}, broken={"remove disk", "remove tap"})
    failures = tear_down("vm/a", [*machine(world), Thing("other", world)], HOST, {}, silent, lambda r: None)
    assert sorted(map(str, failures)) == ["cannot remove disk", "cannot remove tap"]
    assert world.there == {"disk", "tap"}


def test_tear_down_takes_nothing_from_under_a_survivor() -> None:
    world = World(there={"disk", "tap", "vmm"}, broken={"remove vmm"})
    (failure,) = tear_down("vm/a", machine(world), HOST, {}, silent, lambda r: None)
    assert str(failure) == "cannot remove vmm"
    assert world.there == {"disk", "tap", "vmm"}


def test_tear_down_keeps_all_that_a_survivor_stands_on() -> None:
    world = World(there={"file", "loop", "table", "other"}, broken={"remove table"})
    chain = [Thing("file", world), Thing("loop", world, ("file",)), Thing("table", world, ("loop",))]
    tear_down("vm/a", [*chain, Thing("other", world)], HOST, {}, silent, lambda r: None)
    assert world.there == {"file", "loop", "table"}


def test_tear_down_tries_a_busy_thing_again() -> None:
    world = World(there={"disk"}, stuck={"disk": 2})
    assert tear_down("vm/a", [Thing("disk", world)], HOST, {}, silent, lambda r: None) == []
    assert world.log.count("remove disk") == 3


def test_in_parallel_one_that_fails_leaves_the_others_going() -> None:
    worlds = {name: World(broken={"create vmm"} if name == "b" else set()) for name in "abc"}
    recaps: list[Event] = []

    def work(world: World) -> Callable[[Flag], Outcome]:
        return lambda flag: run(world, cancelled=flag)

    outcomes = in_parallel({name: work(world) for name, world in worlds.items()}, 2, recaps.append)
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert [event["failed"] for event in recaps if event["type"] == "recap"] == [0, 1, 0]
    assert worlds["c"].there == {"disk", "tap", "vmm"}


def test_remove_that_stays_busy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.core.teardown.BUSY_TIMEOUT_S", 0.0)
    world = World(there={"disk"}, stuck={"disk": 10**6})
    (failure,) = tear_down("vm/a", [Thing("disk", world)], HOST, {}, silent, lambda r: None)
    assert isinstance(failure, Busy)
