"""The quickstart's two guests, looked at from inside, changed, crashed and destroyed. Tests run in this order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.machine import PLAYBOOK, Banger, Traces, traces

pytestmark = pytest.mark.slow


def test_apply_boots_two_guests_that_answer_ssh(applied: Banger) -> None:
    assert applied.states() == {"web-1": "running", "web-2": "running"}
    for name in ("web-1", "web-2"):
        assert applied.inside(name, "hostname").stdout == f"{name}\n"


def test_files_of_each_kind_are_in_the_guest(applied: Banger) -> None:
    def cat(name: str, path: str) -> str:
        return applied.inside(name, "cat", path).stdout

    address = "10.0.2.15"
    assert cat("web-1", "/etc/motd") == f"This is web-1 ({address}), made from debian-12 for team web.\n"  # template
    assert cat("web-1", "/etc/banger/first") == "web-1\n"  # file
    assert applied.inside("web-1", "stat", "-c", "%a %u:%g", "/etc/banger/first").stdout == "600 0:0\n"
    assert applied.inside("web-2", "test", "-e", "/etc/banger/first", check=False).returncode == 1  # when
    assert applied.inside("web-2", "whereami").stdout == "in web-2\n"  # copy, from the image
    assert "nobody@example" in cat("web-1", "/root/.ssh/authorized_keys")  # authorized_key
    assert cat("web-1", "/root/README").startswith("This directory is on a disk of its own")  # of the image's work seed


def test_mounts_are_as_the_playbook_says(applied: Banger) -> None:
    def mounted(name: str, target: str) -> list[str]:
        found = applied.inside(name, "findmnt", "-n", "-o", "FSTYPE,OPTIONS", target, check=False).stdout
        return found.split()

    fstype, options = mounted("web-1", "/scratch")
    assert fstype == "tmpfs"
    assert {"nodev", "nosuid", "size=32768k"} <= set(options.split(","))
    assert mounted("web-2", "/scratch") == []  # unmount


def test_root_home_is_on_the_work_disk(applied: Banger) -> None:  # seed S12 S15
    source, fstype = applied.inside("web-1", "findmnt", "-n", "-o", "SOURCE,FSTYPE", "/root").stdout.split()
    assert (source, fstype) == ("/dev/vdc", "ext4")
    modes = applied.inside("web-1", "stat", "-c", "%a %u:%g", "/root", "/root/.ssh", "/root/.ssh/authorized_keys")
    assert modes.stdout.split("\n")[:3] == ["700 0:0", "700 0:0", "600 0:0"]


def test_fstab_and_base_files_are_as_prescribed(applied: Banger) -> None:  # seed S9
    fstab = applied.inside("web-1", "cat", "/etc/fstab").stdout
    assert "tmpfs /run tmpfs defaults,nodev,nosuid,mode=0755 0 0" in fstab
    assert "tmpfs /tmp tmpfs defaults,nodev,nosuid,mode=1777 0 0" in fstab
    assert applied.inside("web-1", "stat", "-c", "%a", "/tmp").stdout == "1777\n"
    assert applied.inside("web-1", "cat", "/etc/hostname").stdout == "web-1\n"
    assert applied.inside("web-1", "cat", "/etc/hosts").stdout == "127.0.0.1 localhost\n127.0.1.1 web-1\n"
    assert applied.inside("web-1", "cat", "/etc/resolv.conf").stdout == "nameserver 10.0.2.3\n"


def test_network_came_up_by_the_bootstrap_script(applied: Banger) -> None:  # seed S10
    assert "10.0.2.15/24" in applied.inside("web-1", "ip", "-4", "-o", "addr", "show", "eth0").stdout
    assert applied.inside("web-1", "ip", "route", "show", "default").stdout.startswith("default via 10.0.2.2")
    assert applied.inside("web-1", "systemctl", "is-active", "banger-network").stdout == "active\n"
    assert applied.inside("web-1", "systemctl", "is-active", "systemd-networkd", check=False).stdout == "inactive\n"
    assert " ip=" not in applied.inside("web-1", "cat", "/proc/cmdline").stdout


def test_closed_network_lets_a_guest_reach_nothing(applied: Banger) -> None:
    done = applied.inside("web-1", "timeout", "5", "bash", "-c", "cat < /dev/tcp/10.0.2.2/22", check=False)
    assert done.returncode != 0
    assert done.stdout == ""


def test_sshd_agrees_with_the_drop_in(applied: Banger) -> None:  # seed S11
    settings = applied.inside("web-1", "sshd", "-T").stdout.splitlines()
    wanted = {
        "permitrootlogin without-password",
        "pubkeyauthentication yes",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "authorizedkeysfile /root/.ssh/authorized_keys",
        "strictmodes yes",
        "loglevel INFO",
    }
    assert wanted <= set(settings)


def test_password_login_is_refused(applied: Banger) -> None:  # seed S11
    (record,) = [record for record in applied.records() if record["name"] == "web-1"]
    done = subprocess.run(
        [
            *(
                "ssh",
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "PubkeyAuthentication=no",
            ),
            *("-o", "UserKnownHostsFile=/dev/null", "-o", "PreferredAuthentications=password,keyboard-interactive"),
            *("-p", str(record["nic"]["ssh"]["port"]), "root@127.0.0.1", "true"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr, "the server offers no way but a key"


def test_exit_code_and_words_pass_through(applied: Banger) -> None:
    assert applied.inside("web-1", "sh", "-c", "exit 42", check=False).returncode == 42
    assert applied.inside("web-1", "printf", "%s|", "a b", "c'd", "$HOME").stdout == "a b|c'd|$HOME|"


def test_guest_host_key_is_the_one_the_host_made(applied: Banger) -> None:
    (record,) = [record for record in applied.records() if record["name"] == "web-1"]
    ours = (Path(record["runtime"]["vm_directory"]) / "ssh_host_ed25519_key.pub").read_text()
    assert applied.inside("web-1", "cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout == ours


def test_store_has_nothing_transient(applied: Banger) -> None:  # seed S1
    text = (applied.home / "state.json").read_text()
    assert '"pid"' not in text
    assert str(applied.vmm_pid("web-1")) not in [str(v) for r in applied.records() for v in r["runtime"].values()]


def test_second_apply_changes_nothing(applied: Banger) -> None:
    recaps = applied.recaps("apply", PLAYBOOK)
    assert set(recaps) == {"image/debian-12", "vm/web-1", "vm/web-2"}
    assert all((recap["changed"], recap["failed"], recap["pending"]) == (0, 0, 0) for recap in recaps.values())


def _changed_playbook(directory: Path) -> Path:
    """The quickstart with another greeting, and its files beside it."""
    for name in ("templates", "files"):
        (directory / name).symlink_to(PLAYBOOK.parent / name)
    text = PLAYBOOK.read_text().replace('content: "{{ vm.name }}\\n"', 'content: "changed {{ vm.name }}\\n"')
    (directory / "changed.yml").write_text(text)
    return directory / "changed.yml"


PATIENT = """
from dataclasses import replace
from banger.cli import main
from banger.vmmprocess import VmmProcess
shut_down = VmmProcess._shut_down
VmmProcess._shut_down = lambda process, *told: shut_down(replace(process, shutdown_s=300.0), *told)
main()
"""
"""banger that gives a guest more time to end by itself than the slowest machine takes."""


def test_change_under_a_running_guest_waits_for_restart(applied: Banger, tmp_path: Path) -> None:
    playbook = _changed_playbook(tmp_path)
    recap = applied.recaps("apply", playbook)["vm/web-1"]
    assert (recap["changed"], recap["pending"]) == (0, 1)
    applied.inside("web-1", "sh", "-c", "echo kept > /root/kept; echo mine > /etc/mine; rm /etc/hostname")
    before = applied.vmm_pid("web-1")
    patient = Banger(applied.home, (sys.executable, "-c", PATIENT))
    told = [event.get("detail") for event in patient.events("apply", playbook, "--restart")]
    assert "shutting the guest down" in told
    assert "stopping QEMU" not in told, "the guest ended by itself, nothing was pulled from under it"
    assert applied.vmm_pid("web-1") != before
    assert applied.inside("web-1", "cat", "/etc/banger/first").stdout == "changed web-1\n"
    assert applied.inside("web-1", "cat", "/root/kept", "/etc/mine").stdout == "kept\nmine\n"
    assert applied.inside("web-1", "cat", "/etc/hostname").stdout == "web-1\n", "patched before every boot"  # seed S9


def test_killed_vmm_is_found_and_started_again(applied: Banger) -> None:  # seed S6
    pid = applied.vmm_pid("web-2")
    applied.inside("web-2", "sh", "-c", "echo synced > /root/synced; sync")
    os.kill(pid, signal.SIGKILL)
    assert applied.states()["web-2"] == "stopped"
    assert applied.recaps("apply", PLAYBOOK)["vm/web-2"]["failed"] == 0
    assert applied.states()["web-2"] == "running"
    assert applied.inside("web-2", "cat", "/root/synced").stdout == "synced\n"


def test_lost_and_spoilt_handles_are_found_again(applied: Banger) -> None:  # seed S3 S4
    (record,) = [record for record in applied.records() if record["name"] == "web-2"]
    handles = Path(record["runtime"]["vm_directory"]) / "handles.json"
    true_pid = applied.vmm_pid("web-2")
    spoilt = json.loads(handles.read_text())
    spoilt["handles"]["web-2/vmm"] |= {"pid": 1, "start_time": 1}
    for content in (None, b"{", json.dumps(spoilt).encode()):
        if content is None:
            handles.unlink()
        else:
            handles.write_bytes(content)
        assert applied.states()["web-2"] == "running"
        applied.run("apply", PLAYBOOK)
        assert applied.vmm_pid("web-2") == true_pid


def test_vm_ssh_to_an_unknown_name_suggests_one(applied: Banger) -> None:
    done = applied.run("vm", "ssh", "web-3", check=False)
    assert done.returncode == 2
    assert "did you mean 'web-" in done.stderr


def test_destroy_leaves_nothing(applied: Banger, before: Traces) -> None:
    applied.run("destroy", PLAYBOOK)
    after = traces(applied)
    # The key pair that opens every guest and the answer about KVM belong to the home, not to a VM.
    of_home = {"ssh", "ssh/id_ed25519", "ssh/id_ed25519.pub", "cache", "cache/kvm.json", "vms", "locks"}
    assert after.files - of_home == before.files - of_home
    assert (after.processes, after.loops, after.mounts) == (before.processes, before.loops, before.mounts)
    assert (after.links, after.scratch, after.records) == (before.links, before.scratch, 0)
    assert applied.recaps("destroy", PLAYBOOK)["vm/web-1"]["changed"] == 0, "destroying again is no error"
