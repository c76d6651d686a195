"""`banger gc` and `banger recover` on a home of their own: what they print, do, and end with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from banger.cli import cli
from banger.core import saved_record
from banger.core.home import Home
from banger.core.state import Store, VmRecord
from banger.linux import netns
from banger.linux.host import LinuxHost
from banger.types import VmFiles
from tests.capabilities import programs, require
from tests.processes import waiting
from tests.unit.test_state import record


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """On a machine without network namespaces: those that other tests make just now are not to be found."""
    monkeypatch.setattr(netns, "NAMED", tmp_path / "netns")
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def kept(home: Home, vm_id: str, name: str) -> VmRecord:
    """A VM's directory that tells of it, with nothing recorded."""
    files = VmFiles(home.vm_directory(vm_id))
    files.directory.mkdir(parents=True)
    paths = {"vm_directory": str(files.directory), "api_socket": str(files.api_socket)}
    made = replace(record(name), id=vm_id).with_runtime(system_overlay=str(files.root_overlay), **paths)
    saved_record.save(LinuxHost(home.cache), made)
    return made


def test_gc_only_tells_until_it_is_told_to(home: Home) -> None:
    directory = home.vm_directory("00aa00aa00")
    directory.mkdir(parents=True)
    (directory / "root.ext4").write_bytes(b"x" * 8192)
    with waiting(f"unix:{directory}/api.sock") as process:
        told = invoke("gc")
        assert told.exit_code == 0, told.output
        assert str(directory) in told.stdout
        assert "2 to remove" in told.stdout
        assert f"the process {process.pid}" in told.stdout
        assert {each["vm_id"] for each in json.loads(invoke("gc", "--format", "json").stdout)} == {"00aa00aa00"}
        assert directory.is_dir() and process.poll() is None
        assert invoke("gc", "--delete").stdout == "2 removed\n"
        assert process.poll() is not None
    assert not directory.exists()
    assert invoke("gc").stdout == "nothing to remove\n"


def test_gc_leaves_a_process_of_another_pid_namespace_to_its_own(home: Home) -> None:
    """In a container, the same path is another place."""
    require(programs("unshare"))
    home.vm_directory("00aa00aa00").mkdir(parents=True)
    script = 'exec "$PYTHON" -S -c "import signal; print(flush=True); signal.pause()" "unix:$SOCKET"'
    environment = {"PYTHON": sys.executable, "SOCKET": str(home.vm_directory("00aa00aa00") / "api.sock")}
    argv = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout and process.stderr
        if not process.stdout.readline():
            require(f"no PID namespaces here: {process.stderr.read().decode()}")
        try:
            assert [each["what"] for each in json.loads(invoke("gc", "--format", "json").stdout)] == [
                f"the directory {home.vm_directory('00aa00aa00')}"
            ]
        finally:
            process.kill()


def test_gc_removes_what_a_killed_writer_of_the_store_left(home: Home) -> None:
    with Store(home.state, home.lock("state")).transaction() as records:
        records.put(record("web"))
    stray = home.root / ".state.json.abc.tmp"
    stray.write_bytes(b"half")
    assert json.loads(invoke("gc", "--delete", "--format", "json").stdout) == {"removed": 1, "failed": [], "left": []}
    assert not stray.exists()
    assert home.state.exists()


def test_gc_of_what_cannot_be_removed_says_so_and_fails(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.vm_directory("00aa00aa00").mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(PermissionError(1, "Not permitted")))
    done = invoke("gc", "--delete")
    assert done.exit_code == 1
    assert "FAILED" in done.stderr and "00aa00aa00" in done.stderr
    assert done.stdout == "0 removed\n"


def test_recover_of_a_store_that_is_gone_finds_who_runs_and_touches_nobody(home: Home) -> None:
    web, db = kept(home, "00aa00aa00", "web"), kept(home, "00aa00aa01", "db")
    home.vm_directory("00aa00aa02").mkdir()
    listed = invoke("vm", "list")
    assert "banger recover" in str(getattr(listed.exception, "hint", ""))
    with waiting(f"unix:{web.runtime.api_socket}") as process:
        told = invoke("recover")
        assert "banger recover --write" in told.stdout
        assert not home.state.exists()
        written = json.loads(invoke("recover", "--write", "--format", "json").stdout)
        assert {each["name"]: each["state"] for each in written["vms"]} == {
            "web": "running",
            "db": "stopped",
            None: None,
        }
        rows = json.loads(invoke("vm", "list", "--format", "json").stdout)
        assert [(row["name"], row["state"]) for row in rows] == [("db", "stopped"), ("web", "running")]
        assert process.poll() is None
        assert "nothing to recover" in invoke("recover", "--write").stdout
        assert [each["vm_id"] for each in json.loads(invoke("gc", "--format", "json").stdout)] == ["00aa00aa02"]
    assert Store(home.state, home.lock("state")).snapshot().vm("db") == db.with_runtime(state="stopped")


def test_gc_of_a_store_that_is_gone_names_the_cure_and_removes_nothing(home: Home) -> None:
    kept(home, "00aa00aa00", "web")
    home.vm_directory("00aa00aa02").mkdir()
    done = invoke("gc", "--delete")
    assert "banger recover" in str(getattr(done.exception, "hint", ""))
    assert len(list(home.vms.iterdir())) == 2
