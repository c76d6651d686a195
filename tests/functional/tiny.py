"""A home with two VMs that never boot: a tiny imported image, disks, guest files, keys; made in a second."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from banger.host import Node
from banger.linux.host import LinuxHost
from tests.forked import Done, banger

PLAYBOOK = """\
- images: [{name: tiny, source: import, path: root.img, kernel: kernel, initrd: initrd}]
- defaults: {image: tiny, network: user, vmm: qemu, memory: 64MiB, root_disk: 16MiB, state: stopped}
  vms:
    - {name: web, storage: overlay, work_disk: 16MiB}
    - {name: db, storage: file}
  tasks:
    - file: {dest: /etc/greeting, content: "hello\\n"}
    - file: {dest: /root/.greeting, content: "hello\\n"}
"""


@dataclass(frozen=True)
class Tiny:
    """A directory with the playbook, what the image is made of, and `home`; `kept` is the home as it was applied."""

    directory: Path

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def kept(self) -> Path:
        return self.directory / "kept"

    @property
    def playbook(self) -> Path:
        return self.directory / "playbook.yml"

    @classmethod
    def make(cls, directory: Path, text: str = PLAYBOOK) -> Tiny:
        tiny = cls(directory)
        nodes = [Node("/etc", "directory"), Node("/root", "directory", 0o700), Node("/usr/bin", "directory")]
        LinuxHost(directory / "cache").ext4.make(directory / "root.img", 2**23, nodes)
        for name in ("kernel", "initrd"):
            (directory / name).write_text(name)
        tiny.playbook.write_text(text)
        return tiny

    def run(self, *arguments: str | Path) -> Done:
        return banger(self.home, *arguments)

    def apply(self) -> Done:
        return self.run("apply", self.playbook)

    def keep(self) -> None:
        copy(self.home, self.kept)

    def restore(self) -> None:
        subprocess.run(["rm", "-rf", self.home], check=True)
        copy(self.kept, self.home)


def copy(source: Path, destination: Path) -> None:
    """With holes, times, owners and modes."""
    subprocess.run(["cp", "-a", source, destination], check=True)


def tree(directory: Path) -> dict[str, tuple[str, object]]:
    """What is below it: each name's kind, and what it holds."""
    return {str(path.relative_to(directory)): _thing(path) for path in sorted(directory.rglob("*"))}


def _thing(path: Path) -> tuple[str, object]:
    if path.is_symlink():
        return "link", str(path.readlink())
    if path.is_dir():
        return "directory", None
    return "file", path.stat().st_mtime_ns if path.suffix == ".ext4" else path.read_bytes()  # disks are large
