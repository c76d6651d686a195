"""What a person and a program see of the events."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from banger.cli.render import Output, lines_of, rendering
from banger.errors import UsageError

PLAN = {
    "type": "plan",
    "subject": "vm/web",
    "actions": [
        {"verb": "ok", "resource": "web/directory", "reason": ""},
        {"verb": "create", "resource": "web/root/upper", "reason": ""},
        {"verb": "pending", "resource": "web/root/guest-files", "reason": "/etc/motd: needs --restart"},
    ],
}
SUMMARY = {
    "type": "summary",
    "subjects": 3,
    "changed": 1,
    "unchanged": 2,
    "failed": 0,
    "pending": 0,
    "seconds": 4.21,
    "exit_code": 0,
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
            {"type": "recap", "subject": "vm/web", "ok": 1, "changed": 2, "failed": 0, "pending": 0, "skipped": 3},
            ["vm/web                       ok=1  changed=2  failed=0  pending=0  skipped=3"],
        ),
        ({"type": "done", "subject": "vm/web", "verb": "create", "resource": "web/root/upper"}, []),
        ({"type": "version", "events": 1}, []),
        ({"type": "note", "subject": "vm/web", "message": "is gone"}, ["note: vm/web: is gone"]),
        ({"type": "note", "subject": "", "message": "no room", "level": "warning"}, ["warning: no room"]),
        (
            {"type": "room", "disks_bytes": 2, "free_bytes": 1, "warnings": ["too little"]},
            ["warning: too little"],
        ),
        (SUMMARY, ["3 in 4.2 s: 1 changed, 2 unchanged, 0 failed, 0 pending"]),
        (SUMMARY | {"subjects": 1}, []),
        (SUMMARY | {"subjects": 1, "exit_code": 130}, ["interrupted: run the same command again"]),
        (
            SUMMARY | {"subjects": 5, "not_begun": 2, "exit_code": 130},
            [
                "5 in 4.2 s: 1 changed, 2 unchanged, 0 failed, 0 pending, 2 not begun",
                "interrupted: run the same command again",
            ],
        ),
    ],
)
def test_lines_of_an_event(event: dict[str, Any], lines: list[str]) -> None:
    assert lines_of(event) == lines


def test_rendering_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering(Output()) as report:
        report(PLAN)
    assert capsys.readouterr().out == "".join(f"{line}\n" for line in lines_of(PLAN))


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_guest_said_reaches_no_terminal_as_a_command(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"type": "failed", "subject": "vm/web", "message": "it ended with:\n  \x1b]52;c;aWQ=\x07", "hint": "\x1b[2J"}
    with rendering(Output(form)) as report:
        report(said)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    if form == "json":
        assert json.loads(out) == said
    else:
        assert out == "vm/web: FAILED: it ended with:\n  \\x1b]52;c;aWQ=\\x07\n    \\x1b[2J\n"


def _plan_of(name: str, reason: str = "") -> dict[str, Any]:
    actions = [{"verb": "create", "resource": f"{name}/root/upper", "reason": reason}]
    return {"type": "plan", "subject": f"vm/{name}", "actions": actions}


def test_plans_that_differ_in_their_name_only_are_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering(Output()) as report:
        for number in range(100):
            report(_plan_of(f"web-{number}", "too small" if number == 7 else ""))
        report(_plan_of("db", "too small"))
        report({"type": "note", "subject": "", "message": "after them"})
        report(_plan_of("late"))
    assert capsys.readouterr().out.splitlines() == [
        "  + web-0/root/upper",
        "  = the same for web-1, web-2, web-3 and 95 more",
        "  + web-7/root/upper  (too small)",
        "  = the same for db",
        "note: after them",
        "  + late/root/upper",
    ]


def test_events_go_into_a_file_beside_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.jsonl"
    with rendering(Output(json_into=file)) as report:
        report(PLAN)
        assert json.loads(file.read_text()) == PLAN, "as they come"
        report(SUMMARY)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [PLAN, SUMMARY]
    assert capsys.readouterr().out.startswith("  + web/root/upper\n")


def test_file_for_events_that_cannot_be_written_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="No such file or directory"),
        rendering(Output(json_into=tmp_path / "none" / "events")),
    ):
        raise AssertionError("begun")


@pytest.mark.parametrize("held", ["- name: a playbook\n", "\0\0an image", '{"banger_plan": 1}'])
def test_events_are_not_written_over_what_holds_something_else(tmp_path: Path, held: str) -> None:
    file = tmp_path / "events"
    file.write_text(held)
    with pytest.raises(UsageError, match="is there already") as error, rendering(Output(json_into=file)):
        raise AssertionError("begun")
    assert str(file) in error.value.message
    assert error.value.hint == "give another file, or remove it"
    assert file.read_text() == held


@pytest.mark.parametrize("held", ["", '{"type": "version", "events": 1}\n{"type": "note", "message": "old"}\n'])
def test_events_are_written_over_older_ones(tmp_path: Path, held: str) -> None:
    file = tmp_path / "events"
    file.write_text(held)
    with rendering(Output(json_into=file)) as report:
        report(PLAN)
    assert json.loads(file.read_text()) == PLAN


@pytest.mark.parametrize("directory", ["/dev/fd", "/proc/self/fd"])
def test_events_into_an_open_descriptor_go_behind_what_was_written_to_it(tmp_path: Path, directory: str) -> None:
    path = tmp_path / "log"
    with path.open("w") as log:
        log.write("before\n")
        log.flush()
        with rendering(Output(json_into=Path(directory) / str(log.fileno()))) as report:
            report(PLAN)
        log.write("after\n")
    first, event, last = path.read_text().splitlines()
    assert (first, json.loads(event), last) == ("before", PLAN, "after")


def test_events_into_a_descriptor_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("")
    with path.open() as log:
        number = log.fileno()
        with pytest.raises(UsageError, match="reading only"), rendering(Output(json_into=Path(f"/dev/fd/{number}"))):
            raise AssertionError("begun")
    with pytest.raises(UsageError, match="Bad file descriptor"), rendering(Output(json_into=Path(f"/dev/fd/{number}"))):
        raise AssertionError("begun")


def test_rendering_json_is_one_object_a_line_whatever_threads_do(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering(Output("json")) as report, ThreadPoolExecutor(8) as pool:
        list(pool.map(report, [PLAN | {"number": number} for number in range(200)]))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(event["number"] for event in events) == list(range(200))


PRINTING = """
import subprocess
from banger.cli.render import Output, rendering
with rendering(Output("json")) as report:
    print("a plugin's word")
    report({"type": "note", "subject": "", "message": "first"})
    subprocess.run(["echo", "a program's"], check=True)
    report({"type": "note", "subject": "", "message": "second"})
