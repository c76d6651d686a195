"""Reading from a program that runs: its output, its lines, its failures, and its end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from banger.errors import CommandError, HostError
from banger.linux.pipe import reading
from banger.linux.unnamed import fill, unnamed_files


def test_reading_gives_output_and_each_line_as_it_comes(tmp_path: Path) -> None:
    lines: list[str] = []
    heard = threading.Event()

    def hear(line: str) -> None:
        lines.append(line)
        heard.set()

    # The program waits until its line was heard: were lines only told at its end, that would never come.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with reading(["sh", "-c", f"echo one >&2; read go <{gate}; echo done"], on_line=hear) as stream:
        assert heard.wait(10)
        gate.write_text("go\n")
        assert stream.read() == b"done\n"
    assert lines == ["one"]


def test_reading_from_a_program_that_reads_a_file_of_ours() -> None:
    with unnamed_files(1) as (file,):
        fill(file, b"ours")
        file.seek(0)
        with reading(["cat"], stdin=file) as stream:
            assert stream.read() == b"ours"


def test_reading_from_a_program_that_fails_says_what_it_said() -> None:
    failing = reading(["sh", "-c", "echo data; echo out of luck >&2; exit 3"])
    with pytest.raises(CommandError, match="status 3:\nout of luck"), failing as stream:
        assert stream.read(4) == b"data"


def test_reading_that_chokes_on_a_failing_program_blames_the_program() -> None:
    failing = reading(["sh", "-c", "echo no space >&2; exit 2"])
    with pytest.raises(CommandError, match="no space") as caught, failing:
        raise ValueError("unexpected end")
    assert isinstance(caught.value.__cause__, ValueError)


def test_reading_that_raises_ends_the_program_and_lets_it_clean_up(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/cleaned; exit 1' TERM; echo ready; while :; do sleep 0.05; done"
    with pytest.raises(KeyError), reading(["sh", "-c", script]) as stream:
        assert stream.readline() == b"ready\n"
        raise KeyError
    assert (tmp_path / "cleaned").exists()


def test_reading_only_the_beginning_is_no_failure_of_the_program() -> None:
    with reading(["sh", "-c", "head -c 3000000 /dev/zero"]) as stream:
        assert stream.read(3) == b"\0\0\0"


def test_reading_from_a_missing_program_names_its_package() -> None:
    with pytest.raises(HostError, match="not installed"), reading(["no-such-program"]):
        pass


def test_reading_is_ended_by_what_its_listener_raises() -> None:
    def refuse(line: str) -> None:
        raise KeyError(line)

    program = ["sh", "-c", "echo one >&2; exec sleep 60"]
    with pytest.raises(KeyError, match="one"), reading(program, on_line=refuse) as stream:
        stream.read()
