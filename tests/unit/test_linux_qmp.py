"""banger.linux.qmp, against a server that says what a test tells it, and against the real one where it is installed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from banger.errors import VmmError
from banger.linux.process import LinuxProcesses
from banger.linux.qmp import LinuxQmp
from tests.capabilities import programs, require

QMP = LinuxQmp()
GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}
Serve = Callable[[Callable[[dict[str, Any]], list[Any]]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves one connection: the greeting, then for each request what the given function answers."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def begin(answer: Callable[[dict[str, Any]], list[Any]]) -> Path:
        path = tmp_path / "qmp.sock"
        listener.bind(str(path))
        listener.listen()
        threads.append(threading.Thread(target=talk, args=(answer,)))
        threads[0].start()
        return path

    def talk(answer: Callable[[dict[str, Any]], list[Any]]) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write(json.dumps(GREETING) + "\r\n")
            stream.flush()
            for line in stream:
                for message in answer(json.loads(line)):
                    if message is None:
                        return
                    stream.write(json.dumps(message) + "\r\n")
                stream.flush()

    yield begin
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    listener.close()


def test_query_negotiates_then_asks_and_skips_events(serve: Serve) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> list[Any]:
        asked.append(request)
        return [{"event": "RESUME", "timestamp": {}}, {"return": {"status": "running"}}]

    assert QMP.query(serve(answer), "query-status") == {"status": "running"}
    assert asked == [{"execute": "qmp_capabilities"}, {"execute": "query-status"}]


def test_execute_passes_arguments(serve: Serve) -> None:
    path = serve(lambda request: [{"return": request.get("arguments")}])
    assert QMP.execute(path, "send-key", {"keys": [1]}) == {"keys": [1]}


def test_refusal_has_the_command_and_qemus_words(serve: Serve) -> None:
    def answer(request: dict[str, Any]) -> list[Any]:
        if request["execute"] == "qmp_capabilities":
            return [{"return": {}}]
        return [{"error": {"class": "GenericError", "desc": "no such device"}}]

    with pytest.raises(VmmError, match="refused `device_del`: no such device"):
        QMP.execute(serve(answer), "device_del", {"id": "x"})


def test_connection_closed_before_the_answer_is_a_vmm_error(serve: Serve) -> None:
    with pytest.raises(VmmError, match="did not answer `query-status`"):
        QMP.query(serve(lambda request: [None]), "query-status")


def test_no_answer_in_time_is_a_vmm_error(serve: Serve) -> None:
    with pytest.raises(VmmError, match="within"):
        QMP.query(serve(lambda request: [{"event": "STOP"}]), "query-status", timeout_s=0.1)


def test_second_client_without_a_greeting_is_a_vmm_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(VmmError, match="within"):
            QMP.query(tmp_path / "s", "query-status", timeout_s=0.05)


def test_nobody_there_is_a_vmm_error(tmp_path: Path) -> None:
    with pytest.raises(VmmError, match="No such file"):
        QMP.query(tmp_path / "none", "query-status")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "stale"))
    with pytest.raises(VmmError, match="refused"):
        QMP.query(tmp_path / "stale", "query-status")


def test_query_takes_only_queries(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quit"):
        QMP.query(tmp_path / "s", "quit")


@pytest.mark.parametrize("depth", [1, 5])
def test_real_qemu_answers_refuses_and_quits_whatever_the_length_of_its_path(tmp_path: Path, depth: int) -> None:
    require(programs("qemu-system-x86_64"))
    directory = tmp_path.joinpath(*["long" * 8] * depth)
    directory.mkdir(parents=True)
    argv = ["qemu-system-x86_64", "-M", "none", "-display", "none", "-nodefaults"]
    processes = LinuxProcesses()
    process = processes.start([*argv, "-qmp", "unix:s,server=on,wait=off"], log=tmp_path / "log", cwd=directory)
    try:
        answer = None
        while answer is None and not processes.wait(process, 0.01):
            try:
                answer = QMP.query(directory / "s", "query-status")
            except VmmError:
                continue
        assert answer is not None and answer["status"] in ("running", "prelaunch")
        with pytest.raises(VmmError, match="refused `no-such`"):
            QMP.execute(directory / "s", "no-such")
        QMP.execute(directory / "s", "quit")
        assert processes.wait(process, 10)
    finally:
        processes.kill(process)
