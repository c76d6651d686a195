"""What went on inside comes out as ordinary results; the lab is a second pytest here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.lab.build import ROOT
from tests.tally import added_up

_OUTER = """
import contextlib, json, subprocess, sys, time
from pathlib import Path
import pytest
from tests.lab.replay import Replay

project, silence_s, still_s = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
arguments, reports, console = (project.parent / name for name in ("arguments.json", "reports", "console"))

class Lab:
    def __init__(self, process):
        self.process, self.read = process, 0
    def ended(self, timeout_s):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
            return True
        return False
    def kill(self):
        self.process.kill()
        self.process.wait()
    def lines(self):
        found = reports.read_bytes()[self.read:].splitlines(keepends=True)
        self.read += sum(map(len, found))
        return found
    def console_tail(self):
        return console.read_text()

@contextlib.contextmanager
def start(given):
    arguments.write_text(json.dumps(["--rootdir", str(project), "-p", "no:cacheprovider", *given]))
    reports.write_bytes(b"")
    command = [sys.executable, "-m", "tests.lab.job", str(arguments), str(reports)]
    inside = {"stdout": console.open("wb"), "stderr": subprocess.STDOUT, "cwd": project}
    with inside["stdout"], subprocess.Popen(command, **inside) as process:
        yield Lab(process)
        process.wait(30)

options = ["--rootdir", str(project), "-p", "no:cacheprovider", "--color=no", "-rs"]
options += [f"--junitxml={project.parent / 'results.xml'}"]
replay = Replay(project / "inside", start, silence_s, still_s=still_s)
sys.exit(pytest.main([*options, *sys.argv[4:], str(project)], plugins=[replay]))
"""
_CONFTEST = """
import os, pytest
@pytest.fixture(scope="session")
def outside():
    yield os.getpid()
"""
_INSIDE = """
import os
import pytest

def test_passes(): print("said inside")
@pytest.mark.parametrize("n", [1, 2])
def test_each(n): assert n == 1
@pytest.fixture
def broken(): raise OSError("the fixture")
def test_error(broken): pass
def test_skipped(): pytest.skip("for this reason")
@pytest.mark.xfail
def test_expected_failure(): assert False
def test_of_the_inside(outside): assert outside == os.getpid()
@pytest.fixture
def ends_badly():
    yield
    raise OSError("the teardown")
def test_teardown(ends_badly): pass
def test_dies():
    os._exit(3)
def test_never_reached(): pass
"""


_NOT_THEIRS = ("FORCE_COLOR", "PYTEST_ADDOPTS", "PY_COLORS")


def _run(
    tmp_path: Path, inside: str, *options: str, silence_s: float = 60.0, still_s: float = 60.0
) -> tuple[dict[str, str], str]:
    """Each test's outcome and what was said of it, and all that the outer pytest printed.

    What they have counted goes to the file `tally`.
    """
    project = tmp_path / "project"
    (project / "inside").mkdir(parents=True)
    (project / "conftest.py").write_text(_CONFTEST)
    (project / "inside/test_it.py").write_text(inside)
    (project / "pytest.ini").write_text("[pytest]\nmarkers =\n    lab\n    slow\n")
    for place, name in (("a", "before"), ("z", "after")):
        (project / place).mkdir()
        (project / place / f"test_{name}.py").write_text(f"def test_{name}(outside): pass\n")
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_THEIRS}
    done = subprocess.run(
        [sys.executable, "-c", _OUTER, str(project), str(silence_s), str(still_s), *options],
        env={**environment, "PYTHONPATH": str(ROOT), "BANGER_TEST_TALLY": str(tmp_path / "tally")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    document = ElementTree.parse(tmp_path / "results.xml")
    return {case.attrib["name"]: _told(case) for case in document.iter("testcase")}, done.stdout + done.stderr


def _told(case: ElementTree.Element) -> str:
    """`passed`, or what went wrong and its text."""
    for child in case:
        if child.tag in ("failure", "error", "skipped"):
            return f"{child.tag}: {child.attrib['message']} {child.text}"
    return "passed"


def test_outcomes_are_those_of_the_inside(tmp_path: Path) -> None:
    outcomes, said = _run(tmp_path, _INSIDE)
    passed = {name for name, told in outcomes.items() if told == "passed"}
    assert passed == {"test_before", "test_passes", "test_each[1]", "test_of_the_inside", "test_after"}
    assert "assert 2 == 1" in outcomes["test_each[2]"]
    assert "failed on setup" in outcomes["test_error"]
    assert "OSError: the fixture" in outcomes["test_error"]
    assert "failed on teardown" in outcomes["test_teardown"]
    assert outcomes["test_skipped"].startswith("skipped: for this reason")
    assert outcomes["test_expected_failure"].startswith("skipped: ")
    assert "for this reason" in said, "a skip's place has come out whole, for the summary to fold"
    # It died then, which fails what it did not get to.
    assert "the lab ended before this" in outcomes["test_dies"]
    assert "inside/test_it.py ..FEsx" in outcomes["test_dies"], "its console's end"
    assert "the lab is gone" in outcomes["test_never_reached"]


_CRASHES = """
import os
from pathlib import Path
from tests.tally import tally
LOG = Path(__file__).with_name("log")
def begun(name):
    with LOG.open("a") as log:
        log.write(name + " ")
    return LOG.read_text().count(name)
