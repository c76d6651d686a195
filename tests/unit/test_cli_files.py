"""Files that commands write: their own kind is written over, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.errors import UsageError

ANY = "- vms: []\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["plan", "playbook.yml", "-o"], "a plan that was kept"),
        (["export", "-o"], "an export"),
        (["apply", "playbook.yml", "--json-into"], "a file of events"),
    ],
)
def test_file_of_another_kind_is_not_written_over(tmp_path: Path, arguments: list[str], kind: str) -> None:
    (tmp_path / "playbook.yml").write_text(ANY)
    file = tmp_path / "initrd"
    file.write_bytes(b"\xff\x00somebody's")
    done = CliRunner().invoke(cli, [*arguments, "initrd"])
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == f"initrd is there already, and is not {kind}: it is not written over"
    assert file.read_bytes() == b"\xff\x00somebody's"


@pytest.mark.parametrize("arguments", [["plan", "playbook.yml", "-o"], ["export", "-o"]])
def test_file_of_the_same_kind_is_written_over(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "playbook.yml").write_text(ANY)
    (tmp_path / "file").write_text("")
    assert CliRunner().invoke(cli, [*arguments, "file"]).exit_code == 0
    first = (tmp_path / "file").read_text()
    assert first
    (tmp_path / "file").write_text(first + "\n")
    assert CliRunner().invoke(cli, [*arguments, "file"]).exit_code == 0
    assert (tmp_path / "file").read_text() == first


def test_plan_is_not_kept_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "playbook.yml").write_text(ANY)
    done = CliRunner().invoke(cli, ["plan", "playbook.yml", "-o", "-"])
    assert isinstance(done.exception, UsageError)
    assert "not on stdout" in done.exception.message
    assert not (tmp_path / "-").exists()
