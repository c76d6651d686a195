"""What a person and a program see of the events."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from banger.cli.render import lines_of, rendering

PLAN = {
    "type": "plan",
    "subject": "vm/web",
    "actions": [
        {"verb": "ok", "resource": "web/directory", "reason": ""},
        {"verb": "create", "resource": "web/root/upper", "reason": ""},
        {"verb": "pending", "resource": "web/root/guest-files", "reason": "/etc/motd: needs --restart"},
    ],
}


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (PLAN, ["  + web/root/upper", "  ! web/root/guest-files  (/etc/motd: needs --restart)"]),
        (
            {"type": "stage", "subject": "vm/web", "stage": "prepare_work_disk", "detail": "cloning work seed"},
            ["vm/web: prepare_work_disk: cloning work seed"],
        ),
        (
            {"type": "failed", "subject": "vm/web", "message": "no room", "hint": "make some"},
            ["vm/web: FAILED: no room", "    make some"],
        ),
        (
            {"type": "recap", "subject": "vm/web", "ok": 1, "changed": 2, "failed": 0, "pending": 0},
            ["vm/web                       ok=1  changed=2  failed=0  pending=0"],
        ),
        ({"type": "done", "subject": "vm/web", "verb": "create", "resource": "web/root/upper"}, []),
        ({"type": "version", "events": 1}, []),
    ],
)
def test_lines_of_an_event(event: dict[str, Any], lines: list[str]) -> None:
    assert lines_of(event) == lines


def test_rendering_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering("text") as report:
        report(PLAN)
    assert capsys.readouterr().out == "".join(f"{line}\n" for line in lines_of(PLAN))


def test_rendering_json_is_one_object_a_line_whatever_threads_do(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering("json") as report, ThreadPoolExecutor(8) as pool:
        list(pool.map(report, [PLAN | {"number": number} for number in range(200)]))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(event["number"] for event in events) == list(range(200))


LIVE = """
from banger.cli.render import rendering
with rendering("text") as report:
    for number in range(100):
        report({"type": "stage", "subject": f"vm/web-{number}", "stage": "launch_vmm", "detail": "starting"})
    report({"type": "ended", "subject": "vm/web-1"})
    report({"type": "recap", "subject": "vm/web-0", "ok": 1, "changed": 2, "failed": 0, "pending": 0})
"""


def test_rendering_on_a_terminal_has_a_live_line_per_subject() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], stdout=follower, stderr=follower, env=os.environ | {"TERM": "xterm"}
    )
    os.close(follower)
    seen = b""
    while chunk := _read(leader):
        seen += chunk
    os.close(leader)
    assert process.wait() == 0, seen
    text = seen.decode()
    assert "launch_vmm: starting" in text
    assert "more" in text, "what does not fit on the screen is counted"
    assert "vm/web-0                     ok=1  changed=2" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed (EIO)
        return b""
