"""An image that cannot be built, beside one that can: who goes on, who does not, and what of it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.cli.perform import exit_code
from banger.core.images import CustomisedImage
from banger.errors import BangerError, DiskError, HostError
from banger.host import Host
from banger.resource import Handle, Needs, Stage
from tests.simulated.world import World

PLAYBOOK = """
- images: [{name: f, source: tiny}]
  tasks: [{file: {dest: /etc/motd, content: "SAYS\\n"}}]
- images: [{name: g, source: tiny}]
  tasks: [{file: {dest: /etc/motd, content: "good\\n"}}]
- defaults: {root_disk: 1GiB}
  vms:
    - {name: on-f, image: f}
    - {name: on-g, image: g}
    - {name: gone, image: g, state: STATE}
"""


@pytest.fixture(autouse=True)
def _what_says_broken_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    create = CustomisedImage.create

    def refuse(self: CustomisedImage, host: Host, needs: Needs, stage: Stage) -> Handle:
        said = b"".join(f.content for f in self.customisation.files())
        if b"broken" in said:
            raise (HostError if b"host" in said else DiskError)("no such package")
        return create(self, host, needs, stage)

    monkeypatch.setattr(CustomisedImage, "create", refuse)


def written(world: World, says: str, state: str = "running") -> Path:
    path = world.directory / "p.yml"
    path.write_text(PLAYBOOK.replace("SAYS", says).replace("STATE", state))
    return path


def test_all_that_does_not_stand_on_it_is_made(world: World) -> None:
    path = written(world, "broken")
    world.apply(path, check=True)
    announced = {event["subject"] for event in world.events if event["type"] == "plan"}
    outcomes = world.apply(path)
    assert world.runs("on-g")
    assert {name for name, outcome in outcomes.items() if outcome.error} == {"image/f", "vm/on-f"}
    assert str(outcomes["vm/on-f"].error) == "the image f could not be built"
    assert {event["subject"] for event in world.events if event["type"] == "recap"} == announced == set(outcomes)
    assert exit_code(list(outcomes.values())) == 1


def test_nothing_is_recorded_of_a_vm_that_was_not_begun_nor_of_the_image(world: World) -> None:
    world.apply(written(world, "broken"))
    snapshot = world.session().store.snapshot()
    assert sorted(record.name for record in snapshot.vms()) == ["gone", "on-g"]
    assert list(snapshot.images()) == ["g"]
    path = written(world, "mended")
    assert not any(outcome.error for outcome in world.apply(path).values())
    world.apply(path)
    assert world.changed() == 0


def test_absent_vms_are_removed_all_the_same(world: World) -> None:
    world.apply(written(world, "fine"))
    world.apply(written(world, "broken", "absent"))
    assert world.session().store.snapshot().vm("gone") is None


def test_vm_on_an_earlier_build_starts_on_that_and_keeps_it(world: World) -> None:
    world.apply(written(world, "fine"))
    world.host.reboot()
    path = written(world, "broken")
    outcome = world.apply(path)["vm/on-f"]
    assert (outcome.error, outcome.pending) == (None, 1)
    assert world.runs("on-f")
    before = world.record("on-f")
    outcome = world.apply(path, recreate=True)["vm/on-f"]
    assert outcome.error
    assert world.runs("on-f"), "its disk is not taken for one that cannot be made"
    assert world.record("on-f") == before


@pytest.mark.parametrize(("says", "code"), [("broken", BangerError.exit_code), ("broken host", HostError.exit_code)])
def test_exit_code_is_that_of_the_images_failure(world: World, says: str, code: int) -> None:
    assert exit_code(list(world.apply(written(world, says)).values())) == code
