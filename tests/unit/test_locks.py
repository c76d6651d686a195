"""Locks: one holder, who is named, and whose file may go while others wait for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Event, Thread

import pytest

from banger.core.locks import discard, locked
from banger.errors import Busy, StateError


def test_locked_without_waiting_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "vm-web.lock"
    with locked(path, purpose="banger apply a.yml"), pytest.raises(Busy) as error, locked(path, wait=False):
        pass
    assert error.value.message == f"vm-web is locked by pid {os.getpid()} banger apply a.yml"


def test_locked_again_after_its_end(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "a.lock", wait=False):
            pass


def test_locked_where_nothing_can_be_made_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot take the lock"), locked(tmp_path / "file" / "a.lock"):
        pass


def test_locked_on_a_full_disk_is_held_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    path = tmp_path / "a.lock"
    with locked(path), pytest.raises(Busy, match="another process"), locked(path, wait=False):
        pass


def test_discarded_lock_is_held_by_one_of_those_who_waited(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holds, done = Event(), Event()

    def wait_for_it() -> None:
        with locked(path):
            holds.set()
            done.wait(10)

    waiter = Thread(target=wait_for_it)
    with locked(path):
        waiter.start()
        while not _waits_for(path):
            os.sched_yield()
        discard(path)
    assert holds.wait(10)
    with pytest.raises(Busy), locked(path, wait=False):
        pass
    done.set()
    waiter.join()


def _waits_for(path: Path) -> bool:
    """proc(5), locks: whoever is blocked has `->` before the lock's type, and the file's inode behind it."""
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())
