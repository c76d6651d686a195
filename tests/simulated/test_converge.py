"""A playbook on the simulated host, from nothing to running VMs and back; and from every crash on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import banger_guestconfig_base
import banger_guestconfig_net
import banger_guestconfig_sshd
import banger_network_user
import banger_storage_file
import banger_storage_overlay
import banger_vmm_qemu
import banger_workdisk_ext4
import pytest

from banger.core.apply import Outcome
from banger.core.converge import ApplyOptions, apply, destroy
from banger.core.handles import HandleCache
from banger.core.home import Home
from banger.core.plugins import Plugins
from banger.core.report import Event
from banger.core.session import Session
from banger.core.state import Store
from banger.errors import BangerError, PlaybookError
from banger.hooks import hookimpl
from banger.host import Host, HostView, Node
from banger.linux.host import ReadOnlyHost
from banger.resource import Absent, Handle, Needs, Observation, Present, Resource, Stage
from banger.testing import SimulatedCrash, SimulatedHost
from banger.types import ImageFacts, ImageSource, ImageSpec

PLAYBOOK = """
- images:
    - {name: tiny, source: tiny, work_seed: 32MiB}
  tasks:
    - file: {dest: /etc/motd, content: "tiny\\n"}
- defaults: {image: tiny, root_disk: 1GiB, work_disk: 64MiB}
  vms:
    - {name: web}
    - {name: db, work_disk: null, state: STATE}
  tasks:
    - file: {dest: /etc/greeting, content: "hello GREETING from {{ vm.name }}\\n"}
    - file: {dest: /root/.greeting, content: "hello home\\n"}
"""


@dataclass(frozen=True)
class TinyImage(Resource):
    """A root file system of three directories."""

    key: str
    directory: Path
    needs = ()

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Present() if host.files.status(self.directory / "facts.json") else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        stage("making a tiny image")
        host.files.make_directory(self.directory)
        nodes = [Node("/etc", "directory"), Node("/root", "directory", 0o700), Node("/usr/bin", "directory")]
        nodes += [Node("/etc/fstab", "file", 0o644, content=b"/dev/sda2 /home ext4 defaults 0 2\n")]
        host.ext4.make(self.directory / "rootfs.ext4", 2**28, nodes)
        for name in ("vmlinuz", "initrd.img"):
            host.files.write(self.directory / name, b"")
        facts = ImageFacts("/dev/sda2 /home ext4 defaults 0 2\n", "6.1", 2**28)
        host.files.write(self.directory / "facts.json", json.dumps(asdict(facts)).encode())
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove_tree(self.directory)


@dataclass(frozen=True)
class TinyOptions:
    """None."""


class TinySource:
    @staticmethod
    @hookimpl
    def register_image_source() -> ImageSource:
        return ImageSource("tiny", TinyOptions)

    @staticmethod
    @hookimpl
    def image_recipe(spec: ImageSpec) -> dict[str, Any]:
        return {}

    @staticmethod
    @hookimpl
    def prepare_image(spec: ImageSpec, directory: Path) -> Sequence[Resource]:
        return [TinyImage(f"image/{directory.name}/rootfs", directory)]


class World:
    """One simulated host and home; each call is a run of the program of its own."""

    def __init__(self, directory: Path) -> None:
        self.host = SimulatedHost()
        self.home = Home(directory / "home")
        self.directory = directory
        self.events: list[Event] = []

    def write(self, greeting: str = "all", state: str = "running") -> Path:
        path = self.directory / "playbook.yml"
        path.write_text(PLAYBOOK.replace("GREETING", greeting).replace("STATE", state))
        return path

    def session(self) -> Session:
        self.events = []
        plugins = Plugins.of(
            guestconfig_base=banger_guestconfig_base,
            guestconfig_net=banger_guestconfig_net,
            guestconfig_sshd=banger_guestconfig_sshd,
            image_tiny=TinySource(),
            network_user=banger_network_user,
            storage_file=banger_storage_file,
            storage_overlay=banger_storage_overlay,
            vmm_qemu=banger_vmm_qemu,
            workdisk_ext4=banger_workdisk_ext4,
        )
        store = Store(self.home.state, self.home.lock("state"))
        handles = HandleCache(self.host.boot_id)
        return Session(self.home, store, plugins, self.host, ReadOnlyHost(self.host), handles, self.events.append)

    def apply(self, path: Path, **options: Any) -> dict[str, Outcome]:
        outcomes = apply(self.session(), path, ApplyOptions(forks=1, **options))
        return {outcome.subject: outcome for outcome in outcomes}

    def destroy(self, path: Path) -> dict[str, Outcome]:
        return {outcome.subject: outcome for outcome in destroy(self.session(), path, ApplyOptions(forks=1))}

    def changed(self) -> int:
        return sum(event["changed"] for event in self.events if event["type"] == "recap")

    def of_vms(self) -> list[Path]:
        return [path for path in self.host.files.list(self.home.root / "vms") if path.name != "handles.json"]

    def content(self, name: str, disk: str, path: str) -> bytes | None:
        record = Store(self.home.state, self.home.lock("state")).snapshot().vm(name)
        assert record is not None
        found = self.host.ext4.read(record.directory / disk, [path])[path]
        return found.content if found else None


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name, because sockets lie below it."""
    return tmp_path_factory.mktemp("w")


