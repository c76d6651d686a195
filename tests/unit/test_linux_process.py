"""banger.linux.process: what only the kernel can show."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger.errors import Busy, CommandError
from banger.host import ProcessIdentity
from banger.linux import console_relay
from banger.linux import process as module
from banger.linux.process import LinuxProcesses
from tests.processes import waiting

PROCESSES = LinuxProcesses()
WAIT = "import signal; signal.pause()"
Start = Callable[..., ProcessIdentity]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python programs, and ends them after the test."""
    started: list[ProcessIdentity] = []

    def run(program: str, *arguments: str) -> ProcessIdentity:
        argv = [sys.executable, "-S", "-c", program, *arguments]
        started.append(PROCESSES.start(argv, log=tmp_path / "log", cwd=tmp_path))
        return started[-1]

    yield run
    for process in started:
        PROCESSES.kill(process)


def test_start_appends_both_streams_to_the_log_and_has_no_input(start: Start, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    program = "import sys, os; print(repr(sys.stdin.read()), os.getcwd(), flush=True); print('err', file=sys.stderr)"
    assert PROCESSES.wait(start(program), 10)
    assert (tmp_path / "log").read_text() == f"before\n'' {tmp_path}\nerr\n"


def test_start_gives_it_a_session_of_its_own_and_no_descriptors(start: Start, tmp_path: Path) -> None:
    descriptor = os.open("/", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        program = "import os; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd'))[:3], flush=True)"
        program += f"; print(os.path.exists('/proc/self/fd/{descriptor}'))"
        assert PROCESSES.wait(start(program), 10)
    finally:
        os.close(descriptor)
    assert (tmp_path / "log").read_text() == "True ['0', '1', '2']\nFalse\n"


def test_start_outlives_the_program_that_started_it(tmp_path: Path) -> None:
    marker = f"marker-{uuid.uuid4()}"
    program = (
        "from pathlib import Path; from banger.linux.process import LinuxProcesses; import sys, os, signal\n"
        f"argv = [sys.executable, '-S', '-c', {WAIT!r}, {'path=' + marker!r}]\n"
        f"LinuxProcesses().start(argv, log=Path({str(tmp_path / 'log')!r}), cwd=Path('/'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-"], input=program.encode(), check=False, timeout=30)
    assert done.returncode == -9
    survivor = PROCESSES.find(marker)
    assert survivor is not None
    PROCESSES.kill(survivor)
    assert PROCESSES.find(marker) is None


def test_start_what_cannot_be_executed_is_a_command_error(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(CommandError, match="could not be started"):
        PROCESSES.start([str(tmp_path / "broken")], log=tmp_path / "log", cwd=tmp_path)


def test_a_zombie_is_dead(start: Start) -> None:
    marker = f"marker-{uuid.uuid4()}"
    process = start("", f"path={marker}")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended and nobody has collected it
    assert module._stat(process.pid) == ("Z", process.start_time)
    assert PROCESSES.find(marker, process) is None
    assert PROCESSES.wait(process, 0)
    assert module._stat(process.pid) is None, "our own child is collected"


def test_wait_for_the_living_ends_with_the_time(start: Start) -> None:
    process = start(WAIT)
    assert not PROCESSES.wait(process, 0.01)


def test_start_time_is_read_behind_the_last_parenthesis(start: Start, tmp_path: Path) -> None:
    name = "x) R 1 (y"
    program = f"open('/proc/self/comm', 'w').write({name!r}); print('ready', flush=True); {WAIT}"
    process = start(program)
    with (tmp_path / "log").open() as log:
        while not log.read():
            os.sched_yield()
    assert name.encode() in Path(f"/proc/{process.pid}/stat").read_bytes()
    assert module._start_time(process.pid) == process.start_time
    PROCESSES.kill(process)


def test_find_of_several_is_the_first_started(start: Start) -> None:
    marker = f"marker-{uuid.uuid4()}"
    first = start(WAIT, f"a,path={marker}")
    second = start(WAIT, f"unix:{marker},server")
    assert PROCESSES.find(marker) == min(first, second, key=lambda process: (process.start_time, process.pid))
    assert PROCESSES.find(marker, second) == second


def test_find_is_never_ourselves() -> None:
    argument = Path(f"/proc/{os.getpid()}/cmdline").read_bytes().split(b"\0")[0].decode()
    found = PROCESSES.find(argument)
    assert found is None or found.pid != os.getpid()


def test_find_an_argument_does_not_span_two(start: Start) -> None:
    marker = f"marker-{uuid.uuid4()}"
    start(WAIT, f"path={marker}", "next")
    assert PROCESSES.find(f"{marker}\0next") is None


def test_find_after_refresh_is_no_older_than_that(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCAN_S", 3600.0)
    marker, others = f"marker-{uuid.uuid4()}", LinuxProcesses()
    assert others.find(marker) is None
    process = start(WAIT, f"path={marker}")
    assert others.find(marker) is None, "many are looked for in one scan"
    others.refresh()
    assert others.find(marker) == process


def test_kill_that_does_not_help_is_busy(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(WAIT)
    monkeypatch.setattr(module, "_ended", lambda descriptor, timeout_s: False)
    with pytest.raises(Busy, match="SIGKILL"):
        PROCESSES.kill(process)
    monkeypatch.undo()


def test_kill_a_process_that_was_never_there_is_success() -> None:
    PROCESSES.kill(ProcessIdentity(2**22 - 1, 1))


@pytest.mark.parametrize(
    ("users", "ours"),
    [
        ((0, 0), True),
        ((1000, 1000), True),
        ((0, 1000), True),
        ((7000, 7000), True),
        ((1001, 1001), False),
        ((1001, 0), False),
        ((1001, 1000), False),
        ((7001, 7001), False),
        ((), False),  # it is gone
    ],
)
def test_vmm_is_of_us_of_root_or_of_its_jails_user(users: tuple[int, ...], ours: bool) -> None:
    assert module.is_of_us(users, 1000, 7000) is ours
    assert module.is_of_us(users, 1000) is (ours and 7000 not in users)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to start a process as another user")
def test_vmm_of_another_user_is_one_only_in_a_directory_of_theirs(tmp_path: Path) -> None:
    """Root looks after the VMs of a user too, with their own home."""
    socket = tmp_path / "vm" / "api.sock"
    socket.parent.mkdir()
    argv = ["sh", "-c", "read word", "sh", "--api-sock", str(socket)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, user=65534) as process:
        assert PROCESSES.find(str(socket)) is None
        assert PROCESSES.listening_below(tmp_path) == {}
        os.chown(socket.parent, 65534, 65534)
        found = PROCESSES.find(str(socket))
        assert found and found.pid == process.pid
        assert PROCESSES.listening_below(tmp_path) == {socket: found}


def test_relay_of_another_user_keeps_no_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = tmp_path / "console.log"
    monkeypatch.setattr(module, "_users", lambda pid: (1001, 1001))
    with waiting(console_relay.__file__, str(console)):
        assert PROCESSES.console_ended(console, 0.0)
    monkeypatch.undo()
    with waiting(console_relay.__file__, str(console)):
        assert not PROCESSES.console_ended(console, 0.0)


@pytest.mark.parametrize(
    ("arguments", "mine"),
    [
        (["qemu", "-chardev", "socket,id=q,server=on,path=/a/api.sock"], True),
        (["qemu", "-chardev", "socket,path=/a/api.sock,server=on"], True),
        (["qemu", "-qmp", "unix:/a/api.sock,server=on"], True),
        (["firecracker", "--api-sock", "/a/api.sock"], True),
        (["nc", "-U", "/a/api.sock"], False),
        (["socat", "-", "UNIX-CONNECT:/a/api.sock"], False),
        (["tail", "/a/api.sock.log"], False),
        (["qemu", "-chardev", "socket,path=/a/api.sock.old"], False),
        (["firecracker", "--api-sock", "/b/a/api.sock"], False),
    ],
)
def test_owns_is_the_vmm_and_nobody_who_talks_to_it(arguments: list[str], mine: bool) -> None:  # seed S4
    assert module.owns([argument.encode() for argument in arguments], b"/a/api.sock") is mine
