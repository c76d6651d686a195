"""The end of many VMs: records are written once, after all is proven gone; on the simulated host."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.core import converge, state
from banger.core.assemble import VmDirectory
from banger.errors import BangerError
from tests.simulated.world import World


def test_records_of_many_go_in_one_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.write()
    world.apply(path)
    written: list[Path] = []
    write = state.write_atomically

    def counting(path: Path, content: bytes, *, durable: bool = True) -> None:
        written.append(path)
        write(path, content, durable=durable)

    monkeypatch.setattr(state, "write_atomically", counting)
    world.destroy(path)
    assert written == [world.home.state]
    assert world.session().store.snapshot().vms() == []


def test_destroy_cut_off_before_the_records_go_is_done_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write()
    world.apply(path)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(converge, "write_off", cut_off)
        with pytest.raises(KeyboardInterrupt):
            world.destroy(path)
    assert [record.name for record in world.session().store.snapshot().vms()] == ["db", "web"]
    assert all(outcome.error is None for outcome in world.destroy(path).values())
    assert world.session().store.snapshot().vms() == []
    assert world.of_vms() == []


def test_vm_that_is_not_all_gone_stays_recorded_with_the_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.write()
    world.apply(path)
    remove = VmDirectory.discard

    def refusing(self: VmDirectory, *arguments: object) -> None:
        if self.key.startswith("db"):
            raise BangerError("no")
        remove(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(VmDirectory, "discard", refusing)
        assert world.destroy(path)["vm/db"].error is not None
    (left,) = world.session().store.snapshot().vms()
    assert (left.name, left.runtime.last_error) == ("db", "no")
    assert all(outcome.error is None for outcome in world.destroy(path).values())


def test_vms_go_whatever_has_become_of_their_image(world: World) -> None:
    path = world.write()
    world.apply(path)
    for directory in world.host.files.list(world.home.images):
        world.host.files.write(directory / "facts.json", b"{")
    assert [outcome.error for outcome in world.destroy(path).values()] == [None, None]
    assert world.session().store.snapshot().vms() == []
    assert world.host.files.list(world.home.vms) == []
