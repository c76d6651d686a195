"""Ctrl-C before a VM was begun: it is as it was, told in one line, and nobody's failure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from banger.cli.perform import exit_code, summary
from banger.core import apply as apply_room
from banger.core.apply import NotBegun, Outcome, in_parallel
from banger.core.report import Event
from tests.simulated.world import World


class _Later(ThreadPoolExecutor):
    """Begins nothing before an interrupt has been noticed."""

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Any:
        def later() -> Any:
            assert arguments[-1].wait(5), "the flag of the run is its last argument"
            return function(*arguments, **options)

        return super().submit(later)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the first wait for work is interrupted, before any of it has begun."""

    def now() -> None:
        waits: list[object] = []

        def interrupted_once(futures: Any) -> None:
            waits.append(futures)
            if len(waits) == 1:
                raise KeyboardInterrupt
            wait(futures)

        monkeypatch.setattr(apply_room, "wait", interrupted_once)
        monkeypatch.setattr(apply_room, "ThreadPoolExecutor", _Later)

    return now


def test_what_was_not_begun_is_told_in_one_line(interrupted: Callable[[], None]) -> None:
    events: list[Event] = []
    interrupted()
    work = {f"vm/web-{number}": lambda cancelled: Outcome("never") for number in range(100)}
    outcomes = in_parallel(work, 2, events.append)
    assert {type(outcome.error) for outcome in outcomes} == {NotBegun}
    assert [event for event in events if event["type"] in ("failed", "recap")] == []
    (note,) = [event for event in events if "subjects" in event]
    assert note["message"] == "not begun: web-0, web-1, web-2, web-3, web-4 and 95 more"
    assert note["subjects"] == list(work)


def test_vm_that_was_not_begun_has_no_error_in_its_record(world: World, interrupted: Callable[[], None]) -> None:
    world.apply(world.write())
    interrupted()
    outcomes = list(world.apply(world.write("you"), restart=True).values())
    assert {outcome.subject: type(outcome.error) for outcome in outcomes if outcome.error} == {
        "vm/web": NotBegun,
        "vm/db": NotBegun,
    }
    assert world.runs("web")
    assert [world.record(name).runtime.last_error for name in ("web", "db")] == ["", ""]
    told = summary(outcomes, 0, exit_code(outcomes))
    assert (told["failed"], told["not_begun"], told["exit_code"]) == (0, 2, 130)


def test_vms_of_an_image_that_was_interrupted_are_told(world: World, interrupted: Callable[[], None]) -> None:
    interrupted()
    outcomes = world.apply(world.write())
    assert {type(outcome.error) for outcome in outcomes.values()} == {NotBegun}
    assert list(outcomes) == ["image/tiny", "vm/web", "vm/db"]
    assert [event["subjects"] for event in world.events if "subjects" in event] == [["image/tiny"], ["vm/web", "vm/db"]]


def test_error_from_before_stays_in_the_record(world: World, interrupted: Callable[[], None]) -> None:
    world.apply(world.write())
    session = world.session()
    with session.store.transaction() as records:
        records.put(world.record("web").with_runtime(last_error="no room"))
    interrupted()
    world.apply(world.write("you"), restart=True)
    assert world.record("web").runtime.last_error == "no room"


def test_interrupt_of_a_destroy_leaves_what_was_not_begun(world: World, interrupted: Callable[[], None]) -> None:
    path = world.write()
    world.apply(path)
    interrupted()
    outcomes = world.destroy(path)
    assert {type(outcome.error) for outcome in outcomes.values()} == {NotBegun}
    assert world.runs("web")


def test_interrupt_while_an_absent_vm_goes_starts_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply(world.write())
    third = ("{name: web}", "{name: web}\n    - {name: new}")
    waits: list[object] = []

    def interrupted_once(futures: Any) -> None:
        waits.append(futures)
        wait(futures)
        if len(waits) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(apply_room, "wait", interrupted_once)
    outcomes = world.apply(world.write("all", "absent", third))
    assert any(isinstance(outcome.error, apply_room.Interrupted) for outcome in outcomes.values())
    assert [record.name for record in world.session().store.snapshot().vms()] == ["web"]