@pytest.fixture
def world(short: Path) -> World:
    return World(short)


def test_apply_makes_everything_and_a_second_one_nothing(world: World) -> None:
    path = world.write()
    outcomes = world.apply(path)
    assert {name: outcome.error for name, outcome in outcomes.items()} == dict.fromkeys(
        ("image/tiny", "vm/web", "vm/db")
    )
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello all from web\n"
    before = len(world.host.effects)
    world.apply(path)
    assert world.changed() == 0
    assert world.host.effects[before:] == [], "a second apply has no effect on the host at all"


def test_apply_writes_files_to_the_disk_that_is_mounted_there(world: World) -> None:
    world.apply(world.write())
    assert world.content("web", "work.ext4", "/.greeting") == b"hello home\n"
    assert world.content("web", "root.ext4", "/upper/root/.greeting") is None
    assert world.content("db", "root.ext4", "/upper/root/.greeting") == b"hello home\n"


def test_apply_renders_fstab_from_the_images_own(world: World) -> None:  # seed S9
    world.apply(world.write())
    fstab = (world.content("web", "root.ext4", "/upper/etc/fstab") or b"").decode()
    assert "/home" not in fstab
    assert "tmpfs /tmp tmpfs defaults,nodev,nosuid,mode=1777 0 0" in fstab
    assert " /root ext4 " in fstab


def test_apply_reports_the_stages_of_a_work_disk(world: World) -> None:  # seed S14
    world.apply(world.write())
    told = [e["detail"] for e in world.events if e["type"] == "stage" and e["stage"] == "prepare_work_disk"]
    assert told == ["cloning work seed", "resizing work disk"]


def test_check_changes_nothing(world: World) -> None:
    outcomes = world.apply(world.write(), check=True)
    assert outcomes["vm/web"].changed > 5
    assert world.host.effects == []
    assert not world.home.state.exists()


def test_change_of_a_running_vm_waits_for_restart(world: World) -> None:
    world.apply(world.write())
    assert world.apply(world.write("you"))["vm/web"].pending == 1
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello all from web\n"
    outcome = world.apply(world.write("you"), restart=True)["vm/web"]
    assert (outcome.error, outcome.pending) == (None, 0)
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello you from web\n"
    world.apply(world.write("you"))
    assert world.changed() == 0


def test_stopped_vm_has_its_disks_and_no_process(world: World) -> None:
    outcomes = world.apply(world.write(state="stopped"))
    assert outcomes["vm/db"].error is None
    assert len([e for e in world.host.effects if "start" in e and "qemu" in e]) == 1
    assert world.content("db", "root.ext4", "/upper/etc/greeting") == b"hello all from db\n"
    world.apply(world.write(state="stopped"))
    assert world.changed() == 0


