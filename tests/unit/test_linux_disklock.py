"""banger.linux.disklock: a disk stays held by the programs of a command that was killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from banger.errors import Busy
from banger.host import Node
from banger.linux.disklock import held
from banger.linux.ext4 import LinuxExt4
from banger.linux.run import require, run
from banger.types import GuestFile

EXT4 = LinuxExt4()
MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    EXT4.make(tmp_path / "disk", 16 * MIB, [Node("/f", "file", content=b"f")])
    return tmp_path / "disk"


@pytest.fixture
def waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that resize2fs(8) waits for from now on; there is `begun` beside it when it does."""
    go, begun = tmp_path / "go", tmp_path / "begun"
    program = tmp_path / "bin" / "resize2fs"
    program.parent.mkdir()
    wait = f"touch {begun}; n=0; while [ ! -e {go} ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done"
    program.write_text(f'#!/bin/sh\n{wait}\nexec {require("resize2fs")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return go


def killed_while_it_grows(disk: Path, begun: Path) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            EXT4.grow(disk, 64 * MIB)
        finally:
            os._exit(1)
    while not begun.exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_program_of_a_killed_command_holds_the_disk_until_it_ends(disk: Path, waits_for: Path) -> None:
    killed_while_it_grows(disk, waits_for.with_name("begun"))
    with pytest.raises(Busy, match="an earlier command started"), held(disk, patience_s=0.1):
        pass
    waits_for.touch()
    EXT4.patch(disk, [GuestFile("/f", b"of the next command")])
    found = EXT4.read(disk, ["/f"])["/f"]
    assert found and found.content == b"of the next command"
    assert disk.stat().st_size == 64 * MIB
    run(["e2fsck", "-fn", disk], timeout_s=60)


def test_disk_is_free_again_whatever_became_of_the_change(disk: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(disk):
        1 / 0  # noqa: B018
    with held(disk, patience_s=0):
        pass


def test_two_disks_may_be_held_at_once_and_both_by_what_is_run(disk: Path, tmp_path: Path) -> None:
    EXT4.make(tmp_path / "other", 16 * MIB)
    with held(disk), held(tmp_path / "other"):
        inherited = run(["ls", "-l", "/proc/self/fd"], timeout_s=10).output
    assert {str(disk), str(tmp_path / "other")} <= set(inherited.split())
    assert str(disk) not in run(["ls", "-l", "/proc/self/fd"], timeout_s=10).output
