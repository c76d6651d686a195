"""Eight commands at once on VMs that overlap: each does its work or says who is in its way, and nothing is lost.

The VMs are stopped ones, so that what is tried is the commands' own doing. Each command is a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.functional.tiny import Tiny, tree
from tests.tally import tally

ROW = "commands at once"
NAMES = ("a", "b", "c", "d")
AT_ONCE = 8
DEADLINE_S = 90
LOCKED = re.compile(r"error: vm-[a-d] is locked by (pid \d+ banger |another process)")


def playbook(tiny: Tiny, names: tuple[str, ...]) -> Path:
    """One that names these VMs, half of them on copies and half on overlays, and no others."""
    head, _, tail = tiny.playbook.read_text().partition("  vms:\n")
    vms = "".join(f"    - {{name: {n}, storage: {('overlay', 'file')[n in 'bd']}}}\n" for n in names)
    path = tiny.directory / f"{''.join(names)}.yml"
    path.write_text(f"{head}  vms:\n{vms}{tail[tail.index('  tasks:') :]}")
    return path


def started(tiny: Tiny, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "banger", *map(str, arguments)],
        env={**os.environ, "BANGER_HOME": str(tiny.home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(command: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        stdout, stderr = command.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        raise AssertionError(f"{command.args!r} waits for ever") from None
    return command.returncode, stdout + stderr


def drawn(tiny: Tiny, chance: random.Random) -> tuple[str | Path, ...]:
    some = tuple(sorted(chance.sample(NAMES, chance.randint(1, 4))))
    kind = chance.choice(["apply", "apply", "apply", "destroy", "stop", "delete", "list", "show", "check"])
    if kind in ("apply", "destroy"):
        return kind, playbook(tiny, some)
    if kind == "check":
        return "apply", playbook(tiny, some), "--check"
    return ("vm", "list") if kind == "list" else ("vm", kind, *(some[:1] if kind == "show" else some))


def names_of(tiny: Tiny) -> list[str]:
    rows = json.loads((tiny.home / "state.json").read_text())["vms"].values()
    return sorted(row["name"] for row in rows)


def assert_in_order(code: int, said: str, arguments: tuple[str | Path, ...]) -> None:
    """Done, or told why not: a lock, or a VM that another command has not made yet, or has removed."""
    what = f"{arguments} ended with {code}: {said}"
    assert "Traceback" not in said, what
    if code == 1:
        assert LOCKED.search(said) and "wait for it to end" in said, what
    elif code == 2:
        assert arguments[0] == "vm" and "there is no VM" in said, what
    else:
        assert code == 0, what


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.make(tmp_path_factory.mktemp("b"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_eight_commands_at_once(tiny: Tiny, seed: int) -> None:
    chance = random.Random(seed)
    everything = playbook(tiny, NAMES)
    for _ in range(3):
        commands = [drawn(tiny, chance) for _ in range(AT_ONCE)]
        running = [(arguments, started(tiny, *arguments)) for arguments in commands]
        results = [(arguments, *ended(command)) for arguments, command in running]
        for arguments, code, said in results:
            assert_in_order(code, said, arguments)
        tally(ROW, tried=AT_ONCE)
    assert ended(started(tiny, "apply", everything))[0] == 0
    assert names_of(tiny) == list(NAMES), "no update is lost"
    code, said = ended(started(tiny, "apply", everything))
    assert code == 0
    assert set(re.findall(r"changed=(\d+)", said)) == {"0"}, said
    assert len({path.name for path in (tiny.home / "vms").iterdir()}) == len(NAMES), (
        "a directory for each, and no other"
    )
    assert ended(started(tiny, "destroy", everything))[0] == 0
    left = [name for name in tree(tiny.home) if name.startswith("vms/") or name.endswith((".tmp", ".new"))]
    assert left == []
    tally(ROW, residue=0, lost=0)


@pytest.mark.slow
def test_applies_of_different_vms_all_have_their_way(tiny: Tiny) -> None:
    """Nobody is in anybody's way, though all want the same image built, and write the same state."""
    running = [started(tiny, "apply", playbook(tiny, (name,))) for name in NAMES]
    for code, said in map(ended, running):
        assert code == 0, said
    assert names_of(tiny) == list(NAMES)
    tally(ROW, tried=len(NAMES), residue=0, lost=0)


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5])
def test_lock_of_a_killed_command_is_free_at_once(tiny: Tiny, after_s: float) -> None:
    path = playbook(tiny, NAMES)
    holder = started(tiny, "apply", path)
    time.sleep(after_s)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    code, said = ended(started(tiny, "apply", path))
    assert code == 0, said
    assert names_of(tiny) == list(NAMES)
    code, said = ended(started(tiny, "apply", path))
    assert set(re.findall(r"changed=(\d+)", said)) == {"0"}, said
    assert ended(started(tiny, "destroy", path))[0] == 0
    assert [name for name in tree(tiny.home) if name.startswith("vms/")] == []
    tally(ROW, tried=1, residue=0, lost=0)