print("afterwards")
"""


def test_stream_of_json_has_nothing_else_in_it_whatever_plugins_print() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, check=True)
    *events, last = done.stdout.splitlines()
    assert [json.loads(event)["message"] for event in events] == ["first", "second"]
    assert last == "afterwards"
    assert sorted(done.stderr.splitlines()) == ["a plugin's word", "a program's"]


LIVE = r"""
from banger.cli.render import Output, rendering
with rendering(Output()) as report:
    for number in range(100):
        action = {"verb": "create", "resource": f"web-{number}/vmm", "reason": ""}
        report({"type": "plan", "subject": f"vm/web-{number}", "actions": [action]})
    for number in range(100):
        report({"type": "stage", "subject": f"vm/web-{number}", "stage": "launch_vmm", "detail": "starting"})
    report({"type": "stage", "subject": "vm/web-0", "stage": "build_image", "detail": "[/of] \x1b[31m a:x:b"})
    report({"type": "failed", "subject": "vm/web-1", "message": "no room"})
    report({"type": "note", "subject": "", "message": "\x1b]52;c;aWQ=\x07 root:x:0 [bold]"})
    report({"type": "ended", "subject": "vm/web-1"})
    report({"type": "recap", "subject": "vm/web-0", "ok": 1, "changed": 2, "failed": 0, "pending": 0, "skipped": 0})
"""


def test_rendering_on_a_terminal_has_a_live_line_per_subject() -> None:
    leader, follower = pty.openpty()
    screen = {"TERM": "xterm", "COLUMNS": "80", "LINES": "25"}
    process = subprocess.Popen([sys.executable, "-c", LIVE], stdout=follower, stderr=follower, env=os.environ | screen)
    os.close(follower)
    seen = b""
    while chunk := _read(leader):
        seen += chunk
    os.close(leader)
    assert process.wait() == 0, seen
    text = seen.decode()
    assert "launch_vmm: starting" in text
    assert "more" in text, "what does not fit on the screen is counted"
    assert "1 of 100 done, 1 failed" in text
    assert "= the same for web-1, web-2, web-3 and 96 more" in text
    assert "vm/web-0                     ok=1  changed=2" in text
    assert r"build_image: [/of] \x1b[31m a:x:b" in text, "not for rich to read either"
    assert r"\x1b]52;c;aWQ=\x07 root:x:0 [bold]" in text
    assert "\x1b]52" not in text and "\x1b[31m" not in text
    assert "\x1b[?25l" in text, "what we tell the terminal ourselves reaches it"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed (EIO)
        return b""
