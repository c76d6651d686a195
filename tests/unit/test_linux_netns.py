"""banger.linux.netns: threads, processes and sockets inside network namespaces; and what an ordinary user is told."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger.errors import HostError
from banger.identity import SshEndpoint
from banger.linux import links, netns
from banger.linux.links import LinuxLinks
from banger.linux.network import LinuxNetwork
from banger.linux.process import LinuxProcesses
from tests.capabilities import network_namespaces, require
from tests.networks import namespace_name, new_namespace

LINKS = LinuxLinks()
SIOCBRADDBR = 0x89A0


@pytest.fixture
def name() -> Iterator[str]:
    with new_namespace() as name:
        yield name


def where() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_function_runs_inside_and_we_stay_where_we_are(name: str) -> None:
    before = where()
    inside = netns.call_inside(name, where)
    assert (where(), inside == before) == (before, False)
    assert netns.call_inside(name, where) == inside
    assert netns.call_inside("", where) == before
    assert threading.active_count() == 1


def test_failure_inside_is_raised_outside(name: str) -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        netns.call_inside(name, fail)


def test_function_that_enters_another_namespace_from_inside_gets_there(name: str) -> None:
    with new_namespace() as other:
        nested = netns.call_inside(name, lambda: netns.call_inside(other, where))
        assert nested == netns.call_inside(other, where)


@pytest.mark.parametrize("leave", [lambda path: None, lambda path: path.touch()], ids=["none", "a plain file"])
def test_namespace_that_is_not_there_is_a_host_error_with_the_cure(leave: Callable[[Path], None]) -> None:
    with namespace_name() as name:
        netns.NAMED.mkdir(exist_ok=True)
        leave(netns.NAMED / name)
        with pytest.raises(HostError, match=f"there is no network namespace {name}") as caught:
            netns.call_inside(name, where)
        assert caught.value.hint == f"ip netns add {name}"
        assert name not in netns.names()


def test_namespace_that_goes_while_it_is_looked_for_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It was there when its name was listed, and even when it was about to be entered."""
    real = netns.enter

    def enter(which: str) -> None:
        netns.remove(which)
        real(which)

    monkeypatch.setattr(netns, "enter", enter)
    for look, nothing in ((LINKS.look, None), (LINKS.routes, [])):
        assert netns.exists(name)
        assert look(name) == nothing
        netns.make(name, lambda: None)


def test_namespace_has_its_name_only_once_it_is_prepared() -> None:
    with namespace_name() as name:
        seen: list[bool] = []

        def fail() -> None:
            seen.append(netns.exists(name))
            raise OSError("killed here")

        with pytest.raises(OSError, match="killed here"):
            netns.make(name, fail)
        assert (seen, netns.exists(name)) == ([False], False)


def test_namespace_that_is_there_is_not_made_again(name: str) -> None:
    inside = netns.call_inside(name, where)
    with pytest.raises(FileExistsError):
        netns.make(name, lambda: None)
    assert netns.call_inside(name, where) == inside


def test_ours_and_those_of_ip_netns_are_the_same_kind(name: str) -> None:
    with namespace_name() as other:
        subprocess.run(["ip", "netns", "add", other], check=True)
        subprocess.run(["ip", "netns", "exec", name, "true"], check=True)
        assert {name, other} <= set(netns.names())
        assert netns.call_inside(other, where) != where()
        netns.remove(name)
        assert name not in netns.names()
        netns.remove(other)
        assert not (netns.NAMED / other).exists()


def test_directory_of_names_is_a_shared_mount_only_while_there_is_one() -> None:
    """As seen in a mount namespace where nobody else has any."""

    def prepare() -> None:
        call = ctypes.CDLL(None)
        assert call.unshare(0x20000) == 0  # CLONE_NEWNS
        assert call.mount(b"", b"/", b"none", 1 << 18 | 1 << 14, None) == 0  # MS_PRIVATE | MS_REC
        assert call.mount(b"none", b"/run", b"tmpfs", 0, None) == 0

    def mounts() -> str:
        found = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return " ".join(f"{fields[4]}:{fields[6].partition(':')[0]}" for fields in found if "/run/netns" in fields[4])

    def function() -> str:
        netns.make("a", lambda: None)
        netns.make("b", lambda: None)
        netns.remove("a")
        there = mounts()
        netns.remove("b")
        return f"{there} | {mounts()} | {list(netns.NAMED.iterdir())}"

    require(network_namespaces())
    assert in_a_process(prepare, function) == "/run/netns:shared /run/netns/b:shared |  | []"


