"""A home in the lab whose guests of Firecracker stand on dm-snapshots and taps, and what of them is on the machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from banger.host import STARTED_AGAIN
from tests.capabilities import device_mapper, firecracker, kvm_boots, network_namespaces, require
from tests.functional.machine import ROOT, Banger, backing_files
from tests.lab.build import lab_image

OVERLAY = "overlay: 1GiB"
SMALL = "overlay: 64MiB"
NETNS = "banger-lab"
Answer = TypeVar("Answer")

_FELL_OVER = re.compile("Kernel panic|BUG: |Oops|soft lockup|detected stall")


@dataclass(frozen=True)
class Host(Banger):
    """The home, and what of it is on this machine."""

    def playbook(self, overlay: str = SMALL) -> Path:
        """The one that users are shown, with overlays that are soon full."""
        shown = (ROOT / "playbooks" / "microvm.yml").read_text()
        assert OVERLAY in shown
        path = self.home / "playbook.yml"
        path.write_text(shown.replace(OVERLAY, overlay))
        return path

    def up(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """A command that boots guests. One that stood still or fell over, as in an emulated KVM, is booted again."""
        for _ in range(3):
            done = self.run(*arguments, check=False)
            said = done.stdout + done.stderr
            if "the guest did not answer ssh" not in said and "the VM stopped while it was starting" not in said:
                break
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def inside(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.steadily(name, lambda: super(Host, self).inside(name, *command, check=check))

    def steadily(self, name: str, work: Callable[[], Answer]) -> Answer:
        """What `work` answers, who speaks with this guest. If that fell over, as in an emulated KVM, once more.

        For what is true of a VM that was started a moment ago, too: whoever asks whether one lived on compares pids.
        """
        try:
            return work()
        except (AssertionError, subprocess.TimeoutExpired):
            if not self._fell_over(name):
                raise
        self.up("vm", "start", name)
        return work()

    def _fell_over(self, name: str) -> bool:
        """Whether it has ended by itself: nothing that banger does lets a guest's kernel say such things."""
        if self.states().get(name) != "stopped":
            return False
        console = Path(self.show(name)["directory"]) / "console.log"
        said = console.read_text(errors="replace") if console.exists() else ""
        return bool(_FELL_OVER.search(said.rpartition(STARTED_AGAIN)[2]))

    def apply(self, *more: str, web: str, db: str, overlay: str = SMALL) -> dict[str, dict[str, Any]]:
        """The recaps by subject."""
        wish = ("-e", f"web={web}", "-e", f"db={db}")
        done = self.up("apply", self.playbook(overlay), *wish, *more, "--format", "json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return {event["subject"]: event for event in events if event["type"] == "recap"}

    def begun(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """A command that is under way."""
        return subprocess.Popen(
            [*self.command, *map(str, arguments)],
            env={**os.environ, "BANGER_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def show(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.run("vm", "show", name, "--format", "json").stdout))

    def handles(self, name: str) -> dict[str, dict[str, Any]]:
        path = Path(self.show(name)["directory"]) / "handles.json"
        return dict(json.loads(path.read_text())["handles"])


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def words(pid: int) -> list[bytes]:
    """Its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def left() -> dict[str, list[str]]:
    """Every kernel object that could be ours, in the whole machine."""
    ours = [line for pid in pids() if _is_ours(line := words(pid))]
    return {
        "processes": [b" ".join(line).decode() for line in ours],
        "loops": [path for path in backing_files() if "/vms/" in path or "/images/" in path],
        "dm": said("dmsetup", "ls").replace("No devices found", "").split(),
        "namespaces": _names(Path("/run/netns")),
        "links": [name for name in _names(Path("/sys/class/net")) if name != "lo"],
        "tables": said("nft", "list", "tables").split(),
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if "banger" in line],
    }


def _names(directory: Path) -> list[str]:
    """What is in it; nothing where it is not there, or goes while we look."""
    try:
        return [path.name for path in directory.iterdir()]
    except OSError:
        return []


def _is_ours(line: list[bytes]) -> bool:
    programs = (b"firecracker", b"jailer", b"vsock.py", b"console_relay.py")
    return line[0].endswith(programs[:2]) or any(word.endswith(programs[2:]) for word in line)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


NOTHING: dict[str, list[str]] = {
    name: [] for name in ("processes", "loops", "dm", "namespaces", "links", "tables", "mounts")
}


@contextmanager
def microvm_host(home: Path) -> Iterator[Host]:
    """With the lab's image in its home; its VMs are deleted at the end. Skips where guests cannot be booted so."""
    for reason in (device_mapper(), kvm_boots(), network_namespaces(), firecracker()):
        require(reason, lab_only=True)
    image = lab_image()
    (home / "images" / image.name).mkdir(parents=True)  # a kernel is unpacked into it, and the lab's own is read-only
    for file in image.iterdir():
        (home / "images" / image.name / file.name).symlink_to(file)
    made = Host(home)
    yield made
    made.run("vm", "delete", "web", "db", check=False)
    made.run("vm", "delete", "web", check=False)
    made.run("vm", "delete", "db", check=False)
