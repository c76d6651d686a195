"""banger.linux.console: what a program says without end is kept within bounds, and its relay ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger.errors import HostError
from banger.host import STARTED_AGAIN, ProcessIdentity
from banger.linux import console as module
from banger.linux import console_relay
from banger.linux import process as process_module
from banger.linux.process import LinuxProcesses

PROCESSES = LinuxProcesses()
MOST = 4096
Start = Callable[..., ProcessIdentity]
WAIT = "import signal; signal.pause()"


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONSOLE_BYTES", MOST)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python programs with a console, and ends them after the test."""
    started: list[ProcessIdentity] = []

    def run(program: str, *arguments: str | Path, pipes: dict[Path, Path] | None = None) -> ProcessIdentity:
        argv = [sys.executable, "-S", "-c", program, *map(str, arguments)]
        console = tmp_path / "console"
        process = PROCESSES.start(argv, log=tmp_path / "log", cwd=tmp_path, console=console, pipes=pipes)
        started.append(process)
        return process

    yield run
    for process in started:
        PROCESSES.kill(process)
    assert PROCESSES.console_ended(tmp_path / "console", 10)


def relays(console: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if module.is_relay(words, console):
            found.append(int(path.parent.name))
    return found


def ended(process: ProcessIdentity, console: Path) -> None:
    assert PROCESSES.wait(process, 30)
    assert PROCESSES.console_ended(console, 30)
    assert relays(console) == []


def test_console_has_stdout_and_the_log_has_stderr(start: Start, tmp_path: Path) -> None:
    program = "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); print('end', end='')"
    ended(start(program), tmp_path / "console")
    assert (tmp_path / "console").read_text() == "out\nend"
    assert (tmp_path / "log").read_text() == "err\n"
    assert (tmp_path / "console").stat().st_mode & 0o777 == 0o600


def test_console_of_the_next_start_comes_after_that_of_the_last(start: Start, tmp_path: Path) -> None:
    program = "import sys; print(sys.argv[1]); print(sys.argv[1].upper(), end='', file=sys.stderr)"
    for word in ("one", "two"):
        ended(start(program, word), tmp_path / "console")
    assert (tmp_path / "console").read_text() == f"one\n{STARTED_AGAIN}\ntwo\n"
    assert (tmp_path / "log").read_text() == f"ONE\n{STARTED_AGAIN}\nTWO"


def test_start_that_says_nothing_is_marked_once(start: Start, tmp_path: Path) -> None:
    ended(start("print('one')"), tmp_path / "console")
    for _ in range(3):
        ended(start(""), tmp_path / "console")
    assert (tmp_path / "console").read_text() == f"one\n{STARTED_AGAIN}\n"


def test_console_that_is_full_is_marked_within_its_bound(start: Start, tmp_path: Path) -> None:
    for size in (MOST - 1, MOST):
        (tmp_path / "console").write_bytes(b"x\n" * (size // 2) + b"x" * (size % 2))
        ended(start("print('new')"), tmp_path / "console")
        kept = (tmp_path / "console").read_text()
        assert kept.endswith(f"x\n{STARTED_AGAIN}\nnew\n") and len(kept) <= MOST


def test_console_keeps_the_newest_whole_lines_and_no_more_than_its_bound(start: Start, tmp_path: Path) -> None:
    ended(start("for number in range(5000): print(f'line {number}', flush=True)"), tmp_path / "console")
    lines = (tmp_path / "console").read_text().splitlines()
    assert MOST // 2 <= (tmp_path / "console").stat().st_size <= MOST
    assert lines == [f"line {number}" for number in range(5000 - len(lines), 5000)]


@pytest.mark.parametrize("size", [MOST, 3 * MOST, 40 * MOST])
def test_console_of_one_endless_line_is_its_end(start: Start, tmp_path: Path, size: int) -> None:
    ended(start(f"print('x' * ({size} - 3) + 'end', end='')"), tmp_path / "console")
    kept = (tmp_path / "console").read_bytes()
    assert kept.endswith(b"xend") and MOST // 2 <= len(kept) <= MOST


def test_pipes_are_made_and_kept_within_bounds_each_in_its_file(start: Start, tmp_path: Path) -> None:
    pipes = {tmp_path / name: tmp_path / f"{name}.kept" for name in ("a", "b")}
    (tmp_path / "a").write_text("something in the way")
    program = (
        "import os, sys\n"
        "a, b = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in sys.argv[1:])\n"
        "for number in range(2000):\n"
        "    while True:\n"
        "        try: os.write(a, b'%d\\n' % number); break\n"
        "        except BlockingIOError: pass\n"
        "os.write(b, b'few words\\n')\n"
    )
    ended(start(program, *pipes, pipes=pipes), tmp_path / "console")
    assert (tmp_path / "b.kept").read_text() == "few words\n"
    assert (tmp_path / "a.kept").read_text().endswith("\n1998\n1999\n")
    assert (tmp_path / "a.kept").stat().st_size <= MOST
    assert (tmp_path / "a").is_fifo()


def test_pipe_that_nobody_reads_any_more_ends_no_program(start: Start, tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "pipe = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)\n"
        "while True:\n"
        "    try: os.write(pipe, b'x' * 4096)\n"
        "    except BlockingIOError: print('full', flush=True); time.sleep(0.01)\n"
    )
    process = start(program, tmp_path / "a", pipes={tmp_path / "a": tmp_path / "kept"})
    (relay,) = relays(tmp_path / "console")
    os.kill(relay, signal.SIGSTOP)
    with (tmp_path / "console").open("rb") as console:
        assert not PROCESSES.wait(process, 0.3)
        os.kill(relay, signal.SIGCONT)
        deadline = time.monotonic() + 30
        while b"full" not in console.read() and time.monotonic() < deadline:
            pass
    assert (tmp_path / "kept").stat().st_size <= MOST


def test_relay_of_a_full_disk_goes_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "console").symlink_to("/dev/full")
    process = start("for number in range(20000): print('x' * 80)")
    ended(process, tmp_path / "console")
    assert not (tmp_path / "log").read_text(), "the program could not write to its stdout"


def test_relay_is_there_while_its_program_is_and_holds_no_terminal(start: Start, tmp_path: Path) -> None:
    process = start(WAIT)
    (relay,) = relays(tmp_path / "console")
    assert not PROCESSES.console_ended(tmp_path / "console", 0)
    assert os.getsid(relay) == relay != os.getsid(process.pid)
    assert Path(f"/proc/{relay}/cwd").readlink() == Path("/")
    os.kill(relay, signal.SIGKILL)
    assert PROCESSES.console_ended(tmp_path / "console", 30)
    assert not PROCESSES.wait(process, 0)


def test_relay_of_a_program_that_cannot_be_started_ends(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF rubbish")
    broken.chmod(0o755)
    with pytest.raises(Exception, match="could not be started"):
        PROCESSES.start([str(broken)], log=tmp_path / "log", cwd=tmp_path, console=tmp_path / "console")
    assert relays(tmp_path / "console") == []
    with pytest.raises(HostError, match="no network namespace"):
        PROCESSES.start(
            [sys.executable], log=tmp_path / "log", cwd=tmp_path, console=tmp_path / "console", netns="no-such"
        )
    assert relays(tmp_path / "console") == []


def test_console_of_a_process_between_fork_and_exec_is_not_ended(tmp_path: Path) -> None:
    """Whoever was to become a VMM holds the console, though its command line tells nothing yet."""
    console = tmp_path / "console"
    with module.relayed(console, {}) as stdout:
        assert not PROCESSES.console_ended(console, 0)
        os.write(stdout, b"said\n")
    assert PROCESSES.console_ended(console, 30)
    assert console.read_text() == "said\n"


def test_console_is_somebodys_from_the_first_moment_of_its_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc has a new command line a moment after execve(2) told of success: here at the fourth look."""
    looks: Counter[int] = Counter()
    read = process_module._command_line

    def late(pid: int) -> bytes:
        looks[pid] += 1
        return read(pid) if looks[pid] > 3 else b""

    monkeypatch.setattr(process_module, "_command_line", late)
    with module.relayed(tmp_path / "console", {}):
        assert not PROCESSES.console_ended(tmp_path / "console", 0)
    monkeypatch.undo()
    assert PROCESSES.console_ended(tmp_path / "console", 30)


def test_console_is_asked_after_however_lately_others_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_SCAN_S", 3600.0)
    processes = LinuxProcesses()
    assert processes.find("/no/such.sock") is None
    with module.relayed(tmp_path / "console", {}):
        assert not processes.console_ended(tmp_path / "console", 0)
    assert processes.console_ended(tmp_path / "console", 30)


def test_relay_takes_what_is_in_all_pipes_before_it_ends_with_the_first(tmp_path: Path) -> None:
    """The end of the first pipe may be seen before what is in the others."""
    (console, out), (log, more) = os.pipe(), os.pipe()
    os.set_blocking(log, False)  # as a named pipe is opened
    os.write(more, b"x" * 60_000)
    os.close(out)
    with (tmp_path / "console").open("wb") as kept, (tmp_path / "log").open("wb") as kept_log:
        pairs = [f"{console}:{kept.fileno()}", f"{log}:{kept_log.fileno()}"]
        subprocess.run(
            [sys.executable, "-I", "-S", console_relay.__file__, str(2**20), "name", *pairs],
            pass_fds=[console, log, kept.fileno(), kept_log.fileno()],
            timeout=30,
            check=True,
        )
    for descriptor in (console, log, more):
        os.close(descriptor)
    assert (tmp_path / "log").read_bytes() == b"x" * 60_000
