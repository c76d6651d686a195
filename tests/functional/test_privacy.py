"""What banger keeps is its user's alone, whatever umask it was started with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.forked import banger
from tests.functional.tiny import Tiny

pytestmark = pytest.mark.beside

OPEN_TO_READ = (".pub", "vmlinuz", "initrd.img", "facts.json")
"""Public halves of keys, and what images are made of; they lie in directories that nobody else may enter."""


def modes(directory: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mode for path in (directory, *directory.rglob("*"))}


@pytest.mark.parametrize(
    "umask", [0o000, pytest.param(0o022, marks=pytest.mark.slow), pytest.param(0o077, marks=pytest.mark.slow)]
)
def test_home_is_private_whatever_the_umask(umask: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = Tiny.make(tmp_path_factory.mktemp("b"))
    home = tiny.directory / "new" / "er" / "home"
    for arguments in (("apply", tiny.playbook), ("vm", "stop", "web"), ("apply", tiny.playbook)):
        done = banger(home, *arguments, before=lambda: os.umask(umask))
        assert done.code == 0, done.said
    for path, mode in modes(tiny.directory / "new").items():
        if stat.S_ISDIR(mode):
            assert stat.S_IMODE(mode) == 0o700, path
        elif path.endswith(OPEN_TO_READ):
            assert not mode & 0o022, path
        else:
            assert not mode & 0o077, path
