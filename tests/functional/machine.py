"""A banger as a user has it: the installed command, a home of its own, and what of it is on the host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tests.capabilities import programs, require

ROOT = Path(__file__).parents[2]
PLAYBOOK = ROOT / "playbooks" / "quickstart.yml"

_SETTLE_S = 60.0
_LINKS = ("bgr-", "tap-")
"""What the names of all network devices that banger makes begin with."""


def needs_guests() -> None:
    """Skip where this machine cannot boot a guest; where everything was promised, that is a failure."""
    require(programs("qemu-system-x86_64", "mmdebstrap", "mke2fs", "ssh"))


@dataclass(frozen=True)
class Banger:
    """Runs `banger` against one home."""

    home: Path
    command: tuple[str, ...] = (sys.executable, "-m", "banger")

    def run(
        self, *arguments: str | Path, timeout_s: float = 900, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            env={**os.environ, "BANGER_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def events(self, *arguments: str | Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--format", "json").stdout.splitlines()]

    def recaps(self, *arguments: str | Path) -> dict[str, dict[str, Any]]:
        return {event["subject"]: event for event in self.events(*arguments) if event["type"] == "recap"}

    def inside(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a guest."""
        return self.run("vm", "ssh", name, "--", *command, timeout_s=120, check=check)

    def states(self) -> dict[str, str]:
        return {vm["name"]: vm["state"] for vm in json.loads(self.run("vm", "list", "--format", "json").stdout)}

    def records(self) -> list[dict[str, Any]]:
        path = self.home / "state.json"
        return list(json.loads(path.read_text()).get("vms", {}).values()) if path.exists() else []

    def vmm_pid(self, name: str) -> int:
        (record,) = [record for record in self.records() if record["name"] == name]
        handles = json.loads((Path(record["runtime"]["vm_directory"]) / "handles.json").read_text())
        return int(handles["handles"][f"{name}/vmm"]["pid"])


@dataclass(frozen=True)
class Traces:
    """What of a home is on the host: everything that a leak would be."""

    processes: frozenset[str]
    loops: frozenset[str]
    mounts: frozenset[str]
    links: frozenset[str]
    files: frozenset[str]
    scratch: frozenset[str]
    records: int


def traces(banger: Banger) -> Traces:
    mark = str(banger.home)
    return Traces(
        processes=frozenset(_processes(mark)),
        loops=frozenset(_mentioning(mark, backing_files())),
        mounts=frozenset(_mentioning(mark, Path("/proc/self/mounts").read_text().splitlines())),
        links=frozenset(path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(_LINKS)),
        files=frozenset(_files(banger.home)),
        scratch=frozenset(path.name for path in Path(tempfile.gettempdir()).glob("*banger*")),
        records=len(banger.records()),
    )


def settled(banger: Banger, wanted: Traces, *of: str) -> Traces:
    """What there is once the programs that an ended command had started have ended, or after a while.

    `of`: the fields that are waited for until they are as wanted, by default all.
    """
    names = of or [field.name for field in fields(Traces)]
    deadline = time.monotonic() + _SETTLE_S
    while True:
        now = traces(banger)
        if all(getattr(now, name) == getattr(wanted, name) for name in names) or time.monotonic() > deadline:
            return now
        time.sleep(0.05)


def backing_files() -> Iterator[str]:
    """Of all loop devices; one that goes while we look is passed over."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            yield path.read_text().strip()


def _processes(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if mark in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def _mentioning(mark: str, lines: Iterable[str]) -> list[str]:
    """Other programs come and go on this machine too; what is ours has our home in its name."""
    return [line for line in lines if mark in line]


def _files(home: Path) -> list[str]:
    """All but caches, the images among them, and the state file, whose records are counted."""
    kept = re.compile(r"images(/|$)|cache(/digests\.json)?$|state\.json(\.bak)?$|locks/(state|image-.*)\.lock$")
    relative = (str(path.relative_to(home)) for path in home.rglob("*"))
    return [name for name in relative if not kept.match(name)]
