"""How commands that act on this host begin and end: questions, summaries, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.cli.perform import confirmed, exit_code, perform, refusals, summary
from banger.cli.render import Output
from banger.core.apply import Interrupted, NotBegun, Outcome
from banger.core.plugins import Plugins
from banger.errors import BangerError, HostError, PlaybookError, Problem
from banger.types import Place

FAILED, LACKING = Outcome("vm/a", error=BangerError("no")), Outcome("vm/b", error=HostError("no"))


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([Outcome("vm/a", changed=1, pending=1)], 0),
        ([FAILED, Outcome("vm/b")], 1),
        ([LACKING, Outcome("vm/a")], 3),
        ([LACKING, FAILED], 1),
        ([FAILED, Outcome("vm/c", error=Interrupted("interrupted"))], 130),
    ],
)
def test_exit_code_is_that_of_the_outcomes(outcomes: list[Outcome], code: int) -> None:
    assert exit_code(outcomes) == code


def test_summary_counts_each_subject_once() -> None:
    failed = Outcome("vm/a", changed=2, pending=1, error=BangerError("no"))
    unbegun = Outcome("vm/e", error=NotBegun("interrupted"))
    outcomes = [failed, Outcome("vm/b", changed=3, pending=2), Outcome("vm/c", changed=1), Outcome("vm/d"), unbegun]
    assert summary(outcomes, 1.23456, 1) == {
        "type": "summary",
        "subjects": 5,
        "changed": 1,
        "failed": 1,
        "pending": 1,
        "not_begun": 1,
        "unchanged": 1,
        "seconds": 1.235,
        "exit_code": 1,
    }


def test_refusals_have_places_for_programs() -> None:
    located = Problem(Place("a.yml", 2, 3), "wrong", "right")
    assert refusals(PlaybookError([located])) == [
        {"type": "problem", "file": "a.yml", "line": 2, "column": 3, "message": "wrong", "hint": "right"}
    ]
    assert refusals(HostError("no ssh", hint="apt install it")) == [
        {"type": "problem", "file": None, "line": None, "column": None, "message": "no ssh", "hint": "apt install it"}
    ]


def test_stream_of_a_refused_playbook_ends_with_its_problems_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    path = tmp_path / "bad.yml"
    path.write_text("- vmz: []\n- vms: [{name: web, image: none}]\n")
    file = tmp_path / "events"
    for arguments in (["--format", "json"], ["--json-into", str(file)]):
        done = CliRunner().invoke(cli, ["apply", str(path), *arguments])
        assert isinstance(done.exception, PlaybookError)
        text = done.stdout if "--format" in arguments else file.read_text()
        events = [json.loads(line) for line in text.splitlines()]
        assert [event["type"] for event in events] == ["version", "problem", "problem", "summary"]
        assert (events[1]["line"], events[1]["column"]) == (1, 3)
        assert events[-1]["exit_code"] == 2


def _ask(monkeypatch: pytest.MonkeyPatch, answer: str, *, terminal: bool, yes: bool) -> str:
    """What is said on stderr, and how it ends."""

    @click.command()
    def command() -> None:
        for stream in ("stdin", "stderr"):
            monkeypatch.setattr(f"sys.{stream}.isatty", lambda: terminal)
        confirmed("This removes", [f"web-{number}" for number in range(7)], yes=yes)
        click.echo("done")

    result = CliRunner().invoke(command, input=answer)
    return f"{result.output}{result.exit_code}"


def test_person_at_a_terminal_is_asked_before_disks_go(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "This removes web-0, web-1, web-2, web-3, web-4 and 2 more. Go on? [y/N]: "
    assert _ask(monkeypatch, "y\n", terminal=True, yes=False) == f"{asked}y\ndone\n0"
    assert _ask(monkeypatch, "n\n", terminal=True, yes=False) == f"{asked}n\nnothing was changed\n1"
    assert _ask(monkeypatch, "", terminal=True, yes=True) == "done\n0"
    assert _ask(monkeypatch, "", terminal=False, yes=False) == "done\n0"


@pytest.mark.parametrize("yes", [False, True])
def test_delete_asks_as_destroy_does(yes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[str, ...], bool]] = []
    monkeypatch.setattr("banger.cli.perform.confirmed", lambda question, names, *, yes: asked.append((names, yes)))
    monkeypatch.setattr("banger.core.lifecycle.delete", lambda session, names, forks, confirm: confirm(names) or [])
    monkeypatch.setattr("banger.cli.perform.open_session", lambda report: SimpleNamespace(plugins=Plugins.of()))
    done = CliRunner().invoke(cli, ["vm", "delete", "web", *(["--yes"] if yes else [])])
    assert done.exit_code == 0, done.output
    assert asked == [(("web",), yes)]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ignored", [False, True])
def test_signal_that_ends_a_command_is_taken_for_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: signal.Signals, ignored: bool
) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    program = f"""
import os, signal
from banger.cli.compose import open_session
from banger.core.report import silent
signal.signal({int(ending)}, signal.SIG_IGN if {ignored} else signal.SIG_DFL)
open_session(silent)
try:
    os.kill(os.getpid(), {int(ending)})
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ("went on\n" if ignored else "interrupted\n")


def test_interrupt_outside_of_any_subject_s_work_ends_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))

    def interrupted(session: object) -> list[Outcome]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(Output("json"), interrupted)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["type"], last["subjects"], last["exit_code"]) == ("summary", 0, 130)


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply", "--format", "json"],
        ["apply", "x.yml", "--nonsense", "--format=json"],
        ["apply", "x.yml", "--detailed-exitcode", "--format", "json"],
        ["plan", "x.yml", "-e", "=", "--format", "json"],
        ["plan", "x.yml", "-o", "-", "--format", "json"],
        ["destroy", "x.yml", "--limit", ",", "--format", "json"],
        ["destroy", "x.yml", "--format", "json", "--json-into", "/etc/passwd"],
        ["vm", "start", "--format", "json"],
        ["vm", "stop", "--forks", "0", "x", "--format", "json"],
        ["vm", "delete", "../x", "--format", "json"],
    ],
)
def test_wrong_command_line_is_told_by_events(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(cli, arguments)
    assert done.exception
    version, problem, ending = map(json.loads, done.stdout.splitlines())
    assert (version["type"], problem["type"], ending["type"]) == ("version", "problem", "summary")
    assert problem["message"]
    assert ending["exit_code"] == 2


def test_wrong_command_line_is_told_in_the_file_of_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    file = tmp_path / "events"
    done = CliRunner().invoke(cli, ["apply", "x.yml", "--detailed-exitcode", "--json-into", str(file)])
    assert done.stdout == ""
    assert [json.loads(line)["type"] for line in file.read_text().splitlines()] == ["version", "problem", "summary"]
