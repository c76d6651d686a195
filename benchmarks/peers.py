"""Other tools at a part of the same work: six small files for each VM, written, and found to be there already.

They run on this host without ssh, each set to what is fastest for it, in directories that are there beforehand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Cost
from benchmarks.scene import Scene

RELEASES = ("ansible-core==2.19.*", "pyinfra==3.*")

_DEPLOY = """\
import json
from io import StringIO
from pathlib import Path

from pyinfra.operations import files

for directory, contents in json.loads(Path("peer/files.json").read_text()).items():
    for name, text in contents.items():
        files.put(src=StringIO(text), dest=f"{directory}/{name}", mode="644")
"""


@dataclass(frozen=True, slots=True)
class Peers:
    """The other tools, in a virtual environment of their own."""

    environment: Path

    @classmethod
    def installed(cls) -> Peers:
        """Installed from the package index once, and kept in the user's cache. Raises CalledProcessError."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "banger-benchmarks"
        environment = cache / ("peers-" + "-".join(release.replace("==", "-").rstrip(".*") for release in RELEASES))
        whole = environment / "installed"
        if not whole.exists():
            shutil.rmtree(environment, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            pip = [str(environment / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, *RELEASES], check=True)
            whole.touch()
        return cls(environment)

    def versions(self) -> dict[str, str]:
        script = (
            "import json; from importlib.metadata import version\n"
            "print(json.dumps({name: version(name) for name in ('ansible-core', 'pyinfra')}))"
        )
        argv = [str(self.environment / "bin/python"), "-c", script]
        return dict(json.loads(subprocess.run(argv, check=True, capture_output=True).stdout))

    def tools(self, scene: Scene) -> dict[str, Callable[[], Cost]]:
        """By name: how to run each of them once on what `lay_out` laid out."""
        return {"ansible-core": lambda: self._ansible(scene), "pyinfra": lambda: self._pyinfra(scene)}

    def _ansible(self, scene: Scene) -> Cost:
        where = scene.directory / "peer"
        settings = {
            "ANSIBLE_CONFIG": str(where / "ansible.cfg"),
            "ANSIBLE_HOME": str(where / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(where / "ansible/remote"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_FORKS": str(2 * (os.cpu_count() or 1)),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{self.environment / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        }
        program = self.environment / "bin/ansible-playbook"
        return scene.run(program, "-i", where / "inventory.json", where / "play.json", env=settings)[0]

    def _pyinfra(self, scene: Scene) -> Cost:
        return scene.run(self.environment / "bin/pyinfra", "-y", "@local", "peer/deploy.py")[0]


def lay_out(scene: Scene, contents: Mapping[str, Mapping[str, str]]) -> None:
    """Empty directories for these VMs, and what tells each tool to fill them; `contents`: by VM and path."""
    where = scene.directory / "peer"
    shutil.rmtree(where, ignore_errors=True)
    wanted = _by_directory(scene, contents)
    for directory in wanted:
        Path(directory).mkdir(parents=True)
    (where / "files.json").write_text(json.dumps(wanted))
    (where / "deploy.py").write_text(_DEPLOY)
    (where / "ansible.cfg").touch()  # the user's own settings are not to matter
    names = sorted({name for files in wanted.values() for name in files})
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {Path(directory).name: {"directory": directory, "files": files} for directory, files in wanted.items()}
    (where / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": local}}))
    tasks = [
        {"copy": {"dest": f"{{{{ directory }}}}/{name}", "content": f"{{{{ files['{name}'] }}}}", "mode": "0644"}}
        for name in names
    ]
    (where / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))


def written(scene: Scene, contents: Mapping[str, Mapping[str, str]]) -> int:
    """The time of the latest change (ns); raises RuntimeError when a file does not hold what it should."""
    latest = 0
    for directory, files in _by_directory(scene, contents).items():
        for name, text in files.items():
            path = Path(directory, name)
            if path.read_text() != text:
                raise RuntimeError(f"{path} is not as it should be")
            latest = max(latest, path.stat().st_mtime_ns)
    return latest


def first_and_second(scene: Scene, run: Callable[[], Cost], contents: Mapping[str, Mapping[str, str]]) -> list[Cost]:
    """What it costs a tool to write the files, and then to find that nothing is to do."""
    lay_out(scene, contents)
    costs = [run()]
    before = written(scene, contents), time.time_ns()
    costs.append(run())
    if written(scene, contents) > before[1]:
        raise RuntimeError("the second run wrote something")
    return costs


def _by_directory(scene: Scene, contents: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {
        str(scene.directory / "peer/files" / vm): {
            path.strip("/").replace("/", "_"): text for path, text in files.items()
        }
        for vm, files in contents.items()
    }
