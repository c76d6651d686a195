"""A plugin from a package of its own, installed by pip into a fresh environment beside banger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.machine import PLAYBOOK, ROOT, Banger

pytestmark = pytest.mark.slow

THIRD_PARTY = ROOT / "tests" / "third_party" / "banger-greeting"

SANDBOX = """
- name: A sandbox with a greeting
  networks: [{name: closed, plugin: user, outbound: false}]
  vms: [{name: greeted, image: debian-12, network: closed}]
  tasks:
    - greet: {whom: "{{ vm.name }}"}
"""


@pytest.fixture(scope="module")
def fresh(banger: Banger, tmp_path_factory: pytest.TempPathFactory) -> Banger:
    """Another banger on the same home: installed from a wheel, with the plugin beside it."""
    directory = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    python = directory / "venv" / "bin" / "python"
    for source in (ROOT, THIRD_PARTY):  # pip leaves its build directory in the source, so it gets a copy
        ignored = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", ".mypy_cache", ".ruff_cache")
        shutil.copytree(source, directory / source.name, ignore=ignored)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", directory / source.name], check=True
        )
    return Banger(banger.home, (str(directory / "venv" / "bin" / "banger"),))


def playbook(directory: Path) -> Path:
    """The quickstart's image, and one VM of our own."""
    for name in ("templates", "files"):
        (directory / name).symlink_to(PLAYBOOK.parent / name)
    image = PLAYBOOK.read_text().partition("- name: Two sandboxes")[0]
    (directory / "greeted.yml").write_text(image + SANDBOX)
    return directory / "greeted.yml"


def test_plugin_is_listed_with_its_package(fresh: Banger) -> None:
    infos = {info["name"]: info for info in json.loads(fresh.run("plugins", "list", "--format", "json").stdout)}
    greeting = infos["greeting"]
    assert (greeting["version"], greeting["source"], greeting["status"]) == ("1.2.3", "banger-greeting", "active")
    assert greeting["hooks"] == ["contribute_guest_config", "register_guest_modules"]


def test_plugin_writes_its_files_into_the_guest(applied: Banger, fresh: Banger, tmp_path: Path) -> None:
    path = playbook(tmp_path)
    try:
        fresh.run("apply", path)
        assert fresh.inside("greeted", "cat", "/etc/banger/greeting").stdout == "hello from a third party, greeted\n"
        assert fresh.inside("greeted", "cat", "/etc/greetings").stdout == "hello greeted\n"
    finally:
        fresh.run("destroy", path)


def test_module_of_a_plugin_that_is_not_there_is_unknown(applied: Banger, tmp_path: Path) -> None:
    done = applied.run("apply", playbook(tmp_path), check=False)
    assert done.returncode == 2
    assert "unknown module 'greet'" in done.stderr
