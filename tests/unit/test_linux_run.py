"""banger.linux.run: spawning, checking, explaining."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from banger.errors import CommandError, HostError
from banger.linux.run import require, run, which


def test_run_a_program_returns_both_streams() -> None:
    result = run(["sh", "-c", "cat; echo err >&2"], input=b"in\0", timeout_s=10)
    assert (result.stdout, result.stderr, result.returncode) == (b"in\0", b"err\n", 0)


def test_run_without_input_reads_nothing() -> None:
    assert run(["cat"], timeout_s=10).stdout == b""


def test_run_speaks_c_and_adds_to_the_environment() -> None:
    assert run(["sh", "-c", "echo $LC_ALL $X"], timeout_s=10, env={"X": "y"}).stdout == b"C y\n"


def test_run_a_failure_names_command_status_and_the_end_of_what_it_said() -> None:
    script = "for i in 1 2 3; do echo line $i; done; echo because >&2; exit 7"
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", script], timeout_s=10)
    assert shlex.join(["sh", "-c", script]) in caught.value.message
    assert "status 7" in caught.value.message
    assert caught.value.message.endswith("because")


def test_run_accepts_the_statuses_it_is_told() -> None:
    assert run(["sh", "-c", "exit 1"], timeout_s=10, accept=(0, 1)).returncode == 1
    assert run(["sh", "-c", "exit 9"], timeout_s=10, accept=None).returncode == 9


def test_run_too_long_is_killed_and_says_so() -> None:
    with pytest.raises(CommandError, match="did not end within"):
        run(["sleep", "60"], timeout_s=0.05)


def test_run_ended_by_a_signal_says_which() -> None:
    with pytest.raises(CommandError, match="signal 9"):
        run(["sh", "-c", "kill -9 $$"], timeout_s=10)


def test_run_logs_a_command_that_can_be_pasted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="banger.linux.run"):
        run(["echo", "two words", Path("/tmp")], timeout_s=10)
    assert caplog.messages == ["run: echo 'two words' /tmp"]


def test_missing_program_is_a_host_error_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.linux.run._SYSTEM_DIRECTORIES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError) as caught:
        run(["mke2fs", "x"], timeout_s=10)
    assert caught.value.hint == "apt install e2fsprogs"
    with pytest.raises(HostError) as caught:
        require("no-such-program")
    assert "no-such-program" in (caught.value.hint or "")


def test_which_looks_into_system_directories_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.setattr("banger.linux.run._SYSTEM_DIRECTORIES", (str(tmp_path),))
    assert which("tool") == tmp_path / "tool"
    assert which("no-such-program") is None


def test_run_is_not_hit_by_a_ctrl_c_on_the_terminal(tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    program = (
        "import os, signal, threading\n"
        "from banger.linux.run import run\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "threading.Timer(0.3, lambda: os.killpg(0, signal.SIGINT)).start()\n"
        f"run(['sh', '-c', 'sleep 0.8; touch {marker}'], timeout_s=30)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, start_new_session=True, timeout=60)
    assert marker.exists()
