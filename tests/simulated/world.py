"""A playbook, a home and a simulated host, and commands run on them one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import banger_guestconfig_base
import banger_guestconfig_net
import banger_guestconfig_sshd
import banger_network_tap
import banger_network_user
import banger_storage_dm
import banger_storage_file
import banger_storage_overlay
import banger_vmm_firecracker
import banger_vmm_qemu
import banger_workdisk_ext4

from banger.core.apply import Outcome
from banger.core.converge import ApplyOptions, apply, destroy
from banger.core.handles import HandleCache
from banger.core.home import Home
from banger.core.plugins import Plugins
from banger.core.report import Event
from banger.core.session import Session
from banger.core.state import Store, VmRecord
from banger.hooks import hookimpl
from banger.host import Host, HostView, Node
from banger.imagedirectory import new_build
from banger.linux.host import ReadOnlyHost
from banger.resource import Absent, Handle, Needs, Observation, Present, Resource, Stage
from banger.testing import SimulatedHost
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
        facts = ImageFacts("/dev/sda2 /home ext4 defaults 0 2\n", "6.1", 2**28, build=new_build())
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
        self.blocked = {"network_tap", "storage_dm", "vmm_firecracker"}

    def write(self, greeting: str = "all", state: str = "running", *changes: tuple[str, str]) -> Path:
        path = self.directory / "playbook.yml"
        text = PLAYBOOK.replace("GREETING", greeting).replace("STATE", state)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        return path

    def session(self) -> Session:
        self.events = []
        modules: dict[str, object] = {
            "guestconfig_base": banger_guestconfig_base,
            "guestconfig_net": banger_guestconfig_net,
            "guestconfig_sshd": banger_guestconfig_sshd,
            "image_tiny": TinySource(),
            "network_tap": banger_network_tap,
            "network_user": banger_network_user,
            "storage_dm": banger_storage_dm,
            "storage_file": banger_storage_file,
            "storage_overlay": banger_storage_overlay,
            "vmm_firecracker": banger_vmm_firecracker,
            "vmm_qemu": banger_vmm_qemu,
            "workdisk_ext4": banger_workdisk_ext4,
        }
        plugins = Plugins.of(**{name: module for name, module in modules.items() if name not in self.blocked})
        store = Store(self.home.state, self.home.lock("state"))
        handles = HandleCache(self.host.boot_id)
        return Session(self.home, store, plugins, self.host, ReadOnlyHost(self.host), handles, self.events.append)

    def apply(self, path: Path, **options: Any) -> dict[str, Outcome]:
        outcomes = apply(self.session(), path, ApplyOptions(forks=1, **options))
        return {outcome.subject: outcome for outcome in outcomes}

    def destroy(self, path: Path, **options: Any) -> dict[str, Outcome]:
        outcomes = destroy(self.session(), path, ApplyOptions(forks=1, **options))
        return {outcome.subject: outcome for outcome in outcomes}

    def changed(self) -> int:
        return sum(event["changed"] for event in self.events if event["type"] == "recap")

    def record(self, name: str) -> VmRecord:
        record = Store(self.home.state, self.home.lock("state")).snapshot().vm(name)
        assert record is not None
        return record

    def runs(self, name: str) -> bool:
        return self.host.processes.find(self.record(name).runtime.api_socket) is not None

    def reasons(self) -> list[str]:
        """Why something waits, as the last command told."""
        actions = [action for event in self.events if event["type"] == "plan" for action in event["actions"]]
        return [action["reason"] for action in actions if action["verb"] in ("pending", "blocked")]

    def of_vms(self) -> list[Path]:
        return [path for path in self.host.files.list(self.home.root / "vms") if path.name != "handles.json"]

    def content(self, name: str, disk: str, path: str) -> bytes | None:
        record = Store(self.home.state, self.home.lock("state")).snapshot().vm(name)
        assert record is not None
        found = self.host.ext4.read(record.directory / disk, [path])[path]
        return found.content if found else None
