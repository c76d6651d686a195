"""Processes, real and simulated."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from banger.errors import HostError
from banger.host import STARTED_AGAIN, Host, ProcessIdentity
from banger.testing import SimulatedHost
from banger.types import jail_uid
from tests.capabilities import require


@pytest.fixture
def marker() -> str:
    return f"/tmp/{uuid.uuid4()}.sock"


@pytest.fixture
def started(host: Host, tmp_path: Path, marker: str) -> Iterator[ProcessIdentity]:
    """A process that waits, with the marker as part of an argument."""
    argv = [sys.executable, "-S", "-c", "import signal; signal.pause()", f"unix:{marker}"]
    process = host.processes.start(argv, log=tmp_path / "log", cwd=tmp_path)
    yield process
    host.processes.kill(process)


def test_find_by_part_of_an_argument(host: Host, started: ProcessIdentity, marker: str) -> None:
    assert host.processes.find(marker) == started
    assert host.processes.find(marker, started) == started
    assert host.processes.find(marker + "x") is None


def test_find_is_not_who_only_talks_to_it(host: Host, tmp_path: Path, marker: str) -> None:
    argv = [sys.executable, "-S", "-c", "import signal; signal.pause()", f"UNIX-CONNECT:{marker}", f"{marker}.log"]
    process = host.processes.start(argv, log=tmp_path / "log", cwd=tmp_path)
    try:
        assert host.processes.find(marker) is None
        assert host.processes.find(marker, process) is None
    finally:
        host.processes.kill(process)


def test_find_a_wrong_hint_is_overruled(host: Host, started: ProcessIdentity, marker: str) -> None:
    for hint in (
        ProcessIdentity(started.pid, started.start_time + 1),
        ProcessIdentity(started.pid + 1, started.start_time),
        ProcessIdentity(1, 0),
    ):
        assert host.processes.find(marker, hint) == started
    assert host.processes.find("/no/such/thing.sock", started) is None


OTHERS = {"plain": 65534, "jail": jail_uid("a1"), "another jail": jail_uid("a2")}
RUN_AS = "import os, signal, sys; os.setresuid(*map(int, sys.argv[1:4])); print(flush=True); signal.pause()"


@contextmanager
def posing(host: Host, socket: Path, users: Sequence[int]) -> Iterator[ProcessIdentity]:
    """A process that has this socket in its command line; its real, effective and saved user ids are these."""
    if isinstance(host, SimulatedHost):
        yield host.processes.add(["firecracker", "--api-sock", str(socket)], uid=max(users)).identity
        return
    require(None if os.geteuid() == 0 else "needs root, to be another user")
    program = [sys.executable, "-S", "-c", RUN_AS, *map(str, users), "--api-sock", str(socket)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        host.processes.refresh()
        start_time = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        try:
            yield ProcessIdentity(process.pid, start_time)
        finally:
            process.kill()


@pytest.mark.parametrize("who", OTHERS)
def test_find_is_a_vmm_of_ours_or_of_this_vms_jail_and_of_no_other_user(host: Host, tmp_path: Path, who: str) -> None:
    socket, expected = tmp_path / "a1" / "api.sock", who == "jail"
    with posing(host, socket, [OTHERS[who]] * 3) as process:
        assert (host.processes.find(str(socket)) == process) is expected
        assert (host.processes.find(str(socket), process) == process) is expected
        assert host.processes.listening_below(tmp_path) == ({socket: process} if expected else {})


def test_find_is_not_a_program_that_another_user_runs_with_the_rights_of_root(host: Host, tmp_path: Path) -> None:
    """As su(1) is: its words are theirs."""
    socket = tmp_path / "a1" / "api.sock"
    with posing(host, socket, [OTHERS["plain"], 0, 0]) as process:
        assert host.processes.find(str(socket), process) is None
        assert host.processes.listening_below(tmp_path) == {}


def test_kill_a_process_is_gone_for_find_and_wait(host: Host, started: ProcessIdentity, marker: str) -> None:
    assert not host.processes.wait(started, 0)
    host.processes.kill(started)
    assert host.processes.wait(started, 0)
    assert host.processes.find(marker, started) is None
    host.processes.kill(started)


def test_kill_another_process_of_the_same_pid_is_not_touched(host: Host, started: ProcessIdentity, marker: str) -> None:
    host.processes.kill(ProcessIdentity(started.pid, started.start_time - 1))
    assert host.processes.find(marker) == started
    assert host.processes.wait(ProcessIdentity(started.pid, started.start_time - 1), 0)


def test_start_a_missing_program_is_a_host_error(host: Host, tmp_path: Path) -> None:
    if hasattr(host.tools, "missing"):
        host.tools.missing.add("no-such-program")
    with pytest.raises(HostError, match="not installed"):
        host.processes.start(["no-such-program"], log=tmp_path / "log", cwd=tmp_path)


def test_start_makes_its_log(host: Host, started: ProcessIdentity, tmp_path: Path) -> None:
    assert host.files.status(tmp_path / "log") is not None


def test_start_sets_what_is_said_from_now_on_apart_from_earlier_starts(host: Host, tmp_path: Path) -> None:
    argv = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    log, console = tmp_path / "log", tmp_path / "console"
    for expected in (b"", f"said\n{STARTED_AGAIN}\n".encode()):
        process = host.processes.start(argv, log=log, cwd=tmp_path, console=console)
        host.processes.kill(process)
        assert host.processes.console_ended(console, 30)
        for output in (log, console):
            assert host.files.read(output) == expected
            host.files.write(output, b"said\n")


def test_listening_below_a_directory_finds_each_by_its_socket(host: Host, tmp_path: Path) -> None:
    sockets = [tmp_path / "vms" / name / "api.sock" for name in ("a", "b")]
    words = [["--api-sock", str(sockets[0])], [f"socket,id=qmp,path={sockets[1]},server=on"], [f"{sockets[0]}.log"]]
    argv = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    for socket in sockets:
        host.files.make_directory(socket.parent)
    started = [host.processes.start([*argv, *each], log=tmp_path / "log", cwd=tmp_path) for each in words]
    try:
        assert host.processes.listening_below(tmp_path / "vms") == dict(zip(sockets, started, strict=False))
        assert host.processes.listening_below(tmp_path / "vm") == {}
        assert host.processes.listening_below(sockets[0].parent) == {sockets[0]: started[0]}
    finally:
        for process in started:
            host.processes.kill(process)
    host.processes.refresh()
    assert host.processes.listening_below(tmp_path / "vms") == {}
