"""The script that takes a VM down without banger: written by an apply, for every kind of VM."""

from __future__ import annotations

import subprocess

import pytest

from banger.core import by_hand
from tests.simulated.test_microvms import written
from tests.simulated.world import World


@pytest.mark.parametrize("kind", ["overlay", "dm", "dm in a namespace", "dm jailed"])
def test_script_is_one_for_the_shell_and_names_all_there_is(world: World, kind: str) -> None:
    path = world.write()
    if kind != "overlay":
        world.blocked = set()
        declared = "  networks: [{name: lab, plugin: tap, netns: lab}]\n  vms:\n    - {name: web}"
        moved = (("network: tap", "network: lab"), ("  vms:\n    - {name: web}", declared))
        path = written(world, *(moved if "namespace" in kind else ()), jailed="jailed" in kind)
    world.apply(path)
    record = world.record("web")
    place = record.directory / by_hand.FILE
    script = world.host.files.read(place)
    assert world.host.files.mode(place) == 0o700
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    names = [record.runtime.api_socket]
    names += [f"banger-{record.id}-root", f"tap-{record.id}"] if kind != "overlay" else []
    assert [name for name in names if name not in script.decode()] == []
    effects = len(world.host.effects)
    world.apply(path)
    assert world.host.effects[effects:] == []


def test_script_changes_with_what_the_vm_consists_of(world: World) -> None:
    world.apply(world.write())
    place = world.record("web").directory / by_hand.FILE
    assert b"dmsetup" not in world.host.files.read(place)
    world.blocked = set()
    world.apply(written(world), recreate=True)
    assert b"dmsetup" in world.host.files.read(place)
