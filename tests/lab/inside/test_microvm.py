"""Firecracker guests on dm-snapshots and taps, by the command line alone: booted, entered, killed, taken away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.capabilities import device_mapper, firecracker, kvm_boots, network_namespaces, require
from tests.functional.machine import ROOT, Banger
from tests.lab.build import lab_image

PLAYBOOK = ROOT / "playbooks" / "microvm.yml"
NETNS = "banger-lab"


@dataclass(frozen=True)
class Host(Banger):
    """The home, and what of it is on this machine."""

    def apply(self, *, web: str, db: str) -> dict[str, dict[str, Any]]:
        """The recaps by subject."""
        return self.recaps("apply", PLAYBOOK, "-e", f"web={web}", "-e", f"db={db}")

    def show(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.run("vm", "show", name, "--format", "json").stdout))

    def handles(self, name: str) -> dict[str, dict[str, Any]]:
        path = Path(self.show(name)["directory"]) / "handles.json"
        return dict(json.loads(path.read_text())["handles"])


def left() -> dict[str, list[str]]:
    """Every kernel object that could be ours, in the whole machine."""
    backing = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    ours = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is_ours(path)]
    return {
        "processes": [path.read_bytes().replace(b"\0", b" ").decode() for path in ours],
        "loops": [path for path in backing if "/vms/" in path or "/images/" in path],
        "dm": _said("dmsetup", "ls").replace("No devices found", "").split(),
        "namespaces": [path.name for path in Path("/run/netns").glob("*")],
        "links": [path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo"],
        "tables": _said("nft", "list", "tables").split(),
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if "banger" in line],
    }


def _is_ours(path: Path) -> bool:
    try:
        words = path.read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"firecracker") or any(b"console_relay" in word for word in words)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


NOTHING: dict[str, list[str]] = {
    name: [] for name in ("processes", "loops", "dm", "namespaces", "links", "tables", "mounts")
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    for reason in (device_mapper(), kvm_boots(), network_namespaces(), firecracker()):
        require(reason, lab_only=True)
    home = tmp_path_factory.mktemp("m")
    image = lab_image()
    (home / "images" / image.name).mkdir(parents=True)  # a kernel is unpacked into it, and the lab's own is read-only
    for file in image.iterdir():
        (home / "images" / image.name / file.name).symlink_to(file)
    made = Host(home)
    yield made
    made.run("vm", "delete", "web", "db", check=False)
    made.run("vm", "delete", "web", check=False)
    made.run("vm", "delete", "db", check=False)


def test_vm_is_made_stopped_and_leaves_no_kernel_object(host: Host) -> None:
    host.apply(web="stopped", db="absent")
    assert host.states() == {"web": "stopped"}
    assert left() == NOTHING
    again = host.apply(web="stopped", db="absent")
    assert [again[name]["changed"] for name in ("image/debian-12", "vm/web")] == [0, 0]


def test_supervisor_is_killed_and_the_vm_lives_on(host: Host) -> None:
    """seed S7, to the letter."""
    assert host.run("vm", "run", "--name", "web", "--", "cat", "/etc/hostname").stdout == "web\n"
    handles = host.handles("web")
    vmm, disk, tap = handles["web/vmm"], handles["web/root/snapshot"], handles["web/network/tap"]
    assert Path(f"/proc/{vmm['pid']}/comm").read_text() == "firecracker\n"
    assert disk["dm_name"] in _said("dmsetup", "ls").split()
    assert Path(f"/sys/block/{Path(disk['base_loop']).name}/loop/backing_file").read_text().strip() == str(
        lab_image() / "rootfs.ext4"
    )
    assert "/vms/" in Path(f"/sys/block/{Path(disk['cow_loop']).name}/loop/backing_file").read_text()
    assert tap["tap"] in _said("ip", "-n", NETNS, "-o", "link")

    with subprocess.Popen(
        [*host.command, "vm", "run", "--name", "web", "--", "sleep", "1000"],
        env={**os.environ, "BANGER_HOME": str(host.home)},
        stdin=subprocess.DEVNULL,
    ) as supervisor:
        time.sleep(5)
        supervisor.send_signal(signal.SIGKILL)
    assert host.states() == {"web": "running"}
    assert host.vmm_pid("web") == vmm["pid"]
    assert host.inside("web", "cat", "/etc/hostname").stdout == "web\n"


def test_exit_code_and_words_pass_through(host: Host) -> None:
    done = host.run("vm", "run", "--name", "web", "--", "sh", "-c", "echo 'a  b'; exit 42", check=False)
    assert (done.returncode, done.stdout) == (42, "a  b\n")


def test_guest_reads_what_was_patched_into_the_device(host: Host) -> None:
    assert host.inside("web", "stat", "-c", "%a %u %g", "/etc/greeting").stdout == "640 7 8\n"
    assert host.inside("web", "cat", "/etc/greeting").stdout == "hello web, this is ä\n"
    assert host.inside("web", "cat", "/root/.greeting").stdout == "hello home\n"
    assert host.inside("web", "findmnt", "-no", "FSTYPE", "/").stdout == "ext4\n"
    assert int(host.inside("web", "stat", "-f", "-c", "%b", "/").stdout) * 4096 > 1.8 * 2**30


def test_guest_is_reached_without_its_network(host: Host) -> None:
    by_vsock = host.run("vm", "ssh", "--vsock", "web", "--", "cat", "/etc/hostname", timeout_s=120)
    assert by_vsock.stdout == "web\n"
    host.inside(
        "web", "sh", "-c", "nohup sh -c 'ip link set eth0 down; sleep 20; ip link set eth0 up' >/dev/null 2>&1 &"
    )
    time.sleep(1)
    assert host.inside("web", "cat", "/etc/hostname").stdout == "web\n"
    time.sleep(20)


def test_show_tells_how_full_the_overlay_is(host: Host) -> None:
    before = host.show("web")["resources"]["web/root/snapshot"]["overlay"]
    host.inside("web", "sh", "-c", "head -c 20M /dev/urandom > /var/tmp/filler; sync")
    after = host.show("web")["resources"]["web/root/snapshot"]["overlay"]
    assert before != after
    assert " of " in after


def test_banger_is_killed_while_it_starts_a_vm(host: Host) -> None:
    """The VMM may be there by then; whatever is there is taken over or taken down by the next command."""
    host.run("vm", "stop", "web")
    assert left() == NOTHING
    with subprocess.Popen(
        [*host.command, "vm", "start", "web"],
        env={**os.environ, "BANGER_HOME": str(host.home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as starting:
        deadline = time.monotonic() + 60
        while not left()["processes"] and time.monotonic() < deadline:
            time.sleep(0.05)
        starting.send_signal(signal.SIGKILL)
    host.run("vm", "start", "web", timeout_s=400)
    assert host.states() == {"web": "running"}
    assert len([line for line in left()["processes"] if "console_relay" not in line]) == 1


def test_two_vms_share_one_base_and_one_goes_without_the_other(host: Host) -> None:
    host.apply(web="running", db="running")
    assert host.states() == {"db": "running", "web": "running"}
    web, db = host.handles("web"), host.handles("db")
    assert web["web/root/snapshot"]["base_loop"] == db["db/root/snapshot"]["base_loop"]
    assert len(left()["loops"]) == 3
    assert host.apply(web="running", db="running")["vm/db"]["changed"] == 0
    host.run("vm", "delete", "db")
    assert len(left()["loops"]) == 2
    host.inside("web", "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches; md5sum /usr/bin/* > /dev/null")
    assert host.inside("web", "cat", "/etc/greeting").stdout == "hello web, this is ä\n"


def test_vmm_is_killed_and_the_next_command_takes_down_what_is_left(host: Host) -> None:
    os.kill(host.vmm_pid("web"), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while left()["processes"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left()["dm"], "a dead VMM takes no device with it"
    host.apply(web="stopped", db="absent")
    assert host.states() == {"web": "stopped"}
    assert left() == NOTHING


def test_delete_leaves_nothing(host: Host) -> None:
    host.run("vm", "start", "web", timeout_s=400)
    host.run("vm", "delete", "web")
    assert left() == NOTHING
    assert host.states() == {}
    assert not list((host.home / "vms").glob("*"))
