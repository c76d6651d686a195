"""The real command on the real host, killed at random moments, hundreds of times: what is left, what comes next."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.capabilities import network_namespaces, programs, require
from tests.firecracker import firecracker_binaries
from tests.forked import Done, banger
from tests.functional.machine import Banger, Traces, traces
from tests.functional.test_interrupt import playbook as solo_playbook
from tests.functional.tiny import PLAYBOOK, Tiny
from tests.networks import namespace_name
from tests.tally import tally
from tests.tinyguests import POLITE, elf, tiny_guests

pytestmark = pytest.mark.slow

_SETTLE_S = 10.0


def killed_after(seconds: float) -> Callable[[], None]:
    """To be called in a process that is to be killed so long afterwards."""

    def arm() -> None:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

    return arm


def settled(home: Path, wanted: Traces) -> Traces:
    """What there is once the programs that a killed command had started have ended."""
    deadline = time.monotonic() + _SETTLE_S
    while (now := traces(Banger(home))) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def good(done: Done) -> Done:
    assert done.code == 0, done.said
    return done


# --- disks, without guests

CHANGED = PLAYBOOK.replace("hello", "changed")
GROWN = PLAYBOOK.replace("16MiB", "24MiB")
MOVED = PLAYBOOK.replace("storage: file", "storage: overlay")
ACTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "apply": (PLAYBOOK, ("apply",)),
    "change": (CHANGED, ("apply",)),
    "grow": (GROWN, ("apply",)),
    "recreate": (MOVED, ("apply", "--recreate")),
    "destroy": (PLAYBOOK, ("destroy",)),
}
_ROUNDS = 40


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Applied, and kept so; its image stays where it is."""
    made = Tiny.make(tmp_path_factory.mktemp("k"))
    good(made.apply())
    made.keep()
    return made


def born(home: Path) -> list[str]:
    """When the file systems of the work disks were made."""
    disks = sorted(home.glob("vms/*/work.ext4"))
    told = [subprocess.run(["dumpe2fs", "-h", disk], capture_output=True, text=True, check=True) for disk in disks]
    return [line for done in told for line in done.stdout.splitlines() if line.startswith("Filesystem created:")]


@pytest.mark.parametrize("act", ACTS)
def test_killed_while_it_works_on_disks(tiny: Tiny, act: str) -> None:
    text, command = ACTS[act]
    tiny.restore()
    tiny.playbook.write_text(text)
    good(tiny.run("destroy", tiny.playbook))
    nothing = traces(Banger(tiny.home))
    whole = _length_of(tiny, act)
    moments, killed = random.Random(act), 0
    for turn in range(_ROUNDS):
        tiny.restore()
        if act == "apply":
            good(tiny.run("destroy", tiny.playbook))
        before = born(tiny.home)
        done = banger(tiny.home, *command, tiny.playbook, before=killed_after(moments.uniform(0, whole)))
        killed += done.code == -signal.SIGKILL
        if turn % 2:
            good(tiny.run(*(("apply",) if act == "destroy" else command), tiny.playbook))
            good(tiny.run("apply", "--check", "--detailed-exitcode", tiny.playbook))
            assert act in ("apply", "destroy") or born(tiny.home) == before, "a work disk is never made anew"
        good(tiny.run("destroy", tiny.playbook))
        assert settled(tiny.home, nothing) == nothing
    assert killed > _ROUNDS / 2
    tally("killed on the real host: disks", tried=killed, residue=0, lost=0)


def _length_of(tiny: Tiny, act: str) -> float:
    """How long it takes when nobody kills it."""
    _, command = ACTS[act]
    tiny.restore()
    if act == "apply":
        good(tiny.run("destroy", tiny.playbook))
    began = time.monotonic()
    good(banger(tiny.home, *command, tiny.playbook))
    return time.monotonic() - began


# --- guests of QEMU, beside others that run on


def test_killed_while_it_starts_a_guest_of_qemu(applied: Banger, tmp_path: Path) -> None:
    path, before = solo_playbook(tmp_path), traces(applied)
    others = {name: applied.vmm_pid(name) for name, state in applied.states().items() if state == "running"}
    moments, rounds = random.Random(1), 40
    ends = itertools.cycle([("destroy", path), ("vm", "stop", "solo"), ("vm", "delete", "solo")])
    for end in itertools.islice(ends, rounds):
        done = banger(applied.home, "apply", path, before=killed_after(moments.uniform(0, 2.0)))
        assert done.code == -signal.SIGKILL, done.said
        if "solo" in applied.states():
            good(banger(applied.home, *end))
        assert [line for line in traces(applied).processes - before.processes if "api.sock" in line] == []
    good(banger(applied.home, "destroy", path))
    after = settled(applied.home, before)
    assert replace(after, scratch=before.scratch) == before
    assert {name: applied.vmm_pid(name) for name in others} == others, "they were never touched"
    tally("killed on the real host: guests of QEMU", tried=rounds, residue=0, lost=0)


# --- guests of Firecracker on taps, in a namespace

MICROVMS = """\
- images: [{name: tiny, source: import, path: root.img, kernel: kernel, initrd: initrd}]
- networks: [{name: lab, plugin: tap, subnet: 172.31.9.0/24, netns: NETNS}]
- defaults: {image: tiny, network: lab, vmm: firecracker, memory: 128MiB, root_disk: 16MiB, storage: file}
  vms:
    - {name: web, work_disk: 16MiB}
    - {name: db, jailed: true}
"""


@pytest.fixture
def microvms(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tiny, str]]:
    """A home with two VMs on a network in a namespace of this name; their guests never answer, and end when asked."""
    require(network_namespaces())
    require(programs("nft", "setpriv"))
    require(tiny_guests())
    monkeypatch.setenv("PATH", f"{firecracker_binaries()}:{os.environ['PATH']}")
    with namespace_name() as netns:
        tiny = Tiny.make(tmp_path_factory.mktemp("m"), MICROVMS.replace("NETNS", netns))
        (tiny.directory / "kernel").write_bytes(elf(POLITE))
        yield tiny, netns
        tiny.run("destroy", tiny.playbook)


def test_killed_while_it_starts_guests_of_firecracker_on_taps(microvms: tuple[Tiny, str]) -> None:
    tiny, netns = microvms
    namespace = Path("/run/netns") / netns
    good(tiny.run("destroy", tiny.playbook))
    banger(tiny.home, "apply", tiny.playbook, before=killed_after(3))  # the image is made, and stays
    good(tiny.run("destroy", tiny.playbook))
    nothing = traces(Banger(tiny.home))
    moments, rounds, seen = random.Random(2), 60, set[str]()
    for turn in range(rounds):
        done = banger(tiny.home, "apply", tiny.playbook, before=killed_after(moments.uniform(0, 1.2)))
        assert done.code == -signal.SIGKILL, done.said
        seen |= {"namespace"} if namespace.exists() else set()
        seen |= {"process"} if traces(Banger(tiny.home)).processes else set()
        if turn % 2 and "web" in Banger(tiny.home).states():
            good(tiny.run("vm", "stop", "web"))
            assert Banger(tiny.home).states()["web"] == "stopped"
        good(tiny.run("destroy", tiny.playbook))
        assert settled(tiny.home, nothing) == nothing
        assert not namespace.exists()
    assert seen == {"namespace", "process"}, "it was killed while there was something"
    tally("killed on the real host: guests of Firecracker on taps", tried=rounds, residue=0, lost=0)
