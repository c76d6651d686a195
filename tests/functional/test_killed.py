"""The real command on the real host, killed at random moments, hundreds of times: what is left, what comes next."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.capabilities import network_namespaces, programs, require
from tests.firecracker import firecracker_binaries
from tests.forked import Done, banger
from tests.functional.machine import Banger, settled, traces
from tests.functional.test_interrupt import playbook as solo_playbook
from tests.functional.tiny import PLAYBOOK, Tiny
from tests.networks import namespace_name
from tests.tally import tally
from tests.tinyguests import POLITE, elf, tiny_guests

pytestmark = pytest.mark.slow


def moments(rounds: int, seed: int | str) -> list[float]:
    """One in each of so many equal parts of the time from 0 to 1, in no order."""
    chance = random.Random(seed)
    found = [(part + chance.random()) / rounds for part in range(rounds)]
    chance.shuffle(found)
    return found


def killed_after(seconds: float) -> Callable[[], None]:
    """To be called in a process that is to be killed so long afterwards."""

    def arm() -> None:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

    return arm


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
    whole_s, killed = min(_length_of(tiny, act) for _ in range(3)), 0
    for turn, moment in enumerate(moments(_ROUNDS, act)):
        tiny.restore()
        if act == "apply":
            good(tiny.run("destroy", tiny.playbook))
        before = born(tiny.home)
        began = time.monotonic()
        done = banger(tiny.home, *command, tiny.playbook, before=killed_after(moment * whole_s))
        if done.code == -signal.SIGKILL:
            killed += 1
        else:  # it is quicker by now
            good(done)
            whole_s = min(whole_s, time.monotonic() - began)
        if turn % 2:
            good(tiny.run(*(("apply",) if act == "destroy" else command), tiny.playbook))
            good(tiny.run("apply", "--check", "--detailed-exitcode", tiny.playbook))
            assert act in ("apply", "destroy") or born(tiny.home) == before, "a work disk is never made anew"
        good(tiny.run("destroy", tiny.playbook))
        assert settled(Banger(tiny.home), nothing) == nothing
    assert killed >= _ROUNDS / 4
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

_STARTS = 24


def test_killed_while_it_starts_a_guest_of_qemu(applied: Banger, tmp_path: Path) -> None:
    path, before = solo_playbook(tmp_path), traces(applied)
    others = {name: applied.vmm_pid(name) for name, state in applied.states().items() if state == "running"}
    ends: list[tuple[str | Path, ...]] = [("destroy", path), ("vm", "delete", "solo")] * 2 + [("vm", "stop", "solo")]
    for turn, moment in enumerate(moments(_STARTS, 1)):
        done = banger(applied.home, "apply", path, before=killed_after(moment * 2.0))
        assert done.code == -signal.SIGKILL, done.said
        if "solo" in applied.states():
            good(banger(applied.home, *ends[turn % len(ends)]))
        assert [line for line in traces(applied).processes - before.processes if "api.sock" in line] == []
    good(banger(applied.home, "destroy", path))
    of = ("processes", "loops", "mounts", "links", "files", "records")
    after = settled(applied, before, *of)
    assert [getattr(after, name) for name in of] == [getattr(before, name) for name in of]
    assert {name: applied.vmm_pid(name) for name in others} == others, "they were never touched"
    tally("killed on the real host: guests of QEMU", tried=_STARTS, residue=0, lost=0)


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
    stopped = tiny.directory / "stopped.yml"
    stopped.write_text(tiny.playbook.read_text().replace("storage: file", "storage: file, state: stopped"))
    good(tiny.run("apply", stopped))  # the image is made, and stays
    good(tiny.run("destroy", tiny.playbook))
    nothing = traces(Banger(tiny.home))
    rounds, longest_s, seen = 60, 1.2, set[str]()
    for turn, moment in enumerate(moments(rounds, 2)):
        if turn % 10 == 9 and "process" not in seen:  # it takes longer here until it has come so far
            longest_s *= 2
        done = banger(tiny.home, "apply", tiny.playbook, before=killed_after(moment * longest_s))
        assert done.code == -signal.SIGKILL, done.said
        seen |= {"namespace"} if namespace.exists() else set()
        seen |= {"process"} if traces(Banger(tiny.home)).processes else set()
        if turn % 2 and "web" in Banger(tiny.home).states():
            good(tiny.run("vm", "stop", "web"))
            assert Banger(tiny.home).states()["web"] == "stopped"
        good(tiny.run("destroy", tiny.playbook))
        assert settled(Banger(tiny.home), nothing) == nothing
        assert not namespace.exists()
    assert seen == {"namespace", "process"}, "it was killed while there was something"
    tally("killed on the real host: guests of Firecracker on taps", tried=rounds, residue=0, lost=0)