def test_running_vm_that_shall_be_stopped_is_stopped(world: World) -> None:
    world.apply(world.write())
    world.apply(world.write(state="stopped"))
    record = world.session().store.snapshot().vm("db")
    assert record is not None
    assert record.runtime.state == "stopped"
    assert world.host.processes.find(record.runtime.api_socket) is None


def test_reboot_is_followed_by_a_start_of_what_should_run(world: World) -> None:  # seed S6
    path = world.write()
    world.apply(path)
    world.host.reboot()
    outcomes = world.apply(path)
    assert all(outcome.error is None for outcome in outcomes.values())
    record = world.session().store.snapshot().vm("web")
    assert record is not None
    assert world.host.processes.find(record.runtime.api_socket) is not None


def test_destroy_leaves_no_file_process_or_record(world: World) -> None:
    path = world.write()
    world.apply(path)
    outcomes = world.destroy(path)
    assert all(outcome.error is None for outcome in outcomes.values())
    assert world.of_vms() == []
    assert not any(process.alive for process in world.host.processes.all)
    assert world.session().store.snapshot().vms() == []
    assert all(outcome.changed == 0 for outcome in world.destroy(path).values())


def test_absent_vm_is_removed_by_apply(world: World) -> None:
    world.apply(world.write())
    world.apply(world.write(state="absent"))
    assert [record.name for record in world.session().store.snapshot().vms()] == ["web"]


def test_apply_that_fails_for_one_vm_leaves_the_other_running(world: World) -> None:
    path = world.write()
    world.apply(path, check=True)
    first = next(number for number in range(1, 200) if _fails(World(world.directory / str(number)), number, "vm/web"))
    world.host.fail_at(first)
    outcomes = world.apply(path)
    assert outcomes["vm/web"].error is not None
    assert outcomes["vm/db"].error is None
    record = world.session().store.snapshot().vm("web")
    assert record is not None
    assert record.runtime.state == "stopped"
    assert "simulated failure" in record.runtime.last_error
    world.host.restart()
    assert all(outcome.error is None for outcome in world.apply(path).values())


def _fails(world: World, number: int, subject: str) -> bool:
    world.directory.mkdir()
    world.host.fail_at(number)
    try:
        outcomes = world.apply(world.write())
    except BangerError:
        return False
    return subject in outcomes and outcomes[subject].error is not None


def test_five_mistakes_are_five_errors_and_nothing_is_touched(world: World) -> None:
    path = world.directory / "wrong.yml"
    path.write_text(
        """\
- images:
    - {name: tiny, source: tiny}
  vms:
    - {name: web, image: tiny, memroy: 1GiB}
    - {name: db, image: tinny}
    - {name: cache, image: tiny, root_disk: 4 gigs}
  tasks:
    - file: {dest: /etc/motd, content: "{{ nobody }}"}
    - copy: {src: nowhere, dest: etc/motd}
"""
    )
    with pytest.raises(PlaybookError) as error:
        world.apply(path)
    places = [(problem.place.line, problem.place.column) for problem in error.value.problems if problem.place]
    assert [line for line, _ in places] == [4, 5, 6, 8, 9]
    assert world.host.effects == []


@pytest.mark.parametrize("after", [False, True])
def test_every_crash_during_apply_is_followed_by_convergence(short: Path, after: bool) -> None:
    whole = World(short / "whole")
    whole.directory.mkdir()
    whole.apply(whole.write())
    for number in range(1, len(whole.host.effects) + 1):
        world = World(short / f"{number}")
        world.directory.mkdir()
        path = world.write()
        world.host.crash_at(number, after=after)
        with pytest.raises(SimulatedCrash):
            world.apply(path)
        world.host.restart()
        assert all(outcome.error is None for outcome in world.apply(path).values()), f"after a crash at {number}"
        world.apply(path)
        assert world.changed() == 0, f"after a crash at {number}"
        world.destroy(path)
        assert world.of_vms() == []
        assert not any(process.alive for process in world.host.processes.all)
