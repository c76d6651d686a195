"""A guard around every test: none may leave a child process, or a file in the temporary directory, behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_OURS = ("banger-", ".banger-")


def pytest_configure(config: pytest.Config) -> None:
    """A temporary directory of this process's own, so that test runs side by side do not see each other's files."""
    directory = tempfile.mkdtemp(prefix="bt")
    os.environ["TMPDIR"] = tempfile.tempdir = directory
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    children, files = _children(), _temporary_files()
    yield
    left = sorted(_children() - children)
    assert not left, f"the test left processes behind: {[_command_line(pid) for pid in left]}"
    left_files = sorted(_temporary_files() - files)
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


def _temporary_files() -> set[str]:
    return {entry.name for entry in Path(tempfile.gettempdir()).iterdir() if entry.name.startswith(_OURS)}
