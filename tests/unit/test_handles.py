"""The handle cache: a file that may be lost or spoilt without harm, and one way to ask whether a VM lives."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from banger.core.handles import FILE, HandleCache, vm_alive
from banger.core.state import VmRecord
from banger.errors import StateError
from banger.host import ProcessesView, ProcessIdentity
from tests.unit.test_state import record

TRUE_PROCESS = ProcessIdentity(4711, 99)


class OneProcess:
    """A host on which one process owns one socket."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.hints: list[ProcessIdentity | None] = []

    def find(self, argument: str, hint: ProcessIdentity | None = None) -> ProcessIdentity | None:
        self.hints.append(hint)
        return TRUE_PROCESS if argument == self.socket else None


def test_of_without_a_file_is_empty(tmp_path: Path) -> None:  # seed S3
    assert HandleCache("boot").of(tmp_path) == {}
    assert HandleCache("boot").of(tmp_path / "nowhere") == {}


def test_announce_is_in_the_file_before_the_effect(tmp_path: Path) -> None:  # seed S1
    HandleCache("boot").announce(tmp_path, "web/vmm")
    assert HandleCache("boot").of(tmp_path) == {"web/vmm": {}}


def test_record_survives_the_process(tmp_path: Path) -> None:  # seed S1
    HandleCache("boot").record(tmp_path, "web/vmm", {"pid": 1})
    assert HandleCache("boot").of(tmp_path) == {"web/vmm": {"pid": 1}}
    assert json.loads((tmp_path / FILE).read_text())["boot_id"] == "boot"


def test_record_that_cannot_be_written_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = HandleCache("boot")
    with pytest.raises(StateError):
        cache.record(tmp_path / "file" / "vm", "web/vmm", {"pid": 1})
    assert cache.of(tmp_path / "file" / "vm") == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\x00\xff\xfe", b'{"version": 2, "handles": {}}', b'{"version":1,"handles":[]}'],
)
def test_of_a_corrupt_file_sets_it_aside_and_says_so(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:  # seed S3
    (tmp_path / FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert HandleCache("boot").of(tmp_path) == {}
    assert "set aside" in caplog.text
    assert (tmp_path / f"{FILE}.corrupt").read_bytes() == content


def test_cache_with_many_threads_loses_nothing(tmp_path: Path) -> None:  # seed S3
    cache = HandleCache("boot")

    def work(number: int) -> None:
        cache.announce(tmp_path, f"key-{number}")
        cache.record(tmp_path, f"key-{number}", {"pid": number})
        if number % 2:
            cache.forget(tmp_path, f"key-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
    expected = {f"key-{number}": {"pid": number} for number in range(0, 64, 2)}
    assert cache.of(tmp_path) == expected
    assert HandleCache("boot").of(tmp_path) == expected


def _stopped(web: VmRecord) -> VmRecord:
    return web.with_runtime(state="stopped")


def _same(web: VmRecord) -> VmRecord:
    return web


def _other_socket(web: VmRecord) -> VmRecord:
    return web.with_runtime(api_socket="/h/other.sock")


@pytest.mark.parametrize(("change", "alive"), [(_same, True), (_stopped, False), (_other_socket, False)])
def test_vm_alive_needs_the_state_and_the_socket(
    change: Callable[[VmRecord], VmRecord], alive: bool
) -> None:  # seed S5
    processes = cast(ProcessesView, OneProcess("/h/api.sock"))
    assert vm_alive(processes, change(record("web")), {}) is alive


def test_vm_alive_with_a_stale_pid_believes_the_host(tmp_path: Path) -> None:  # seed S4
    host = OneProcess("/h/api.sock")
    stale = {"web/vmm": {"pid": 1, "start_time": 2}}
    assert vm_alive(cast(ProcessesView, host), record("web"), stale)
    assert host.hints == [ProcessIdentity(1, 2)]
