"""banger.cli.compose: which lock is for what of the host is the same for every home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.cli import compose
from banger.core.home import Home
from banger.core.locks import locked
from banger.errors import Busy


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Home]:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(compose, "_OF_HOST", tmp_path / "run" / "banger")
    return [Home(tmp_path / "a"), Home(tmp_path / "b")]


def test_network_is_locked_for_all_homes_of_the_host(
    homes: list[Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for home in homes:
        with compose._shared(home, "network"):
            (lock,) = (tmp_path / "run" / "banger").iterdir()
            with pytest.raises(Busy), locked(lock, wait=False):
                pass
            assert lock.parent.stat().st_mode & 0o777 == 0o700
        assert not lock.exists()


def test_who_is_not_root_has_the_locks_of_the_home(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for home in homes:
        with compose._shared(home, "base-x"), pytest.raises(Busy), locked(home.lock("base-x"), wait=False):
            pass
