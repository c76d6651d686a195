"""A VM made on the command line, stopped, started and deleted without a playbook; a real guest."""

from __future__ import annotations

import json

import pytest

from tests.functional.machine import Banger

pytestmark = pytest.mark.slow


def test_run_makes_a_vm_and_passes_its_words_and_exit_code_through(applied: Banger) -> None:  # seed S16
    wish = ("--network", "user", "--storage", "overlay", "--work-disk", "64MiB", "--memory", "384MiB")
    done = applied.run("vm", "run", "--name", "once", *wish, "--", "sh", "-c", "echo 'a  b'; exit 42", check=False)
    assert (done.returncode, done.stdout) == (42, "a  b\n")
    assert applied.run("vm", "run", "--name", "once", "--", "cat", "/etc/hostname").stdout == "once\n"


def test_stop_loses_nothing_the_guest_wrote(applied: Banger) -> None:
    applied.inside("once", "sh", "-c", "echo kept > /etc/kept; echo kept > /root/kept")
    applied.run("vm", "stop", "once")
    assert applied.states()["once"] == "stopped"
    shown = json.loads(applied.run("vm", "show", "once", "--format", "json").stdout)
    assert "once/vmm" not in shown["resources"]
    applied.run("vm", "start", "once")
    assert applied.inside("once", "cat", "/etc/kept", "/root/kept").stdout == "kept\nkept\n"


def test_delete_takes_the_vm_and_leaves_the_others(applied: Banger) -> None:
    applied.run("vm", "delete", "once")
    assert sorted(applied.states()) == ["web-1", "web-2"]
    assert applied.run("vm", "show", "once", check=False).returncode == 2
