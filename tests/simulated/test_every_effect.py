"""Killed, or refused, at every single effect and every single write of state: what is left, and what comes next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from banger.core import lifecycle, state
from banger.core.apply import Outcome
from banger.errors import BangerError, Busy, DiskError
from banger.testing import SimulatedCrash
from tests.simulated.test_properties import kernel_objects, seen
from tests.simulated.world import World
from tests.tally import tally

Act = Callable[[World], object]

ROOTLESS = """
- images:
    - {name: tiny, source: tiny, work_seed: 32MiB}
  tasks:
    - file: {dest: /etc/motd, content: "IMAGE"}
- defaults: {image: tiny, root_disk: 1GiB, work_disk: WORK, storage: overlay, network: user, vmm: qemu, memory: MEMORY}
  vms:
    - {name: web, state: STATE}
    - {name: db, storage: file, work_disk: null}
  tasks:
    - file: {dest: /etc/greeting, content: "GREETING"}
    - file: {dest: /root/.greeting, content: "home"}
"""
MICRO = """
- images:
    - {name: tiny, source: tiny, work_seed: 32MiB}
  tasks:
    - file: {dest: /etc/motd, content: "IMAGE"}
- networks:
    - {name: lab, plugin: tap, subnet: 172.20.0.0/24, netns: lab, nat: true}
- defaults: {image: tiny, root_disk: 1GiB, storage: dm, network: lab, vmm: firecracker, memory: MEMORY}
  vms:
    - {name: web, state: STATE, work_disk: WORK}
    - {name: db, jailed: true, overlay: 256MiB}
  tasks:
    - file: {dest: /etc/greeting, content: "GREETING"}
    - mount: {source: tmpfs, target: /mnt/scratch, fstype: tmpfs}
"""
PLAYBOOKS = {"rootless": ROOTLESS, "microvms": MICRO}
PLAIN = {"IMAGE": "one", "WORK": "64MiB", "STATE": "running", "MEMORY": "256MiB", "GREETING": "hello"}


class Scene:
    """A world with one of the playbooks in it."""

    def __init__(self, directory: Path, playbook: str) -> None:
        self.world = World(directory)
        self.world.blocked = set()
        self.playbook = playbook
        self.wish = dict(PLAIN)

    @property
    def path(self) -> Path:
        path = self.world.directory / "playbook.yml"
        text = PLAYBOOKS[self.playbook]
        for word, value in self.wish.items():
            text = text.replace(word, value)
        path.write_text(text)
        return path

    def apply(self, **options: Any) -> dict[str, Outcome]:
        return self.world.apply(self.path, **options)


@dataclass(frozen=True)
class Case:
    """Something that is done to a host where the playbook was applied (or not yet), with what it wishes for then."""

    name: str
    act: Callable[[Scene], object]
    change: Mapping[str, str] | None = None
    applied: bool = True
    before: Callable[[Scene], object] = lambda scene: None

    @property
    def wish(self) -> dict[str, str]:
        return {**PLAIN, **(self.change or {})}


def apply(**options: Any) -> Callable[[Scene], object]:
    return lambda scene: scene.apply(**options)


def of_vms(act: Callable[..., object]) -> Callable[[Scene], object]:
    return lambda scene: act(scene.world.session(), ["web", "db"], 1)


def vmm_dies(scene: Scene) -> None:
    socket = scene.world.record("web").runtime.api_socket
    process = scene.world.host.processes.find(socket)
    assert process is not None
    scene.world.host.processes.kill(process)


CASES = [
    Case("apply", apply(), applied=False),
    Case("update in place", apply(), {"STATE": "stopped", "GREETING": "changed", "WORK": "96MiB"}),
    Case("restart", apply(restart=True), {"MEMORY": "512MiB", "GREETING": "changed", "WORK": "96MiB"}),
    Case("recreate", apply(recreate=True), {"IMAGE": "two", "GREETING": "changed"}),
    Case("stop by playbook", apply(), {"STATE": "stopped"}),
    Case("absent", apply(), {"STATE": "absent"}),
    Case("destroy", lambda scene: scene.world.destroy(scene.path)),
    Case("vm delete", of_vms(lifecycle.delete)),
    Case("vm stop", of_vms(lifecycle.stop)),
    Case("vm start", of_vms(lifecycle.start), before=of_vms(lifecycle.stop)),
    Case("reconcile after a reboot", apply(), before=lambda scene: scene.world.host.reboot()),
    Case("reconcile after a VMM died", apply(), before=vmm_dies),
]


@contextmanager
def state_writes_as_effects(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every write of a file of state is an effect of the simulated host too, so that it can be the one we die at."""
    replace = state._replace

    def counted(path: Path, content: bytes, durable: bool) -> None:
        with scene.world.host.effect(f"state: write {path.name}"):
            replace(path, content, durable)

    with monkeypatch.context() as patch:
        patch.setattr(state, "_replace", counted)
        yield


