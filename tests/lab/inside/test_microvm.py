"""Firecracker guests on dm-snapshots and taps, by the command line alone: booted, entered, killed, taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.build import lab_image
from tests.lab.microvms import NETNS, NOTHING, Host, left, microvm_host, pids, said, words


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with microvm_host(tmp_path_factory.mktemp("m")) as made:
        yield made


def _made(what: str) -> list[str]:
    """What there is of a kind; links and tables are in the network's namespace.

    A console's relay is no process that counts: where its VMM is not there yet, it ends by itself when banger does.
    """
    if what == "processes":
        return [line for line in left()["processes"] if "console_relay" not in line]
    if what not in ("links", "tables"):
        return left()[what]
    command = ("ip", "-o", "link", "show", "type", "tun") if what == "links" else ("nft", "list", "tables")
    done = subprocess.run(("ip", "netns", "exec", NETNS, *command), capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_vm_is_made_stopped_and_leaves_no_kernel_object(host: Host) -> None:
    host.apply(web="stopped", db="absent")
    assert host.states() == {"web": "stopped"}
    assert left() == NOTHING
    again = host.apply(web="stopped", db="absent")
    assert [again[name]["changed"] for name in ("image/debian-12", "vm/web")] == [0, 0]


def test_supervisor_is_killed_and_the_vm_lives_on(host: Host) -> None:
    """seed S7, to the letter."""
    assert host.up("vm", "run", "--name", "web", "--", "cat", "/etc/hostname").stdout == "web\n"
    handles = host.handles("web")
    vmm, disk, tap = handles["web/vmm"], handles["web/root/snapshot"], handles["web/network/tap"]
    assert Path(f"/proc/{vmm['pid']}/comm").read_text() == "firecracker\n"
    assert disk["dm_name"] in said("dmsetup", "ls").split()
    assert Path(f"/sys/block/{Path(disk['base_loop']).name}/loop/backing_file").read_text().strip() == str(
        lab_image() / "rootfs.ext4"
    )
    assert "/vms/" in Path(f"/sys/block/{Path(disk['cow_loop']).name}/loop/backing_file").read_text()
    assert tap["tap"] in said("ip", "-n", NETNS, "-o", "link")

    with host.begun("vm", "run", "--name", "web", "--", "sleep", "1000") as supervisor:
        time.sleep(5)
        supervisor.send_signal(signal.SIGKILL)
    assert host.states() == {"web": "running"}
    assert host.vmm_pid("web") == vmm["pid"]
    assert host.inside("web", "cat", "/etc/hostname").stdout == "web\n"


def test_exit_code_and_words_pass_through(host: Host) -> None:
    def pass_through() -> None:
        done = host.run("vm", "run", "--name", "web", "--", "sh", "-c", "echo 'a  b'; exit 42", check=False)
        assert (done.returncode, done.stdout) == (42, "a  b\n"), done.stderr

    host.steadily("web", pass_through)


def test_guest_reads_what_was_patched_into_the_device(host: Host) -> None:
    looks = "stat -c '%a %u %g' /etc/greeting; cat /etc/greeting /root/.greeting; findmnt -no FSTYPE /"
    seen, *blocks = host.inside("web", "sh", "-c", f"{looks}; echo blocks; stat -f -c %b /").stdout.split("blocks\n")
    assert seen == "640 7 8\nhello web, this is ä\nhello home\next4\n"
    assert int(blocks[0]) * 4096 > 1.8 * 2**30


def test_guest_is_reached_without_its_network(host: Host) -> None:
    def by_vsock(*command: str) -> str:
        return host.run("vm", "ssh", "--vsock", "web", "--", *command, timeout_s=120).stdout

    def reach_it() -> None:
        assert by_vsock("cat", "/etc/hostname") == "web\n"
        by_vsock("ip", "link", "set", "eth0", "down")
        look = ("cat", "/etc/hostname", "/sys/class/net/eth0/operstate")
        assert host.run("vm", "ssh", "web", "--", *look, timeout_s=120).stdout == "web\ndown\n"
        by_vsock("ip", "link", "set", "eth0", "up")

    host.steadily("web", reach_it)


def test_full_overlay_is_told_by_name_harms_nothing_else_and_is_mended(host: Host) -> None:
    before = host.show("web")["resources"]["web/root/snapshot"]["overlay"]
    fill = "echo kept > /var/tmp/kept; sync; head -c 64M /dev/zero > /var/tmp/big; sync"
    host.run("vm", "ssh", "web", "--", "sh", "-c", fill, timeout_s=600, check=False)
    full = host.show("web")["resources"]["web/root/snapshot"]["overlay"]
    assert " of 64.0MiB" in before
    assert full == "its overlay is full (64.0MiB of 64.0MiB): raise `overlay`, then apply --restart"
    refused = host.run("apply", host.playbook(), "-e", "db=absent", check=False)
    assert "raise `overlay`" in refused.stdout + refused.stderr
    host.apply("--restart", web="running", db="absent", overlay="overlay: 256MiB")
    assert host.inside("web", "sh", "-c", "rm -f /var/tmp/big; cat /var/tmp/kept").stdout == "kept\n"
    assert " of 256.0MiB" in host.show("web")["resources"]["web/root/snapshot"]["overlay"]


def test_each_process_is_killed_in_turn(host: Host) -> None:
    """What is not the VMM takes nothing with it; what is leaves nothing that the next command does not take away."""
    with host.begun("vm", "ssh", "--vsock", "web", "--", "sleep", "1000") as session:
        time.sleep(5)
        session.kill()
    assert host.states() == {"web": "running"}
    (relay,) = [pid for pid in pids() if any(b"console_relay" in word for word in words(pid))]
    os.kill(relay, signal.SIGKILL)
    assert host.inside("web", "cat", "/etc/hostname").stdout == "web\n"
    os.kill(host.vmm_pid("web"), signal.SIGKILL)
    assert left()["dm"], "a dead VMM takes no device with it"
    host.run("vm", "stop", "web")
    assert host.states() == {"web": "stopped"}
    assert left() == NOTHING


@pytest.mark.parametrize("made", ["loops", "dm", "namespaces", "links", "tables", "processes"])
def test_banger_is_killed_when_it_has_made_something(host: Host, made: str) -> None:
    """Some of it goes with whoever made it, until there is more that holds it: then it was killed too early."""
    for _ in range(3):
        with host.begun("vm", "start", "web") as starting:
            while not _made(made) and starting.poll() is None:
                time.sleep(0.01)
            starting.kill()
        there = _made(made)
        host.run("vm", "stop", "web")
        assert left() == NOTHING
        if there:
            break
    assert there


def test_banger_is_killed_while_it_starts_and_stops_a_vm(host: Host) -> None:
    """The VMM may be there by then; whatever is there is taken over or taken down by the next command."""
    with host.begun("vm", "start", "web") as starting:
        while not left()["processes"] and starting.poll() is None:
            time.sleep(0.05)
        starting.kill()
    host.up("vm", "start", "web")
    assert host.states() == {"web": "running"}
    assert len(_made("processes")) == 1
    with host.begun("vm", "stop", "web") as stopping:
        time.sleep(2)
        stopping.kill()
    host.run("vm", "stop", "web")
    assert left() == NOTHING


def test_disk_that_was_used_and_killed_is_sound(host: Host) -> None:
    """By the commands that a dry run shows."""
    path = host.playbook("overlay: 256MiB")
    planned = host.events("apply", "--check", path, "-e", "db=absent")
    actions = [action for event in planned if event["type"] == "plan" for action in event["actions"]]
    by_hand = [command for action in actions for command in action.get("by_hand", ()) if "losetup" in command]
    by_hand += [command for action in actions for command in action.get("by_hand", ()) if "dmsetup" in command]
    assert len(by_hand) == 4, planned
    remove = "dmsetup ls | cut -f 1 | sort | xargs -n 1 dmsetup remove; losetup --detach $cow $base"
    script = f"set -e; export DM_DISABLE_UDEV=1; {'; '.join(by_hand)}; e2fsck -fn /dev/mapper/banger-*-root; {remove}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert left() == NOTHING


def test_two_vms_share_one_base_and_one_goes_without_the_other(host: Host) -> None:
    """One of them is jailed. One starts after the other: the lab's emulated processor panics where two boot at once."""
    host.apply("--forks", "1", web="running", db="running", overlay="overlay: 256MiB")
    assert host.states() == {"db": "running", "web": "running"}
    web, db = host.handles("web"), host.handles("db")
    assert web["web/root/snapshot"]["base_loop"] == db["db/root/snapshot"]["base_loop"]
    assert len(left()["loops"]) == 3
    uids = [Path(f"/proc/{host.vmm_pid(name)}").stat().st_uid for name in ("web", "db")]
    assert uids[0] == 0 and uids[1] >= 0x70000000
    assert host.apply(web="running", db="running", overlay="overlay: 256MiB")["vm/db"]["changed"] == 0
    host.run("vm", "delete", "db")
    assert len(left()["loops"]) == 2
    host.inside("web", "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches; md5sum /usr/bin/* > /dev/null")
    assert host.inside("web", "cat", "/etc/greeting").stdout == "hello web, this is ä\n"


def test_delete_leaves_nothing(host: Host) -> None:
    host.run("vm", "delete", "web")
    assert left() == NOTHING
    assert host.states() == {}
    assert not list((host.home / "vms").glob("*"))