def test_process_is_started_inside_and_can_be_waited_for(name: str, tmp_path: Path) -> None:
    processes = LinuxProcesses()
    process = processes.start(["sleep", "60"], log=tmp_path / "log", cwd=tmp_path, netns=name)
    try:
        assert str(Path(f"/proc/{process.pid}/ns/net").readlink()) == netns.call_inside(name, where)
        assert not processes.wait(process, 0)
    finally:
        processes.kill(process)
    assert processes.wait(process, 0)
    with pytest.raises(ChildProcessError):  # it was reaped, though another thread was its parent
        os.waitpid(process.pid, os.WNOHANG)


def test_ssh_banner_is_asked_for_inside() -> None:
    with namespace_name() as name:
        LINKS.add_namespace(name, "")
        listener = netns.call_inside(name, lambda: socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]

        def answer() -> None:
            with listener, listener.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-inside\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        network = LinuxNetwork()
        assert network.ssh_banner(SshEndpoint("127.0.0.1", port), 0.5) is None
        assert network.ssh_banner(SshEndpoint("127.0.0.1", port, name), 5) == "SSH-2.0-inside"
        thread.join()
    assert network.ssh_banner(SshEndpoint("127.0.0.1", port, name), 0.5) is None


def in_a_process(prepare: Callable[[], None], function: Callable[[], str]) -> str:
    """What the function says in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            os.write(writing, function().encode())
        except BaseException as error:  # noqa: BLE001  # told by whoever waits for it
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return said.read()


def as_an_ordinary_user(function: Callable[[], str]) -> str:
    def prepare() -> None:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    return in_a_process(prepare, function)


def refused() -> str:
    error = LINKS.refusal()
    return f"{error.message} | {error.hint}" if error else "nothing"


def test_kernel_without_a_module_is_told_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    def unknown(number: int) -> Callable[..., None]:
        def ioctl(_: object, request: int, *__: object) -> None:
            if request == SIOCBRADDBR:
                raise OSError(number, os.strerror(number))

        return ioctl

    for number in (errno.ENOPKG, errno.EOPNOTSUPP):
        monkeypatch.setattr("fcntl.ioctl", unknown(number))
        assert refused() == f"a bridge cannot be made: {os.strerror(number)} | modprobe bridge"
    monkeypatch.undo()
    assert refused() == "nothing"
    monkeypatch.setattr(links, "_TUN", tmp_path / "tun")
    assert refused() == "a tap cannot be made: No such file or directory | modprobe tun"
    with pytest.raises(HostError) as caught:
        LINKS.add_tap("t0", "", netns=name)
    assert caught.value.hint == "modprobe tun"
    monkeypatch.setattr(links, "_FORWARD", tmp_path / "not" / "there")
    with pytest.raises(HostError, match="ip_forward cannot be set") as caught:
        LINKS.forward(netns=name)
    assert caught.value.hint is None


def test_ordinary_user_is_told_what_is_missing(name: str) -> None:
    def told(act: Callable[[], object]) -> str:
        try:
            act()
        except HostError as error:
            return f"{error.message} | {error.hint}"
        return "done"

    assert as_an_ordinary_user(lambda: refused()) == (
        "a network namespace cannot be made: Operation not permitted | run as root"
    )
    assert as_an_ordinary_user(lambda: told(LINKS.look)) == (
        "the network cannot be looked at: Operation not permitted | run as root"
    )
    assert as_an_ordinary_user(lambda: told(lambda: LINKS.look(name))) == (
        f"cannot enter the network namespace {name}: Operation not permitted | run as root"
    )
    assert as_an_ordinary_user(lambda: told(lambda: LINKS.add_bridge("b0", "02:00:00:00:00:01"))) == (
        "the bridge b0 cannot be made: Operation not permitted | run as root"
    )
    assert "Permission denied | run as root" in as_an_ordinary_user(lambda: told(lambda: LINKS.add_tap("t0", "")))
