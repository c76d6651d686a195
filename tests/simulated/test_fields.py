"""What a change of each thing that a VM has takes: the table in docs/playbook.md is made of what is seen here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pytest

from banger.core.request import VmKeys
from tests.repo.test_docs import DOCS
from tests.simulated.world import World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDummydummydummydummydummydummydummydummydum somebody"
ROOTLESS = {"storage": "overlay", "network": "user", "vmm": "qemu"}
MICRO = {"storage": "dm", "network": "tap", "vmm": "firecracker", "overlay": "256MiB"}
NAMED = {"name": "web", "image": "tiny", "root_disk": "1GiB", "work_disk": "64MiB"}
IN_PLACE, RESTART, RECREATE, NEVER = "in place", "a restart", "a new root disk", "never done"


@dataclass(frozen=True)
class Change:
    """What becomes of some keys of a VM, and what that takes when it runs and when it is stopped."""

    words: str
    after: Mapping[str, Any]
    running: str
    stopped: str
    before: Mapping[str, Any]

    @property
    def row(self) -> str:
        return f"| {self.words} | {self.running} | {self.stopped} |"


def change(words: str, running: str, stopped: str, before: Mapping[str, Any] = ROOTLESS, **after: Any) -> Change:
    return Change(words, after, running, stopped, before)


CHANGES = [
    change("`image`", RECREATE, RECREATE, image="other"),
    change("`vcpus`", RESTART, IN_PLACE, vcpus=2),
    change("`memory`", RESTART, IN_PLACE, memory="1GiB"),
    change("`root_disk`, larger", RESTART, IN_PLACE, root_disk="2GiB"),
    change("`root_disk`, smaller", RECREATE, RECREATE, root_disk="512MiB"),
    change("`work_disk`, none before", RESTART, IN_PLACE, {**ROOTLESS, "work_disk": None}, work_disk="64MiB"),
    change("`work_disk`, larger", RESTART, IN_PLACE, work_disk="128MiB"),
    change("`work_disk`, smaller", NEVER, NEVER, work_disk="48MiB"),
    change("`work_disk`, none any more: it is kept, and not attached", RESTART, IN_PLACE, work_disk=None),
    change("`overlay`, larger", RESTART, IN_PLACE, MICRO, overlay="512MiB"),
    change("`overlay`, smaller", RECREATE, RECREATE, MICRO, overlay="128MiB"),
    change("`network`", RESTART, IN_PLACE, network="tap"),
    change("`storage`", RECREATE, RECREATE, storage="file"),
    change("`vmm`", RESTART, IN_PLACE, MICRO, vmm="qemu"),
    change("`jailed`", RESTART, IN_PLACE, MICRO, jailed=True),
    change("`state`", IN_PLACE, IN_PLACE, state=None),
    change("`tags`", IN_PLACE, IN_PLACE, tags=["a"]),
    change("`authorized_keys`", RESTART, IN_PLACE, authorized_keys=[KEY]),
    change("its tasks, and so its files and mounts", RESTART, IN_PLACE, tasks="two"),
]
HAVE_NO_CHANGE = {"name": "another name is another VM", "workdisk": "there is one plugin of the kind"}


def write(world: World, keys: Mapping[str, Any]) -> None:
    keys = dict(keys)
    content = keys.pop("tasks", "one")
    path = world.directory / "playbook.yml"
    path.write_text(
        "- images:\n    - {name: tiny, source: tiny, work_seed: 32MiB}\n"
        "- images:\n    - {name: other, source: tiny, work_seed: 32MiB}\n"
        "  tasks: [{file: {dest: /etc/motd, content: other}}]\n"
        f"- vms: [{json.dumps(keys)}]\n  tasks: [{{file: {{dest: /etc/greeting, content: {content}}}}}]\n"
    )


def needed(world: World) -> str:
    """What the last command told that it takes."""
    actions = [action for event in world.events if event["type"] == "plan" for action in event["actions"]]
    waiting = {action.get("needs") for action in actions if action["verb"] == "pending"}
    for needs, words in (("recreate", RECREATE), ("restart", RESTART), (None, NEVER)):
        if needs in waiting:
            return words
    return IN_PLACE


@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.words)
def test_change_takes_what_the_table_says_and_is_done_by_nothing_less(world: World, change: Change, state: str) -> None:
    world.blocked = set()
    path = world.directory / "playbook.yml"
    before = {**NAMED, **change.before, "state": state}
    after = {**before, **change.after}
    after["state"] = after["state"] or {"running": "stopped", "stopped": "running"}[state]
    write(world, before)
    assert world.apply(path)["vm/web"].error is None
    write(world, after)
    expected = change.running if state == "running" else change.stopped

    plain = world.apply(path)["vm/web"]
    assert (plain.error, needed(world)) == (None, expected)
    restarted = world.apply(path, restart=True)["vm/web"]
    assert (restarted.pending > 0) == (expected in (RECREATE, NEVER))
    recreated = world.apply(path, recreate=True)["vm/web"]
    assert (recreated.pending > 0) == (expected == NEVER)
    assert (plain.pending > 0, restarted.changed > 0 and plain.pending > 0, recreated.changed > 0) == {
        IN_PLACE: (False, False, False),
        RESTART: (True, True, False),
        RECREATE: (True, False, True),
        NEVER: (True, False, False),
    }[expected]
    assert world.apply(path, check=True)["vm/web"].changed == 0


def test_every_key_of_a_vm_is_in_the_table() -> None:
    told = {word for change in CHANGES for word in change.words.split("`")[1::2]}
    assert told | HAVE_NO_CHANGE.keys() == {field.name for field in fields(VmKeys)}


def test_table_in_the_docs_is_this_one() -> None:
    rows = "\n".join(change.row for change in CHANGES)
    assert rows in (DOCS / "playbook.md").read_text()
