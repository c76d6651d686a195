"""Whether what a playbook asks for fits: disks that can grow, guests that take memory."""

from __future__ import annotations

import pytest

from banger.cli.render import lines_of
from banger.errors import PlaybookError
from banger.host import Memory
from tests.simulated.world import World

GIB = 2**30


def room(world: World) -> dict[str, object]:
    (event,) = [event for event in world.events if event["type"] == "room"]
    return dict(event)


def notes(world: World) -> list[str]:
    return [event["message"] for event in world.events if event["type"] == "note" and not event["subject"]]


def test_dry_run_says_how_far_disks_can_grow_and_what_is_free(world: World) -> None:
    world.apply(world.write(), check=True)
    told = room(world)
    assert told["disks_bytes"] == 2 * GIB + 64 * 2**20
    assert (told["free_bytes"], told["guests_bytes"], told["warnings"]) == (2**40, GIB, [])
    assert lines_of(told)[0].startswith("room: disks can grow by 2.1GiB")
    world.apply(world.write())
    world.apply(world.write(), check=True)
    assert int(str(room(world)["disks_bytes"])) < 2 * GIB + 64 * 2**20
    assert room(world)["guests_bytes"] == 0, "they run already"


def test_too_little_is_warned_of_and_done_all_the_same(world: World) -> None:
    world.host.files.free = GIB
    world.host.has_memory = Memory(8 * GIB, GIB // 2)
    outcomes = world.apply(world.write())
    assert all(outcome.error is None for outcome in outcomes.values())
    disks, memory = [note for note in notes(world) if "auto" not in note]
    assert "can grow by 2.1GiB" in disks and "has 1.0GiB left" in disks
    assert "may take 1.0GiB of memory, and 512.0MiB is available" in memory
    world.apply(world.write(), check=True)
    assert lines_of(room(world)) == [f"warning: {disks}"]


def test_vm_that_could_not_even_start_is_a_mistake(world: World) -> None:
    world.host.has_memory = Memory(GIB, GIB)
    path = world.write("all", "stopped", ("- {name: web}", "- {name: web, memory: 2GiB}"))
    with pytest.raises(PlaybookError, match=r"the VM 'web' wants 2.0GiB of memory, and this host has 1.0GiB"):
        world.apply(path)
    assert world.host.effects == []
    stopped = world.write("all", "stopped", ("- {name: web}", "- {name: web, memory: 2GiB, state: stopped}"))
    world.apply(stopped)