def test_first():
    begun("first")
    tally("first", tried=1, lost=0)
def test_crashes():
    tally("crashes", tried=1)
    tally("crashes", lost=0)
    if begun("crashes") <= TIMES:
        HOW
def test_last():
    begun("last")
"""


_CRASHES_HOW = {
    "it ends": "os._exit(3)",
    "it stands still": "import signal; os.kill(os.getpid(), signal.SIGSTOP)",
}
_STILL_S = {"it ends": 60.0, "it stands still": 20.0}
"""Many times what is between two signs of life; it is waited for where the machine stands still."""


def _crashes(how: str, times: int) -> str:
    return _CRASHES.replace("HOW", _CRASHES_HOW[how]).replace("TIMES", str(times))


@pytest.mark.parametrize("how", ["it ends", pytest.param("it stands still", marks=pytest.mark.slow)])
def test_machine_that_crashes_is_begun_again_from_the_first_of_the_file(tmp_path: Path, how: str) -> None:
    outcomes, said = _run(tmp_path, _crashes(how, 2), still_s=_STILL_S[how])
    assert set(outcomes.values()) == {"passed"}, said
    assert len(outcomes) == 5
    assert (tmp_path / "project/inside/log").read_text() == "first crashes first crashes first crashes last "
    once = {"tried": 1, "lost": 0}
    assert added_up((tmp_path / "tally").read_text().splitlines()) == {"first": once, "crashes": once}


def test_machine_that_crashes_time_and_again_is_a_failure(tmp_path: Path) -> None:
    outcomes, _ = _run(tmp_path, _crashes("it ends", 3))
    assert "the lab ended before this" in outcomes["test_crashes"]
    assert "the lab is gone" in outcomes["test_last"]


def test_items_are_marked_before_they_are_selected(tmp_path: Path) -> None:
    outcomes, _ = _run(tmp_path, _INSIDE, "-m", "not slow")
    assert set(outcomes) == {"test_before", "test_after"}


@pytest.mark.slow
def test_test_that_stands_still_in_a_living_machine_is_a_failure(tmp_path: Path) -> None:
    inside = "import time\ndef test_stands_still(): time.sleep(50)\n"
    outcomes, _ = _run(tmp_path, inside, silence_s=6.0)
    assert "nothing came of this for 6 s" in outcomes["test_stands_still"]
    assert outcomes["test_after"] == "passed"


@pytest.mark.slow
def test_first_failure_ends_the_lab(tmp_path: Path) -> None:
    inside = "import time\ndef test_fails(): assert False\ndef test_long(): time.sleep(50)\n"
    outcomes, _ = _run(tmp_path, inside, "-x")
    assert set(outcomes) == {"test_before", "test_fails"}
