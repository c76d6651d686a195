"""The inventory for Ansible: who is in it, in which groups, and that each way in leads there."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.cli import inventory as command
from banger.core.access import ssh_command
from banger.core.home import Home
from banger.core.inventory import groups_of, host_variables, inventory
from banger.core.state import Store, VmRecord
from banger.errors import UsageError
from banger.identity import SshEndpoint
from banger.linux import netns
from tests.capabilities import programs, require
from tests.networks import new_namespace
from tests.unit.test_state import record

KEY = Path("/home/a b/ssh/id_ed25519")
ANSWER = b"SSH-2.0-guest\r\n"


def at(name: str, netns: str, host: str = "127.0.0.1", port: int = 22200) -> VmRecord:
    made = record(name)
    return replace(made, nic=replace(made.nic, ssh=SshEndpoint(host, port, netns)))


def test_groups_are_image_network_and_tags_under_names_that_ansible_allows() -> None:
    made = replace(record("web"), image="debian-12", tags=("db", "in front", "db-1", "db_1"))
    assert groups_of(made) == ["image_debian_12", "network_user", "tag_db", "tag_in_front", "tag_db_1"]


def test_list_has_each_group_once_and_the_variables_of_all() -> None:
    guests = [(replace(record("a"), tags=("x",)), ""), (record("b"), "proxy")]
    document = inventory(guests, KEY)
    assert list(document["_meta"]["hostvars"]) == ["a", "b"]
    assert document["_meta"]["hostvars"]["b"] == host_variables(record("b"), KEY, "proxy")
    assert document["all"] == {"children": ["ungrouped", "image_debian", "network_user", "tag_x"]}
    assert document["image_debian"] == {"hosts": ["a", "b"]}
    assert document["tag_x"] == {"hosts": ["a"]}


def test_nobody_runs_nobody_is_there() -> None:
    assert inventory([], KEY) == {"_meta": {"hostvars": {}}, "all": {"children": ["ungrouped"]}}


@pytest.mark.parametrize("proxy", ["", "python -c 'a b' %%x"])
def test_variables_are_the_ssh_command_of_banger_itself(proxy: str) -> None:
    found = host_variables(record("web"), KEY, proxy)
    whole = ["ssh", *shlex.split(found["ansible_ssh_common_args"]), "-p", str(found["ansible_port"])]
    assert [*whole, f"{found['ansible_user']}@{found['ansible_host']}"] == ssh_command(
        KEY, record("web"), (), proxy=proxy
    )
    assert found["ansible_ssh_private_key_file"] == str(KEY)
    assert "StrictHostKeyChecking=yes" in whole


def test_guests_of_one_address_do_not_share_a_connection() -> None:
    one, other = (host_variables(at(name, name), KEY, "")["ansible_control_path"] for name in ("a", "b"))
    assert one != other
    assert one % {"directory": "/cp"} == "/cp/banger-a"


# --- ways in


@contextmanager
def listening(name: str, heard: list[bytes] | None = None) -> Iterator[int]:
    """A server in the namespace of this name that says ANSWER to each who connects; its port.

    `heard` gets the first that each says, where anything is to be heard.
    """

    def listen() -> socket.socket:
        if name:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return socket.create_server(("127.0.0.1", 0))

    with netns.call_inside(name, listen) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(ANSWER)
                    if heard is not None:
                        heard.append(connection.recv(100))

        thread = Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


def said_through(proxy: str) -> bytes:
    """What is heard through a ProxyCommand, run as ssh runs it: by a shell, passing a connection to its stdout."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        with subprocess.Popen(["sh", "-c", f"exec {proxy.replace('%%', '%')}"], stdout=theirs.fileno()) as process:
            theirs.close()
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            assert process.wait(timeout=30) == 0
    with socket.socket(fileno=descriptors[0]) as connection:
        assert connection.gettimeout() is None and os.get_blocking(connection.fileno())
        return connection.recv(100)


def test_way_into_a_namespace_leads_there() -> None:
    with new_namespace() as name, listening(name) as port:
        proxy = command._way(at("web", name, port=port))
        assert said_through(proxy) == ANSWER


def test_ssh_goes_that_way_with_the_options_that_ansible_gives_it() -> None:
    require(programs("ssh"))
    heard: list[bytes] = []
    with new_namespace() as name, listening(name, heard) as port:
        guest = at("web", name, port=port)
        found = host_variables(guest, KEY, command._way(guest))
        options = shlex.split(found["ansible_ssh_common_args"])
        subprocess.run(["ssh", *options, "nobody@host.invalid", "true"], stderr=subprocess.DEVNULL, check=False)
    assert [said[:8] for said in heard] == [b"SSH-2.0-"]


def test_way_to_a_port_of_the_host_needs_no_proxy() -> None:
    assert command._way(record("web")) == ""


@contextmanager
def vsock(directory: Path) -> Iterator[Path]:
    """A VMM's vsock socket, behind which nobody has to be."""
    path = directory / "vsock.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield path


def test_way_goes_by_vsock_only_where_the_network_does_not_answer(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_ANSWERS_WITHIN_S", 0.2)
    with vsock(tmp_path_factory.mktemp("v")) as path, listening("") as port:
        there = at("web", "", port=port).with_runtime(vsock_path=str(path))
        silent = at("db", "", port=1).with_runtime(vsock_path=str(path))
        by_network, by_vsock = command._ways([there, silent])
    assert by_network == ""
    assert str(path) in shlex.split(by_vsock)


# --- the command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """One of two recorded VMs runs."""
    monkeypatch.setenv("BANGER_HOME", str(tmp_path))
    home = Home(tmp_path)
    with Store(home.state, home.lock("state")).transaction() as records:
        for name in ("web", "db"):
            records.put(record(name).with_runtime(vm_directory=str(tmp_path / name)))

    def running(records: Sequence[VmRecord]) -> list[VmRecord]:
        return [each for each in records if each.name == "web"]

    monkeypatch.setattr(command, "_running", running)
    return home


def asked(*arguments: str) -> Any:
    done = CliRunner().invoke(cli, ["inventory", *arguments])
    if done.exception:
        raise done.exception
    return json.loads(done.stdout)


def test_command_lists_those_that_run(home: Home) -> None:
    document = asked("--list")
    assert asked() == document
    assert list(document["_meta"]["hostvars"]) == ["web"]
    assert asked("--host", "web") == document["_meta"]["hostvars"]["web"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "db"], "db does not run"),
        (["--host", "nobody"], "there is no VM 'nobody'"),
        (["--list", "--host", "web"], "exclude each other"),
    ],
)
def test_command_refuses_what_cannot_be_answered(home: Home, arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked(*arguments)


def test_vm_runs_while_there_is_a_vmm_on_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    made = record("web").with_runtime(api_socket=path, vm_directory=str(tmp_path))
    assert command._running([made]) == []
    vmm = [sys.executable, "-c", "print(flush=True); input()", "--api-sock", path]
    with subprocess.Popen(vmm, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        assert command._running([made]) == [made]
        process.kill()


def test_program_is_the_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['banger-inventory', '--list']\n"
        "from banger.cli.inventory import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "heavy = ('pyroute2', 'pydantic', 'rich', 'jinja2', 'pluggy', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"BANGER_HOME": str(tmp_path / "none"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"_meta": {"hostvars": {}}, "all": {"children": ["ungrouped"]}}
    assert done.stderr == "[]\n"
    assert not (tmp_path / "none").exists()
