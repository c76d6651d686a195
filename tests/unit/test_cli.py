"""The command line's own manners: exit codes, and errors a person can act on."""

from __future__ import annotations

import io
from pathlib import Path

import click
import pytest

from banger.cli import cli, main
from banger.core.planfile import PlanFile
from banger.core.selection import Selection
from banger.errors import HostError, PlaybookError, Problem, UsageError, VmmError


def exit_code(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["banger", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert isinstance(done.value.code, int)
    return done.value.code


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["vm", "list"], 0),
        (["nonsense"], 2),
        (["apply"], 2),
        (["apply", "/nowhere.yml"], 2),
        (["vm", "ssh", "nobody"], 2),
    ],
)
def test_exit_code(arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code(arguments, monkeypatch) == code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no such VM", hint="look"), 2, "error: no such VM\n    look\n"),
        (HostError("no qemu", hint="apt install it"), 3, "error: no qemu\n    apt install it\n"),
        (click.exceptions.Exit(1), 1, ""),
        (click.UsageError("No such option."), 2, "error: No such option.\n    banger failing --help\n"),
        (click.FileError("x", "gone"), 2, "error: Could not open file 'x': gone\n"),
        (click.exceptions.Exit(130), 130, ""),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (PlaybookError([Problem(None, "empty")]), 2, "error: empty\n1 problem; nothing was changed\n"),
        (
            VmmError("it said:\n  \x1b]52;c;aWQ=\x07", hint="\x9b2J"),
            1,
            "error: it said:\n  \\x1b]52;c;aWQ=\\x07\n    \\x9b2J\n",
        ),
        (PlaybookError([Problem(None, "a\rb")]), 2, "error: a\\x0db\n1 problem; nothing was changed\n"),
    ],
)
def test_end_of_a_command(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(type(cli), "get_command", lambda self, context, name: failing)
    assert exit_code(["failing"], monkeypatch) == code
    assert capsys.readouterr().err == said


def test_unknown_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(cli), "get_command", lambda self, context, name: failing)
    monkeypatch.setattr("sys.argv", ["banger", "failing"])
    with pytest.raises(RuntimeError, match="a bug") as error:
        main()
    assert "please report" in error.value.__notes__[0]


def test_wrong_command_line_names_the_command_that_tells_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["vm", "stop", "--nonsense"], monkeypatch) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: No such option")
    assert second == "    banger vm stop --help"


def test_playbook_that_is_not_there_is_told_without_a_command_that_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yml").write_text("[]")
    assert exit_code(["validate", "sites.yml"], monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[:2] == [
        "error: cannot read the playbook sites.yml: No such file or directory",
        "    did you mean 'site.yml'?",
    ]
    assert exit_code(["validate", "else.txt"], monkeypatch) == 2
    assert "site.yml" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["validate"], ["plan"], ["graph"], ["destroy"], ["explain", "vm.web"]])
def test_plan_that_was_kept_is_no_playbook(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p1.plan").write_text(PlanFile(tmp_path / "x.yml", False, False, {"a": "\u00e9"}, Selection()).text())
    assert exit_code([command[0], "p1.plan", *command[1:]], monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[:2] == [
        "p1.plan:1:1: error: this is a plan that was kept, not a playbook",
        "    banger apply p1.plan",
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_playbook_from_stdin_names_files_beside_the_working_directory(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yml").write_text("- networks: [{name: n, plugin: user}]\n")
    text = f"- include: site.yml{ending}- vmz: []{ending}"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert exit_code(["validate", "-"], monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[0] == "-:2:3: error: unknown key 'vmz' in a play"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.partition("- vmz")[0].encode())))
    assert exit_code(["apply", "-", "--check"], monkeypatch) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert exit_code(["plan", "-", "-o", "kept"], monkeypatch) == 2
    assert "stdin has no name" in capsys.readouterr().err
