"""What holds of every playbook and every change of one, tried on many small ones on the simulated host."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from banger_workdisk_ext4 import file_system_uuid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger.core.apply import Outcome
from banger.core.export import export
from banger.core.state import VmRecord
from banger.simulated.tree import Tree
from banger.testing import SimulatedCrash, SimulatedHost
from tests.simulated.world import World

NAMES = ("web", "db", "cache", "mail")
PATHS = ("/etc/motd", "/etc/greeting", "/etc/app/conf.d/main", "/srv/seed", "/root/.profile", "/root/app/key")
TARGETS = ("/mnt/scratch", "/var/cache/app")


def settings_of(examples: int) -> settings:
    """The same examples each time; a failure is told with the playbooks that lead to it."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- playbooks


@dataclass(frozen=True)
class VmWish:
    """One VM of a playbook; sizes in MiB. `overlay` and `jailed` count only where they can be had."""

    state: Literal["running", "stopped", "absent"]
    storage: Literal["overlay", "file", "dm"]
    network: Literal["user", "tap"]
    vcpus: int
    memory: int
    root_disk: int
    work_disk: int | None
    overlay: int | None
    jailed: bool

    def line(self, name: str) -> str:
        keys: dict[str, object] = {"name": name, "image": "tiny", "state": self.state, "vcpus": self.vcpus}
        keys |= {"memory": f"{self.memory}MiB", "root_disk": f"{self.root_disk}MiB", "storage": self.storage}
        keys |= {"network": self.network, "vmm": {"user": "qemu", "tap": "firecracker"}[self.network]}
        keys |= {"work_disk": f"{self.work_disk}MiB"} if self.work_disk else {}
        keys |= {"overlay": f"{self.overlay}MiB"} if self.overlay and self.storage == "dm" else {}
        keys |= {"jailed": self.jailed and self.network == "tap" and self.storage != "overlay"}
        return f"    - {json.dumps(keys)}\n"


@dataclass(frozen=True)
class Wish:
    """A playbook: VMs by name, files by path, tmpfs by target, and what the image says of itself."""

    vms: dict[str, VmWish]
    files: dict[str, str]
    mounts: tuple[str, ...]
    image: str

    def __repr__(self) -> str:
        return f"\n{self.text}"

    @property
    def text(self) -> str:
        files = [{"file": {"dest": path, "content": content}} for path, content in self.files.items()]
        mounts = [{"mount": {"source": "tmpfs", "target": target, "fstype": "tmpfs"}} for target in self.mounts]
        return (
            "- images:\n    - {name: tiny, source: tiny, work_seed: 32MiB}\n"
            f'  tasks:\n    - file: {{dest: /etc/motd, content: "{self.image}"}}\n'
            f"- vms:\n{''.join(vm.line(name) for name, vm in self.vms.items())}"
            f"  tasks: {json.dumps([*files, *mounts])}\n"
        )


VMS = st.builds(
    VmWish,
    state=st.sampled_from(["running", "running", "stopped", "absent"]),
    storage=st.sampled_from(["overlay", "file", "dm"]),
    network=st.sampled_from(["user", "tap"]),
    vcpus=st.integers(1, 2),
    memory=st.sampled_from([128, 256]),
    root_disk=st.sampled_from([512, 1024]),
    work_disk=st.sampled_from([None, 48, 64]),
    overlay=st.sampled_from([None, 64, 128]),
    jailed=st.booleans(),
)
WISHES = st.builds(
    Wish,
    vms=st.dictionaries(st.sampled_from(NAMES), VMS, min_size=1, max_size=4),
    files=st.dictionaries(st.sampled_from(PATHS), st.text("ab\n", max_size=3), max_size=3),
    mounts=st.lists(st.sampled_from(TARGETS), unique=True, max_size=1).map(tuple),
    image=st.sampled_from(["one", "two"]),
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Wish, Wish]:
    """A playbook and what becomes of it. What it names no more it has as absent: else nothing would be done to it."""
    before = draw(WISHES)
    vms = {}
    for name, vm in before.vms.items():
        kept = {key: getattr(draw(VMS), key) for key in draw(st.sets(st.sampled_from(list(VmWish.__annotations__))))}
        vms[name] = replace(vm, **kept)
    vms |= {name: vm for name, vm in draw(WISHES).vms.items() if name not in vms and draw(st.booleans())}
    other = draw(st.one_of(st.just(before), WISHES))
    return before, replace(other, vms=vms)


# --- what a user can see


@contextmanager
def fresh_world() -> Iterator[World]:
    with TemporaryDirectory(prefix="w") as directory:
        world = World(Path(directory))
        world.blocked = set()
        yield world


def applied(world: World, wish: Wish, **options: Any) -> dict[str, Outcome]:
    path = world.directory / "playbook.yml"
    path.write_text(wish.text)
    return world.apply(path, **options)


