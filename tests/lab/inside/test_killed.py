"""The real command killed at random moments, on the kernel that Debian ships, with dm-snapshots and taps."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.microvms import NOTHING, Host, left, microvm_host
from tests.tally import tally

_ROUNDS = 12
_SHORTEST_S, _LONGEST_S = 2.5, 10.0
"""About what the command takes to begin there, and less than a guest takes to boot: nothing here waits for one."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with microvm_host(tmp_path_factory.mktemp("k")) as made:
        yield made


def killed(host: Host, after_s: float, *arguments: str | Path) -> bool:
    """Whether it was still at work then."""
    with host.begun(*arguments) as command:
        time.sleep(after_s)
        at_work = command.poll() is None
        command.kill()
    return at_work


def test_killed_at_random_moments_leaves_nothing_that_the_next_command_does_not_take_away(host: Host) -> None:
    acts: list[tuple[str | Path, ...]] = [
        ("apply", host.playbook(), "-e", "db=absent"),
        ("vm", "start", "web"),
        ("vm", "stop", "web"),
    ]
    moments, tried, seen = random.Random(3), 0, set[str]()
    for turn in range(_ROUNDS):
        act = acts[turn % len(acts)]
        if act[0] == "vm" and "web" not in host.states():
            host.apply(web="stopped", db="absent")
        if act[1] == "stop":
            tried += killed(host, moments.uniform(_SHORTEST_S, _LONGEST_S), "vm", "start", "web")
        tried += killed(host, moments.uniform(_SHORTEST_S, _LONGEST_S), *act)
        seen |= {kind for kind, there in left().items() if there}
        if "web" in host.states():
            host.run("vm", "delete" if turn % 2 else "stop", "web")
        assert left() == NOTHING, act
    assert tried > _ROUNDS / 2
    assert seen >= {"loops", "dm", "namespaces"}, "it was killed while there was something"
    tally("killed in the lab: dm, taps, Firecracker", tried=tried, residue=0, lost=0)
