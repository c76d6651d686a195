"""A guard around every test: none may leave a child process, or a temporary file, behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for temporary files that no other program uses, for us and for what we start."""
    directory = tmp_path_factory.mktemp("t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))
        patch.setattr(tempfile, "tempdir", str(directory))
        yield directory


@pytest.fixture(autouse=True)
def nothing_is_left_behind(temporary_files: Path) -> Iterator[None]:
    children, files = _children(), set(temporary_files.iterdir())
    yield
    left = sorted(_children() - children)
    assert not left, f"the test left processes behind: {[_command_line(pid) for pid in left]}"
    left_files = sorted(set(temporary_files.iterdir()) - files)
    assert not left_files, f"the test left files behind: {left_files}"


def _children() -> set[int]:
    """Our live child processes, whichever thread started them (proc(5), children)."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for task in tasks.iterdir() for pid in _words(task / "children") if _command_line(int(pid))}


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _command_line(pid: int) -> str:
    """Empty for a zombie."""
    return " ".join(_words(Path(f"/proc/{pid}/cmdline"))).replace("\0", " ")