def failures(outcomes: dict[str, Outcome]) -> dict[str, BaseException]:
    return {name: outcome.error for name, outcome in outcomes.items() if outcome.error}


def seen(world: World) -> dict[str, object]:
    """Each VM that is recorded, and every kernel object, without what is drawn or counted: ids, ports, addresses."""
    records = world.session().store.snapshot().vms()
    hide = hiding(world, records)
    vms = {record.name: seen_of(world, record, hide) for record in records}
    return {**vms, "kernel objects": sorted(map(hide, kernel_objects(world.host)))}


def seen_of(world: World, record: VmRecord, hide: Callable[[str], str]) -> dict[str, object]:
    process = world.host.processes.find(record.runtime.api_socket)
    machine: list[str] = []
    if process is not None:
        machine = [hide(argument) for argument in world.host.processes.arguments(process) or []]
        if Path(machine[0]).name == "firecracker":
            config = world.host.http.get(Path(record.runtime.api_socket), "/vm/config")
            machine.append(hide(json.dumps(config, sort_keys=True)))
    work = files_of(world.host, record.directory / "work.ext4") if record.work_disk_bytes else {}
    root = files_of(world.host, record.directory / "root.ext4")
    if record.storage == "overlay":
        base = files_of(world.host, world.home.image_directory(record.image_digest) / "rootfs.ext4")
        upper = {path.removeprefix("/upper"): file for path, file in root.items() if path.startswith("/upper/")}
        root = base | upper
    return {
        "state": record.runtime.state,
        "machine": machine,
        "root": {path: hide(text) for path, text in root.items()},
        "work": {path: hide(text) for path, text in work.items()},
    }


def files_of(host: SimulatedHost, disk: Path) -> dict[str, str]:
    """Every regular file in a disk: owner, mode and content."""
    file = host.files.file(disk)
    assert file is not None, f"{disk} is there"
    tree = file.store.tree if file.store else file.content
    assert isinstance(tree, Tree)
    return {
        path: f"{entry.uid}:{entry.gid} {entry.mode:o} {entry.content.decode()}"
        for path, entry in tree.entries.items()
        if entry.type == "file"
    }


def hiding(world: World, records: list[VmRecord]) -> Callable[[str], str]:
    """A function that puts names in place of what differs from run to run, whatever VM it belongs to."""
    words = {str(world.home.root): "HOME"}
    for record in records:
        nic = record.nic
        words |= {record.id: f"ID-{record.name}", nic.mac: f"MAC-{record.name}", nic.address: f"ADDRESS-{record.name}"}
        words |= {file_system_uuid(record.id): f"UUID-{record.name}", str(record.runtime.vsock_cid): "CID"}
        words |= {f":{nic.ssh.port}-": "PORT-"}
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) + r"|/dev/dm-\d+")
    return lambda text: pattern.sub(lambda match: words.get(match[0], "DM"), text)


def kernel_objects(host: SimulatedHost) -> list[str]:
    objects = [f"process {process.argv[0]}" for process in host.processes.all if process.alive]
    objects += [f"dm {name}" for name in host.mapper.names()]
    objects += [f"loop of {device.backing}" for device in host.loops.all]
    for netns, there in host.links.of.items():
        objects += [f"netns {netns}"] if netns else []
        objects += [f"{link.kind} {link.name} of {link.master}" for link in there.links.values() if link.name != "lo"]
        objects += [f"table {name}" for name in there.tables]
    return objects


# --- properties


def check_second_apply(wish: Wish) -> None:
    with fresh_world() as world:
        assert failures(applied(world, wish)) == {}
        told = applied(world, wish, check=True)
        assert {name: (o.changed, o.pending, o.error) for name, o in told.items()} == dict.fromkeys(told, (0, 0, None))


def check_change(before: Wish, after: Wish) -> None:
    with fresh_world() as world, fresh_world() as alone:
        assert failures(applied(world, before)) == {}
        assert failures(applied(world, after, restart=True, recreate=True)) == {}
        assert failures(applied(alone, after)) == {}
        assert seen(world) == seen(alone)


def check_destroy(wish: Wish) -> None:
    with fresh_world() as world:
        assert failures(applied(world, wish)) == {}
        assert failures(world.destroy(world.directory / "playbook.yml")) == {}
        assert kernel_objects(world.host) == []
        assert world.of_vms() == []
        assert world.session().store.snapshot().vms() == []


def check_crash(before: Wish, after: Wish, where: float, whole: bool, allowed: dict[str, bool]) -> None:
    with fresh_world() as world, fresh_world() as alone:
        assert failures(applied(alone, after)) == {}
        assert failures(applied(world, before)) == {}
        world.host.crash_at(1 + int(where * len(alone.host.effects)), after=whole)
        with suppress(SimulatedCrash):  # a change may have fewer effects than a whole apply
            applied(world, after, **allowed)
        world.host.restart()
        assert failures(applied(world, after, restart=True, recreate=True)) == {}
        assert seen(world) == seen(alone)


