"""Ctrl-C while a guest boots: what was half done is gone, and the next command is as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.functional.machine import PLAYBOOK, Banger, settled, traces

pytestmark = pytest.mark.slow

SOLO = """
- name: One sandbox
  networks: [{name: closed, plugin: user, outbound: false}]
  vms: [{name: solo, image: debian-12, network: closed}]
"""


def playbook(directory: Path) -> Path:
    """The quickstart's image, and one VM of our own."""
    for name in ("templates", "files"):
        (directory / name).symlink_to(PLAYBOOK.parent / name)
    (directory / "solo.yml").write_text(PLAYBOOK.read_text().partition("- name: Two sandboxes")[0] + SOLO)
    return directory / "solo.yml"


def interrupted_apply(banger: Banger, path: Path, signal_: signal.Signals, *when: str) -> tuple[int, str]:
    """Apply, with the signal at each line that has one of these words; exit code and output."""
    told = ""
    with subprocess.Popen(
        [*banger.command, "apply", str(path)],
        env={**os.environ, "BANGER_HOME": str(banger.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as apply:
        assert apply.stdout is not None
        for line in apply.stdout:
            told += line
            if any(words in line for words in when):
                apply.send_signal(signal_)
        return apply.wait(timeout=300), told


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_a_guest_boots_rolls_back(applied: Banger, tmp_path: Path, signal_: signal.Signals) -> None:
    path, before = playbook(tmp_path), traces(applied)
    code, told = interrupted_apply(applied, path, signal_, "waiting for ssh")
    assert code == 130, told
    assert "rolling back what is half done" in told
    after = settled(applied, before, "processes", "mounts")
    assert (after.processes, after.mounts) == (before.processes, before.mounts)
    assert applied.states()["solo"] != "running"
    assert not [name for name in after.files - before.files if name.endswith(("root.ext4", "api.sock"))]
    applied.run("destroy", path)
    assert traces(applied).records == before.records


def test_second_interrupt_stops_at_once_and_the_next_command_repairs(applied: Banger, tmp_path: Path) -> None:
    path, before = playbook(tmp_path), traces(applied)
    code, told = interrupted_apply(applied, path, signal.SIGINT, "waiting for ssh", "shutting the guest down")
    assert code == 130, told
    applied.run("destroy", path)
    after = settled(applied, before, "processes", "records", "files")
    assert (after.processes, after.records, after.files) == (before.processes, before.records, before.files)
