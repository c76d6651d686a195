"""What this host lacks for a playbook: told by a dry run, refused by an apply, asked only about what changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.cli.render import lines_of
from banger.core.converge import ApplyOptions, keep_plan
from banger.errors import HostError
from banger.hooks import hookimpl
from banger.needs import Need, program
from tests.simulated.world import TinySource, World

DM = ("{image: tiny,", "{image: tiny, storage: dm,")
CONTROL = Path("/dev/mapper/control")


def warnings(world: World) -> list[str]:
    return [line for event in world.events if event["type"] == "warning" for line in lines_of(event)]


def without_dm(world: World) -> None:
    world.blocked = {"network_tap", "vmm_firecracker"}
    world.host.files.remove(CONTROL)


def test_dry_run_warns_once_of_each_need_with_the_vms_and_the_cure(world: World) -> None:
    without_dm(world)
    world.host.tools.missing.add("qemu-system-x86_64")
    outcomes = world.apply(world.write("all", "stopped", DM), check=True)
    assert not any(outcome.error for outcome in outcomes.values())
    assert warnings(world)[:2] == [
        "warning: storage_dm needs /dev/mapper/control: not there; for web, db",
        "    modprobe dm_snapshot",
    ]
    assert {line for line in warnings(world) if "vmm_qemu" in line} == {
        "warning: vmm_qemu needs qemu-system-x86_64: not installed; for web",
        "warning: vmm_qemu needs qemu version: unknown; for web",
    }, "a stopped VM needs no VMM"
    keep_plan(world.session(), world.write("all", "stopped", DM), ApplyOptions())
    assert len([line for line in warnings(world) if line.startswith("warning:")]) == 3


def test_apply_refuses_before_anything_is_made(world: World) -> None:
    without_dm(world)
    before = len(world.host.effects)
    with pytest.raises(HostError) as refused:
        world.apply(world.write("all", "running", DM))
    assert refused.value.exit_code == 3
    assert refused.value.message == "storage_dm needs /dev/mapper/control: not there; for web, db"
    assert refused.value.hint == "modprobe dm_snapshot"
    world.host.tools.missing.add("qemu-system-x86_64")
    with pytest.raises(HostError, match=r"(?s)lacks what that takes.*storage_dm.*vmm_qemu") as refused:
        world.apply(world.write("all", "running", DM))
    assert len(world.host.effects) == before
    assert not world.home.state.exists()


def test_nothing_is_asked_where_nothing_changes_or_only_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply(world.write())
    asked: list[str] = []

    def version(program: str) -> None:
        asked.append(program)

    monkeypatch.setattr(world.host.tools, "version", version)
    world.host.tools.missing |= {"qemu-system-x86_64", "mke2fs", "debugfs"}
    assert not any(outcome.error for outcome in world.apply(world.write()).values())
    assert world.changed() == 0
    for state in ("stopped", "absent"):
        assert not any(outcome.error for outcome in world.apply(world.write(state=state)).values())
    assert not any(outcome.error for outcome in world.destroy(world.write()).values())
    assert asked == []


def test_changed_files_of_a_stopped_vm_need_its_storage_and_no_vmm(world: World) -> None:
    stopped = ("{name: web}", "{name: web, state: stopped}")
    world.apply(world.write("all", "stopped", stopped))
    world.host.tools.missing |= {"qemu-system-x86_64"}
    assert not any(outcome.error for outcome in world.apply(world.write("you", "stopped", stopped)).values())
    world.host.tools.missing = {"debugfs"}
    with pytest.raises(HostError, match="storage_overlay needs debugfs"):
        world.apply(world.write("me", "stopped", stopped))


def test_image_that_is_to_be_built_needs_its_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs() -> list[Need]:
        return [program("tinymake", "apt install tinymake"), program("qemu-img", "", always=False)]

    monkeypatch.setattr(TinySource, "register_needs", staticmethod(hookimpl(needs)), raising=False)
    world.host.tools.missing |= {"tinymake", "qemu-img"}
    with pytest.raises(HostError, match=r"^image_tiny needs tinymake: not installed; for tiny$"):
        world.apply(world.write())
    world.host.tools.missing.remove("tinymake")
    world.apply(world.write())
    world.host.tools.missing.add("tinymake")
    other = ('content: "tiny\\n"', 'content: "other\\n"')
    assert not world.apply(world.write("all", "running", other))["image/tiny"].error, "its base is there"