def exported(world: World) -> str:
    found = export(world.session(), [])
    assert found.lacking == ()
    return found.text


def check_export(before: Wish, wish: Wish, contents: dict[str, bytes]) -> None:
    """Of a host with a past: what was changed since is not in it."""
    with fresh_world() as world, fresh_world() as other:
        assert failures(applied(world, before)) == {}
        for number, content in enumerate(contents.values()):
            (world.directory / f"{number}").write_bytes(content)
        copies = [{"copy": {"dest": path, "src": str(number)}} for number, path in enumerate(contents)]
        greeting = {"file": {"dest": "/etc/who", "mode": "0600", "uid": 7, "content": "{{ vm.name }}{{ '{{' }}\n"}}
        tasks = [
            *copies,
            greeting,
            {"directory": {"dest": "/srv/data", "mode": "0700"}},
            {"unmount": {"target": "/run"}},
        ]
        some = {"file": {"dest": "/etc/some", "content": "b\na\n"}, "when": "vm.name in ['web', 'db']"}
        text = wish.text.replace("  tasks: [", f"  tasks: {json.dumps([*tasks, some])[:-1]}, ").replace(", ]", "]")
        playbook = world.directory / "playbook.yml"
        playbook.write_text(text)
        assert failures(world.apply(playbook, restart=True, recreate=True)) == {}
        written = exported(world)
        for home in (world, other):
            (home.directory / "export.yml").write_text(written)
        for allowed in ({}, {"restart": True, "recreate": True}):
            told = world.apply(world.directory / "export.yml", **allowed)
            counts = {name: (o.changed, o.pending, o.error) for name, o in told.items()}
            assert counts == dict.fromkeys(told, (0, 0, None)), written
        assert exported(world) == written
        assert failures(other.apply(other.directory / "export.yml")) == {}
        assert seen(other) == seen(world), written
        assert exported(other) == written


CONTENTS = st.dictionaries(
    st.sampled_from(["/etc/a", "/srv/data/b", "/root/c"]),
    st.lists(st.sampled_from(["{{", "{% endraw %}", "\r\n", "\n", " ", "\t", "é", "x", "no"]), max_size=6).map(
        lambda pieces: "".join(pieces).encode()
    ),
    max_size=2,
)
ALLOWED = st.fixed_dictionaries({"restart": st.booleans(), "recreate": st.booleans()})
FEW, MANY = settings_of(16), settings_of(100)


@FEW
@given(WISHES)
def test_second_apply_has_nothing_to_do(wish: Wish) -> None:
    check_second_apply(wish)


@FEW
@given(changes())
def test_change_ends_where_the_new_playbook_alone_would(change: tuple[Wish, Wish]) -> None:
    check_change(*change)


@FEW
@given(WISHES)
def test_destroy_leaves_nothing(wish: Wish) -> None:
    check_destroy(wish)


@FEW
@given(changes(), st.floats(0, 1), st.booleans(), ALLOWED)
def test_change_that_is_killed_ends_there_too(
    change: tuple[Wish, Wish], where: float, whole: bool, allowed: dict[str, bool]
) -> None:
    check_crash(*change, where, whole, allowed)


@settings_of(6)
@given(WISHES, WISHES, CONTENTS)
def test_export_changes_nothing_here_and_makes_the_same_elsewhere(
    before: Wish, wish: Wish, contents: dict[str, bytes]
) -> None:
    check_export(before, wish, contents)


@pytest.mark.slow
@MANY
@given(WISHES, WISHES, CONTENTS)
def test_export_changes_nothing_here_and_makes_the_same_elsewhere_whatever_there_is(
    before: Wish, wish: Wish, contents: dict[str, bytes]
) -> None:
    check_export(before, wish, contents)


@pytest.mark.slow
@MANY
@given(WISHES)
def test_second_apply_has_nothing_to_do_whatever_the_playbook(wish: Wish) -> None:
    check_second_apply(wish)
    check_destroy(wish)


@pytest.mark.slow
@MANY
@given(changes())
def test_change_ends_where_the_new_playbook_alone_would_whatever_it_was(change: tuple[Wish, Wish]) -> None:
    check_change(*change)


@pytest.mark.slow
@MANY
@given(changes(), st.floats(0, 1), st.booleans(), ALLOWED)
def test_change_that_is_killed_anywhere_ends_there_too(
    change: tuple[Wish, Wish], where: float, whole: bool, allowed: dict[str, bool]
) -> None:
    check_crash(*change, where, whole, allowed)
