"""The real command killed at random moments, on the kernel that Debian ships, with dm-snapshots and taps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.microvms import NOTHING, Host, left, microvm_host
from tests.tally import tally

Made = dict[str, list[str]]
Until = Callable[[Made], bool]

_COMING = ("", "loops", "dm", "namespaces", "", "processes")
"""What of a start is waited for before each kill; nothing: it is killed about when it begins."""
_GOING = 3
_PATIENCE_S = 120.0
_LATER_S = 4.0
"""Less than a guest takes to boot: nothing here waits for one."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with microvm_host(tmp_path_factory.mktemp("k")) as made:
        yield made


@pytest.fixture(scope="module")
def beginning_s(host: Host) -> float:
    """About how long a command takes here until it begins with its work."""
    begun = time.monotonic()
    host.run("vm", "list")
    return time.monotonic() - begun


def killed(host: Host, until: Until, after_s: float, *arguments: str | Path) -> bool:
    """Killed so long after what there is has become so, or the command has ended; whether it was still at work."""
    with host.begun(*arguments) as command:
        deadline = time.monotonic() + _PATIENCE_S
        while not until(left()) and command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(after_s)
        at_work = command.poll() is None
        command.kill()
    return at_work


def made(kind: str) -> Until:
    return lambda there: bool(there[kind])


def other_than(before: Made) -> Until:
    return lambda there: there != before


def at_once(there: Made) -> bool:
    return True


def taken_away(host: Host, command: str) -> None:
    if "web" in host.states():
        host.run("vm", command, "web")
    assert left() == NOTHING


@pytest.mark.parametrize("act", ["apply", "vm start"])
def test_killed_while_it_starts_a_vm_leaves_nothing_that_the_next_command_does_not_take_away(
    host: Host, beginning_s: float, act: str
) -> None:
    command = ("apply", host.playbook(), "-e", "db=absent") if act == "apply" else ("vm", "start", "web")
    chance, tried, seen = random.Random(act), 0, set[str]()
    for turn, kind in enumerate(_COMING):
        if act == "vm start" and "web" not in host.states():
            host.apply(web="stopped", db="absent")
        after_s = chance.uniform(0, _LATER_S) if kind else chance.uniform(0.8, 1.6) * beginning_s
        tried += killed(host, made(kind) if kind else at_once, after_s, *command)
        seen |= {kind for kind, there in left().items() if there}
        taken_away(host, "delete" if turn % 2 else "stop")
    assert tried >= len(_COMING) / 2
    assert seen >= {"loops", "dm", "namespaces"}, "it was killed while there was something"
    tally("killed in the lab: dm, taps, Firecracker", tried=tried, residue=0, lost=0)


def test_killed_while_it_stops_a_vm_leaves_nothing_that_the_next_command_does_not_take_away(
    host: Host, beginning_s: float
) -> None:
    """Of a VM whose start was killed, too."""
    chance, tried = random.Random(3), 0
    for turn in range(_GOING):
        if "web" not in host.states():
            host.apply(web="stopped", db="absent")
        tried += killed(host, made("processes"), chance.uniform(0, _LATER_S), "vm", "start", "web")
        tried += killed(host, other_than(left()), chance.uniform(0, 1), "vm", "stop", "web")
        taken_away(host, "delete" if turn % 2 else "stop")
    assert tried >= _GOING
    tally("killed in the lab: dm, taps, Firecracker", tried=tried, residue=0, lost=0)
