"""Where it is measured: a scratch directory with a tiny image, playbooks for any number of VMs, and a home."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Cost, measure

ROOT = Path(__file__).parents[1]
SIX = (
    "/etc/hostname",
    "/etc/hosts",
    "/etc/motd",
    "/etc/resolv.conf",
    "/etc/banger/network.conf",
    "/etc/ssh/sshd_config.d/99-banger.conf",
)
"""Of the files that banger writes into each guest, those that another tool is given to write."""

_IMAGES = """\
- images:
    - {name: tiny, source: import, path: rootfs.ext4, kernel: vmlinuz, initrd: initrd.img}
"""
_VMS = """\
- defaults: {image: tiny, root_disk: 128MiB, storage: overlay, network: user, vmm: qemu, state: stopped}
  vms:
%s
  tasks:
    - file: {dest: /etc/motd, content: "hello {{ vm.name }}\\n"}
"""
_SPY = """\
import sys
from banger.cli import main
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
started = []
sys.addaudithook(lambda event, _: started.append(event) if event in STARTS else None)
try:
    main()
finally:
    sys.stderr.write(f"STARTED {len(started)}\\n")
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """All of it below `directory`."""

    directory: Path

    @classmethod
    def prepare(cls, directory: Path) -> Scene:
        """Make the image and build it into the home, so that what is measured of VMs is only theirs."""
        scene = cls(directory)
        for name in ("etc", "root", "usr/bin", "boot"):
            (directory / "tree" / name).mkdir(parents=True)
        (directory / "tree/etc/fstab").touch()
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", "tree", "rootfs.ext4", "16M"]
        subprocess.run(argv, cwd=directory, env={**os.environ, "PATH": path}, check=True, capture_output=True)
        (directory / "vmlinuz").write_bytes(bytes(2**20))
        (directory / "initrd.img").write_bytes(bytes(2**20))
        (directory / "image.yml").write_text(_IMAGES)
        scene.banger("apply", "image.yml")
        return scene

    # --- commands

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def bare(self) -> Path:
        """What the bare work makes in place of a home."""
        return self.directory / "bare"

    @property
    def image(self) -> Path:
        return next(self.home.glob("images/*/rootfs.ext4"))

    def environment(self) -> dict[str, str]:
        """A user's: bytecode is kept, in a place of its own."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BANGER_"))}
        return {**ours, "PYTHONPYCACHEPREFIX": str(self.directory / "bytecode"), "BANGER_HOME": str(self.home)}

    def run(self, *argv: str | Path, env: Mapping[str, str] | None = None) -> tuple[Cost, str]:
        environment = {**self.environment(), **(env or {})}
        return measure([str(argument) for argument in argv], env=environment, cwd=self.directory)

    def banger(self, *arguments: str) -> Cost:
        return self.run(sys.executable, "-m", "banger", *arguments)[0]

    def floor(self, *arguments: str | Path) -> Cost:
        return self.run(sys.executable, "-m", "benchmarks.floor", *arguments, env={"PYTHONPATH": str(ROOT)})[0]

    def nothing(self) -> Cost:
        """An interpreter that starts and ends."""
        return self.run(sys.executable, "-c", "pass")[0]

    def floor_of_first(self, vms: int, extra: Mapping[str, int]) -> Cost:
        """The bare work of a first apply, like the VMs that are in the home just now."""
        shutil.rmtree(self.bare, ignore_errors=True)
        return self.floor("first", str(vms), self.bare, self._a_vm(), self.image, json.dumps(extra))

    # --- counting

    def programs_per_vm(self) -> Counter[str]:
        """What a first apply runs for one more VM: programs with their first option, as `debugfs -w`."""
        return self._programs(2) - self._programs(1)

    def _programs(self, vms: int) -> Counter[str]:
        playbook = self.playbook(vms)
        said = self.run(sys.executable, "-m", "banger", "-v", "apply", playbook)[1]
        self.banger("destroy", playbook)
        return Counter(re.findall(r"^run: (\S+ \S+)", said, re.MULTILINE))

    def processes_started(self, *arguments: str) -> int:
        """How many processes a command starts, as the interpreter's audit events tell (PEP 578)."""
        said = self.run(sys.executable, "-c", _SPY, *arguments)[1]
        return int(re.findall(r"^STARTED (\d+)$", said, re.MULTILINE)[-1])

    # --- what is applied

    def playbook(self, vms: int) -> str:
        """One entry with a loop."""
        name = f"{vms}.yml"
        entry = f'    - {{name: "vm-{{{{ item }}}}", loop: "{{{{ range(1, {vms + 1}) | list }}}}"}}'
        (self.directory / name).write_text(_IMAGES + _VMS % entry)
        return name

    def long_playbook(self, vms: int) -> str:
        """An entry for each VM."""
        name = f"{vms}-long.yml"
        entries = "\n".join(f"    - {{name: vm-{number}, memory: {256 + number}MiB}}" for number in range(1, vms + 1))
        (self.directory / name).write_text(_IMAGES + _VMS % entries)
        return name

    def six_files(self) -> dict[str, dict[str, str]]:
        """Of each VM in the home: what is in the six files."""
        records = json.loads((self.home / "state.json").read_bytes())["vms"].values()
        return {record["name"]: self._contents(Path(record["runtime"]["vm_directory"])) for record in records}

    def _contents(self, vm: Path) -> dict[str, str]:
        files = json.loads((vm / "guest.json").read_bytes())["files"]
        return {f["path"]: base64.b64decode(f["content"]).decode() for f in files if f["path"] in SIX}

    def _a_vm(self) -> Path:
        return next((self.home / "vms").iterdir())
