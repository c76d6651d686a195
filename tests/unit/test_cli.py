"""The command line's own manners: exit codes, and errors a person can act on."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from banger.cli import cli, main
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
        (click.exceptions.Exit(130), 130, ""),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (PlaybookError([Problem(None, "empty")]), 2, "empty\n1 problem; nothing was changed\n"),
        (
            VmmError("it said:\n  \x1b]52;c;aWQ=\x07", hint="\x9b2J"),
            1,
            "error: it said:\n  \\x1b]52;c;aWQ=\\x07\n    \\x9b2J\n",
        ),
        (PlaybookError([Problem(None, "a\rb")]), 2, "a\\x0db\n1 problem; nothing was changed\n"),
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
