"""Ansible itself, in an environment of its own, on the inventory of two guests that run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.machine import Banger

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("banger-inventory")
Ansible = Callable[..., str]


@pytest.fixture(scope="module")
def ansible(applied: Banger, tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """Runs one of Ansible's programs on the inventory of this home."""
    directory = tmp_path_factory.mktemp("ansible")
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    programs = directory / "venv" / "bin"
    pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "ansible-core>=2.15")
    subprocess.run([programs / "python", *pip], check=True)
    environment = {
        **os.environ,
        "BANGER_HOME": str(applied.home),
        "HOME": str(directory),
        "ANSIBLE_LOCAL_TEMP": str(directory / "tmp"),
        "ANSIBLE_DEPRECATION_WARNINGS": "False",  # of its own, to its own
        "ANSIBLE_TIMEOUT": "60",
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",  # a connection that is kept would outlive the test
        "LC_ALL": "C.UTF-8",
    }

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [programs / program, "-i", PROGRAM, *arguments],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "WARNING" not in done.stderr, done.stderr
        return done.stdout

    return run


def test_ansible_reads_the_inventory_as_it_is_meant(applied: Banger, ansible: Ansible) -> None:
    read = json.loads(ansible("ansible-inventory", "--list"))
    read["_meta"].pop("profile", None)  # newer Ansibles say how values are to be read
    assert read == json.loads(applied.run("inventory", "--list").stdout)
    assert read["image_debian_12"] == {"hosts": ["web-1", "web-2"]}
    host = json.loads(ansible("ansible-inventory", "--host", "web-2"))
    assert host == json.loads(applied.run("inventory", "--host", "web-2").stdout)


def test_ansible_gets_into_every_guest(ansible: Ansible) -> None:
    said = ansible("ansible", "-m", "raw", "-a", "cat /etc/hostname", "all")
    answers = dict(re.findall(r"^(\S+) \| CHANGED \| rc=0 >>\n(\S+)", said, re.MULTILINE))
    assert answers == {"web-1": "web-1", "web-2": "web-2"}, said


def test_ansible_trusts_no_other_guest_under_that_name(ansible: Ansible, applied: Banger) -> None:
    port = json.loads(applied.run("inventory", "--host", "web-1").stdout)["ansible_port"]
    with pytest.raises(AssertionError, match="Host key verification failed"):
        ansible("ansible", "-m", "raw", "-a", "true", "-e", f"ansible_port={port}", "web-2")
