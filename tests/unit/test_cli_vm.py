"""`banger vm` and `banger doctor` on a home of their own: what they print, and how they end."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from banger.cli import cli, main
from banger.core.home import Home
from banger.errors import StateError, UsageError
from tests.functional.tiny import Tiny


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize("command", ["start", "stop", "delete", "show"])
def test_command_on_an_unknown_vm_is_refused(command: str, home: Path) -> None:
    done = invoke("vm", command, "nobody")
    assert type(done.exception).__name__ == "UsageError"
    assert "there is no VM 'nobody'" in str(done.exception)
    assert not (home / "locks").exists()


def test_show_writes_out_what_would_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"name": "web", "image": "\x1b[2J", "resources": {"web/vmm": {"state": "\x9b2J\udcff"}}}
    monkeypatch.setattr("banger.core.lifecycle.show", lambda session, name: copy.deepcopy(shown))
    assert invoke("vm", "show", "web").stdout.splitlines()[2:] == [r"image    \x1b[2J", r"web/vmm  state=\x9b2J\xff"]
    assert json.loads(invoke("vm", "show", "web", "--format", "json").stdout) == shown


def test_run_without_an_image_says_what_to_do() -> None:
    done = invoke("vm", "run", "--name", "n", "--", "true")
    assert "it is not said which image" in str(done.exception)


@pytest.mark.parametrize("name", ["x/../../../evil", "..", "Web", "", "a" * 64, "a\0b"])
def test_name_that_no_vm_can_have_is_refused_before_all_else(name: str, home: Path) -> None:
    for arguments in (("run", "--name", name, "--", "true"), ("start", name), ("stop", name), ("delete", name)):
        done = invoke("vm", *arguments)
        assert isinstance(done.exception, UsageError)
        assert "cannot be the name of any VM" in done.exception.message
    assert not [path for path in home.parent.rglob("*") if path.suffix == ".lock"]


def test_lock_lies_in_the_directory_of_locks(home: Path) -> None:
    assert Home(home).lock("vm-web").parent == home / "locks"
    for name in ("vm-x/../../evil", "/evil", "a\0b", "a" * 251):
        with pytest.raises(StateError, match="cannot name a lock"):
            Home(home).lock(name)


def test_doctor_names_each_need_what_it_found_and_the_cure() -> None:
    text, document = invoke("doctor"), json.loads(invoke("doctor", "--format", "json").stdout)
    needs = {(need["plugin"], need["need"]): need for need in document["needs"]}
    assert needs["storage_overlay", "mke2fs"]["met"]
    assert document["ok"] == (text.exit_code == 0)
    assert len(document["auto"]) == 3
    for need in document["needs"]:
        assert need["need"] in text.stdout
        assert need["met"] or need["cure"], f"{need} is missing and nobody says what to do"
    for name, reason in document["passed_over"].items():
        assert reason.startswith(name)
        assert reason in text.stdout


def test_doctor_fails_where_the_chosen_path_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.linux.tools.which", lambda program: None)
    done = invoke("doctor")
    assert done.exit_code == 3
    assert "mke2fs" in done.stdout
    assert "apt install e2fsprogs" in done.stdout


def test_list_has_numbers_and_the_keys_of_show(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = Tiny.make(tmp_path_factory.mktemp("b"))
    assert tiny.apply().code == 0
    rows = {row["name"]: row for row in json.loads(tiny.run("vm", "list", "--format", "json").stdout)}
    shown = json.loads(tiny.run("vm", "show", "web", "--format", "json").stdout)
    assert shown.pop("resources")
    assert rows["web"] == shown
    assert (shown["vcpus"], shown["memory_bytes"], shown["work_disk_bytes"]) == (1, 2**26, 2**24)
    assert rows["db"]["work_disk_bytes"] is None
    assert "64MiB" in tiny.run("vm", "list").stdout


@pytest.mark.parametrize("name", ["config.toml", "state.json", "locks"])
@pytest.mark.parametrize("spoilt", ["a directory", "a file"])
def test_home_that_cannot_be_read_is_one_exit_code(
    name: str, spoilt: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    playbook = home.parent / "playbook.yml"
    playbook.write_text("- vms: [{name: web, state: absent}]\n")
    path = home / name
    if spoilt == "a file":
        path.write_bytes(b"\xff\xff")
    else:
        (path / "vm-web.lock").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["banger", "apply", str(playbook)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3, capsys.readouterr()
    assert str(path) in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["banger", "validate", str(playbook)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, "needs no home"
