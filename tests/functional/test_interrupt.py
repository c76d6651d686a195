"""Ctrl-C while a guest boots: what was half done is gone, and the next command is as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.functional.machine import PLAYBOOK, Banger, traces

pytestmark = pytest.mark.slow

SOLO = """
- name: One sandbox
  networks: [{name: closed, plugin: user, outbound: false}]
  vms: [{name: solo, image: debian-12, network: closed}]
"""


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_a_guest_boots_rolls_back(applied: Banger, tmp_path: Path, signal_: signal.Signals) -> None:
    for name in ("templates", "files"):
        (tmp_path / name).symlink_to(PLAYBOOK.parent / name)
    path = tmp_path / "solo.yml"
    path.write_text(PLAYBOOK.read_text().partition("- name: Two sandboxes")[0] + SOLO)
    before = traces(applied)
    told = ""
    with subprocess.Popen(
        [*applied.command, "apply", str(path)],
        env={**os.environ, "BANGER_HOME": str(applied.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as apply:
        assert apply.stdout is not None
        for line in apply.stdout:
            told += line
            if "waiting for ssh" in line:
                apply.send_signal(signal_)
        assert apply.wait(timeout=60) == 130, told
    assert "rolling back what is half done" in told
    after = traces(applied)
    assert (after.processes, after.mounts) == (before.processes, before.mounts)
    assert applied.states()["solo"] != "running"
    assert not [name for name in after.files - before.files if name.endswith(("root.ext4", "api.sock"))]
    applied.run("destroy", path)
    assert traces(applied).records == before.records


def test_second_interrupt_stops_at_once_and_the_next_command_repairs(applied: Banger, tmp_path: Path) -> None:
    for name in ("templates", "files"):
        (tmp_path / name).symlink_to(PLAYBOOK.parent / name)
    path = tmp_path / "solo.yml"
    path.write_text(PLAYBOOK.read_text().partition("- name: Two sandboxes")[0] + SOLO)
    before = traces(applied)
    with subprocess.Popen(
        [*applied.command, "apply", str(path)],
        env={**os.environ, "BANGER_HOME": str(applied.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as apply:
        assert apply.stdout is not None
        for line in apply.stdout:
            if "waiting for ssh" in line or "shutting the guest down" in line:
                apply.send_signal(signal.SIGINT)
        assert apply.wait(timeout=10) == 130
    applied.run("destroy", path)
    after = traces(applied)
    assert (after.processes, after.records, after.files) == (before.processes, before.records, before.files)
