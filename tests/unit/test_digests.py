"""Digests that are remembered are those of what the files hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from banger.core.digests import Digests
from banger.core.home import Home

LONG_AGO_NS = 10**18


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything was written long ago."""
    monkeypatch.setattr("time.time_ns", lambda: LONG_AGO_NS * 10)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One for each file that was read whole."""
    told: list[object] = []
    digest = hashlib.file_digest

    def watched(stream: Any, name: str) -> object:
        told.append(stream)
        return digest(stream, name)

    monkeypatch.setattr("hashlib.file_digest", watched)
    return told


def asked(home: Home, path: Path) -> str:
    """By a run of its own."""
    digests = Digests(home)
    answer = digests.of(path)
    digests.save()
    return answer


@pytest.mark.usefixtures("settled")
def test_file_that_is_the_same_is_read_once(home: Home, tmp_path: Path, reads: list[object]) -> None:
    path = tmp_path / "root.img"
    path.write_bytes(b"one")
    answers = {asked(home, path) for _ in range(3)}
    assert answers == {hashlib.sha256(b"one").hexdigest()}
    assert len(reads) == 1
    before = (home.cache / "digests.json").stat()
    asked(home, path)
    assert (home.cache / "digests.json").stat() == before, "nothing is written for what is remembered"


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("times", [True, False])
def test_file_that_changed_is_read_again(home: Home, tmp_path: Path, times: bool) -> None:
    path = tmp_path / "root.img"
    path.write_bytes(b"one")
    asked(home, path)
    was = path.stat()
    path.write_bytes(b"two")
    if times:  # of the same length, and dated back: only its ctime tells
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert asked(home, path) == hashlib.sha256(b"two").hexdigest()


def test_file_that_was_changed_just_now_is_not_remembered(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "root.img"
    path.write_bytes(b"one")
    asked(home, path)
    assert not (home.cache / "digests.json").exists()


@pytest.mark.usefixtures("settled")
def test_memory_that_cannot_be_written_is_done_without(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "root.img"
    path.write_bytes(b"one")
    home.cache.parent.mkdir(parents=True)
    home.cache.write_bytes(b"a file in its place")
    assert asked(home, path) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("spoilt", [b"", b"[]", b"\xff", b'{"PATH": 1}', b'{"PATH": []}', b'{"PATH": ["x"]}'])
def test_spoilt_memory_is_none(home: Home, tmp_path: Path, spoilt: bytes) -> None:
    path = tmp_path / "root.img"
    path.write_bytes(b"one")
    home.cache.mkdir(parents=True)
    (home.cache / "digests.json").write_bytes(spoilt.replace(b"PATH", str(path).encode()))
    assert asked(home, path) == hashlib.sha256(b"one").hexdigest()
