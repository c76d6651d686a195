"""A stdout that cannot be written: told in one line at the end, whatever the command was about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import banger
from tests.functional.tiny import Tiny

FULL = "error: cannot write to stdout: No space left on device\n"


def _full_stdout() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _stdout_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("vm", "list"), ("schema",), ("plugins", "list", "--format", "json")]
)
def test_full_stdout_is_an_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = banger(tmp_path / "home", *arguments, before=_full_stdout)
    assert (done.code, done.stderr) == (1, FULL)


def test_what_was_wrong_already_has_its_own_exit_code(tmp_path: Path) -> None:
    playbook = tmp_path / "bad.yml"
    playbook.write_text("- vmz: []\n")
    done = banger(tmp_path / "home", "apply", playbook, "--format", "json", before=_full_stdout)
    assert done.code == 2
    assert done.stderr.endswith(FULL)


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_process_ends_with_1_and_no_traceback(tmp_path: Path, redirected: str) -> None:
    """Of a whole process: what is still in a buffer would be tried once more when it ends."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m banger vm list {redirected}', sys.executable],
        env={**os.environ, "BANGER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = "" if "2>&-" in redirected else "error: cannot write to stdout: "
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == (1 if told else 0)


def test_work_is_done_though_nobody_reads_of_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = Tiny.make(tmp_path_factory.mktemp("b"))
    done = banger(tiny.home, "apply", tiny.playbook, before=_stdout_that_nobody_reads)
    assert (done.code, done.stderr) == (1, "error: cannot write to stdout: Broken pipe\n")
    rows = json.loads(tiny.run("vm", "list", "--format", "json").stdout)
    assert sorted(row["name"] for row in rows) == ["db", "web"]
    done = tiny.run("apply", tiny.playbook, "--json-into", "/dev/full")
    assert (done.code, done.stderr) == (1, "error: cannot write to /dev/full: No space left on device\n")
    assert "changed=0" in done.stdout, "all was made at once"
    done = banger(tiny.home, "destroy", tiny.playbook, "--format", "json", before=_full_stdout)
    assert (done.code, done.stderr) == (1, FULL)
    assert json.loads(tiny.run("vm", "list", "--format", "json").stdout) == []