@contextmanager
def scene_of(case: Case, playbook: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """All that comes before the act is done, and the wish is the one that the act is to fulfil."""
    with TemporaryDirectory(prefix="e") as directory:
        scene = Scene(Path(directory), playbook)
        with state_writes_as_effects(scene, monkeypatch):
            if case.applied:
                scene.apply()
            case.before(scene)
            scene.wish = case.wish
            scene.world.host.effects.clear()
            yield scene


def effects_of(case: Case, playbook: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with scene_of(case, playbook, monkeypatch) as scene:
        case.act(scene)
        return list(scene.world.host.effects)


def assert_converges(scene: Scene, alone: dict[str, object], told: str) -> None:
    """The playbook can be applied, is then true, and all can be taken away again with nothing left."""
    outcomes = scene.apply(restart=True, recreate=True)
    assert {name: outcome.error for name, outcome in outcomes.items()} == dict.fromkeys(outcomes), told
    again = scene.apply()
    assert {name: (o.changed, o.pending) for name, o in again.items()} == dict.fromkeys(again, (0, 0)), told
    assert seen(scene.world) == alone, told
    assert_destroyed(scene, told)


def assert_destroyed(scene: Scene, told: str) -> None:
    outcomes = scene.world.destroy(scene.path)
    assert not any(outcome.error for outcome in outcomes.values()), told
    assert kernel_objects(scene.world.host) == [], told
    assert scene.world.of_vms() == [], told
    assert scene.world.session().store.snapshot().vms() == [], told


def seen_alone(case: Case, playbook: str) -> dict[str, object]:
    """What a host looks like where nothing but the wish was ever applied."""
    with TemporaryDirectory(prefix="e") as directory:
        scene = Scene(Path(directory), playbook)
        scene.wish = case.wish
        scene.apply()
        return seen(scene.world)


def check_crashes(case: Case, playbook: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before each effect and after the last; then the playbook is applied, or (each fourth time) all destroyed.

    Before an effect is after the one before it: nothing on the host lies between the two.
    """
    effects, alone = effects_of(case, playbook, monkeypatch), seen_alone(case, playbook)
    moments = [*((number, False) for number in range(1, len(effects) + 1)), (len(effects), True)][::step]
    for turn, (number, after) in enumerate(moments):
        told = f"{case.name}, {playbook}: killed {'after' if after else 'before'} {number}, {effects[number - 1]}"
        with scene_of(case, playbook, monkeypatch) as scene:
            scene.world.host.crash_at(number, after=after)
            with pytest.raises(SimulatedCrash):
                case.act(scene)
            scene.world.host.restart()
            if turn % 4 == 3:
                assert_destroyed(scene, told)
            else:
                assert_converges(scene, alone, told)
    if step == 1:  # else it is in there already
        tally(f"killed at each effect: {case.name}", effects=len(effects), tried=len(moments), residue=0, lost=0)


FAULTS: dict[str, Callable[[], BangerError]] = {
    "refused": lambda: BangerError("the injected fault"),
    "disk full": lambda: DiskError("the injected fault: No space left on device"),
    "busy": lambda: Busy("the injected fault: in use"),
}


def check_faults(case: Case, playbook: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One effect fails: what was half done is rolled back, the fault is what is told, and the next apply goes on."""
    effects, alone = effects_of(case, playbook, monkeypatch), seen_alone(case, playbook)
    kinds = itertools.cycle(FAULTS.values())
    numbers = range(1, len(effects) + 1)[::step]
    for number, fault in zip(numbers, kinds, strict=False):
        told = f"{case.name}, {playbook}: {number}, {effects[number - 1]} fails"
        with scene_of(case, playbook, monkeypatch) as scene:
            there_before = kernel_objects(scene.world.host)
            scene.world.host.fail_at(number, fault())
            errors = faults_told(case, scene)
            first = [error for error in errors if "could not be built" not in str(error)]  # the others follow from one
            assert all("the injected fault" in str(error) for error in first), f"{told}: {errors}"
            assert bool(first) == bool(errors), f"{told}: {errors}"
            if case.name == "apply" and errors:
                assert len(kernel_objects(scene.world.host)) <= len(there_before) + objects_of_one(alone), told
            scene.world.host.restart()
            assert_converges(scene, alone, told)
    if step == 1:
        tally(f"refused at each effect: {case.name}", effects=len(effects), tried=len(numbers), residue=0, lost=0)


def faults_told(case: Case, scene: Scene) -> list[BaseException]:
    """What went wrong by the command's own word; nothing where it tried again and succeeded."""
    try:
        done = case.act(scene)
    except BangerError as error:
        return [error]
    outcomes = done.values() if isinstance(done, dict) else done
    assert isinstance(outcomes, list | type({}.values()))
    return [outcome.error for outcome in outcomes if outcome.error]


def objects_of_one(alone: dict[str, object]) -> int:
    """At most so many kernel objects may stand when one of two VMs could not be made: those of the other."""
    objects = alone["kernel objects"]
    assert isinstance(objects, list)
    return len(objects) - 1


PARAMETERS = [pytest.param(case, playbook, id=f"{case.name}-{playbook}") for case in CASES for playbook in PLAYBOOKS]


@pytest.mark.parametrize(("case", "playbook"), PARAMETERS)
def test_killed_at_some_effects(case: Case, playbook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_crashes(case, playbook, 61, monkeypatch)


@pytest.mark.parametrize(("case", "playbook"), PARAMETERS)
def test_refused_at_some_effects(case: Case, playbook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_faults(case, playbook, 61, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "playbook"), PARAMETERS)
def test_killed_at_every_effect(case: Case, playbook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_crashes(case, playbook, 1, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "playbook"), PARAMETERS)
def test_refused_at_every_effect(case: Case, playbook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_faults(case, playbook, 1, monkeypatch)
