"""Firecracker's API and manners, real and simulated: what the plugin builds upon. The real one boots tiny guests."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from banger_vmm_firecracker.machine import START, STOP, Machine, calls, differences

from banger.errors import VmmError
from banger.host import Host, ProcessIdentity
from banger.linux.host import LinuxHost
from banger.testing import SimulatedHost
from banger.types import Disk
from tests.capabilities import programs, require
from tests.firecracker import firecracker_binaries
from tests.networks import new_namespace
from tests.tinyguests import DEAF, POLITE, elf, tiny_guests

MAC = "52:54:00:aa:bb:cc"


@dataclass
class Lab:
    """A host with a directory, and the Firecrackers that were started there."""

    host: Host
    directory: Path
    netns: str = ""
    started: list[ProcessIdentity] = field(default_factory=list)

    def start(self, name: str = "api", *, wait: bool = True) -> Path:
        """A new one; its API socket."""
        socket = self.directory / f"{name}.sock"
        argv = ["firecracker", "--id", name, "--api-sock", str(socket)]
        log = self.directory / f"{name}.log"
        self.started.append(self.host.processes.start(argv, log=log, cwd=self.directory, netns=self.netns))
        while wait and not self._answers(socket):
            assert not self.host.processes.wait(self.started[-1], 0.005), self.host.files.read(log)
        return socket

    def booted(self, code: bytes, name: str = "api") -> Path:
        """One whose guest runs."""
        socket = self.start(name)
        self.host.http.put(socket, "/boot-source", {"kernel_image_path": str(self.kernel(code))})
        self.host.http.put(socket, *START)
        return socket

    def kernel(self, code: bytes) -> Path:
        return self.file("kernel", elf(code))

    def file(self, name: str, content: bytes = b"x" * 4096) -> Path:
        self.host.files.write(self.directory / name, content)
        return self.directory / name

    def _answers(self, socket: Path) -> bool:
        try:
            self.host.http.get(socket, "/version")
        except VmmError:
            return False
        return True


@pytest.fixture(params=["linux", "simulated"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("f")
    if request.param == "linux":
        require(tiny_guests())
        monkeypatch.setenv("PATH", f"{firecracker_binaries()}{os.pathsep}{os.environ['PATH']}")
        host: Host = LinuxHost(directory / "cache")
    else:
        host = simulated = SimulatedHost()
        simulated.files.make_directory(directory)
    made = Lab(host, directory)
    yield made
    for process in made.started:
        made.host.processes.kill(process)


@pytest.fixture
def lab_with_tap(lab: Lab) -> Iterator[Lab]:
    """In a network namespace with a tap called t0."""
    if isinstance(lab.host, SimulatedHost):
        yield lab
        return
    require(programs("ip"))
    with new_namespace() as name:
        subprocess.run(["ip", "-n", name, "tuntap", "add", "t0", "mode", "tap"], check=True)
        lab.netns = name
        yield lab


def machine(lab: Lab) -> Machine:
    return Machine(
        vcpus=2,
        memory_bytes=2**27,
        kernel=lab.kernel(DEAF),
        initrd=lab.file("initrd"),
        kernel_arguments=("a=b", "quiet"),
        disks=(Disk(lab.file("base"), read_only=True), Disk(lab.file("upper"))),
        tap="t0",
        mac=MAC,
        vsock_cid=7,
        vsock_socket=lab.directory / "v.sock",
    )


def test_new_one_says_what_it_is(lab: Lab) -> None:
    socket = lab.start("web-1")
    assert re.fullmatch(r"\d+\.\d+\.\d+", lab.host.http.get(socket, "/version")["firecracker_version"])
    about = lab.host.http.get(socket, "/")
    assert (about["id"], about["state"], about["app_name"]) == ("web-1", "Not started", "Firecracker")
    assert about["vmm_version"] == lab.host.http.get(socket, "/version")["firecracker_version"]


def test_machine_is_told_and_told_of_again(lab_with_tap: Lab) -> None:
    lab = lab_with_tap
    wanted, socket = machine(lab), lab.start()
    for path, body in calls(wanted):
        lab.host.http.put(socket, path, body)
    assert differences(wanted, lab.host.http.get(socket, "/vm/config")) == ()
    lab.host.http.put(socket, *START)
    assert lab.host.http.get(socket, "/")["state"] == "Running"
    assert differences(wanted, lab.host.http.get(socket, "/vm/config")) == ()


def test_started_one_can_be_neither_changed_nor_started_again(lab: Lab) -> None:
    socket = lab.booted(DEAF)
    refused: list[tuple[str, dict[str, Any]]] = [START, ("/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})]
    for path, body in refused:
        with pytest.raises(VmmError, match=rf"not supported after starting the microVM\. \(PUT {path}: status 400\)"):
            lab.host.http.put(socket, path, body)


def test_keys_before_the_start_are_refused(lab: Lab) -> None:
    with pytest.raises(VmmError, match="not supported before starting"):
        lab.host.http.put(lab.start(), *STOP)


def test_guest_that_hears_keys_ends_it_and_its_sockets_stay(lab: Lab) -> None:
    socket = lab.booted(POLITE)
    lab.host.http.put(socket, *STOP)
    assert lab.host.processes.wait(lab.started[0], 30)
    assert lab.host.files.status(socket) is not None
    assert lab.host.processes.find(str(socket)) is None
    with pytest.raises(VmmError, match="nobody answered GET /version"):
        lab.host.http.get(socket, "/version")


def test_guest_that_hears_no_keys_goes_on(lab: Lab) -> None:
    socket = lab.booted(DEAF)
    if isinstance(lab.host, SimulatedHost):
        lab.host.http.ignores_keys.add(socket)
    lab.host.http.put(socket, *STOP)
    assert not lab.host.processes.wait(lab.started[0], 0.2)


def test_new_one_on_a_stale_socket_ends_at_once_and_says_why(lab: Lab) -> None:
    socket = lab.start()
    lab.host.http.put(socket, "/vsock", {"guest_cid": 3, "uds_path": str(lab.directory / "v.sock")})
    lab.host.processes.kill(lab.started[0])
    lab.start(wait=False)
    assert lab.host.processes.wait(lab.started[1], 30)
    assert b"FailedToBindSocket" in lab.host.files.read(lab.directory / "api.log")
    lab.host.files.remove(socket)
    lab.start()
    with pytest.raises(VmmError, match=r"Error binding to the host-side Unix socket: Address in use"):
        lab.host.http.put(socket, "/vsock", {"guest_cid": 3, "uds_path": str(lab.directory / "v.sock")})


def test_tap_of_another_one_is_busy(lab_with_tap: Lab) -> None:
    lab = lab_with_tap
    card = {"iface_id": "eth0", "host_dev_name": "t0", "guest_mac": MAC}
    lab.host.http.put(lab.start("one"), "/network-interfaces/eth0", card)
    with pytest.raises(VmmError, match=r"Resource busy .* Backend provided by t0\. "):
        lab.host.http.put(lab.start("two"), "/network-interfaces/eth0", card)


Refused = Callable[[Lab], tuple[str, dict[str, Any]]]


@pytest.mark.parametrize(
    ("refused", "fault"),
    [
        (lambda lab: START, "Cannot start microvm without kernel configuration"),
        (
            lambda lab: ("/boot-source", {"kernel_image_path": str(lab.directory / "no")}),
            r"kernel file cannot be opened: No such file or directory",
        ),
        (
            lambda lab: (
                "/boot-source",
                {"kernel_image_path": str(lab.kernel(DEAF)), "initrd_path": str(lab.directory / "no")},
            ),
            r"initrd file cannot be opened .* No such file or directory",
        ),
        (
            lambda lab: ("/machine-config", {"vcpu_count": 33, "mem_size_mib": 128}),
            "number of vCPUs must be greater than 0, less than 32",
        ),
        (
            lambda lab: ("/drives/a", {"drive_id": "a", "path_on_host": "/no/disk", "is_root_device": False}),
            r"backing file: No such file or directory \(os error 2\) /no/disk \(PUT /drives/a: status 400\)",
        ),
        (
            lambda lab: ("/drives/a", {"drive_id": "b", "path_on_host": "/no/disk", "is_root_device": False}),
            "id from the path does not match",
        ),
        (
            lambda lab: ("/vsock", {"guest_cid": 3, "uds_path": str(lab.directory / "no" / "v.sock")}),
            "host-side Unix socket: No such file or directory",
        ),
        (lambda lab: ("/no-such-thing", {}), "Invalid request method and/or path: PUT no-such-thing"),
    ],
)
def test_refusal_has_these_words(lab: Lab, refused: Refused, fault: str) -> None:
    socket = lab.start()
    with pytest.raises(VmmError, match=fault):
        lab.host.http.put(socket, *refused(lab))
    assert lab.host.http.get(socket, "/")["state"] == "Not started"


@pytest.mark.parametrize(
    ("content", "memory_mib", "fault"),
    [
        (b"no kernel at all" * 100, 128, "invalid kernel image: .*Invalid Elf magic number"),
        (elf(DEAF), 2**27, r"Invalid Memory Configuration: .*Out of memory \(os error 12\)"),
    ],
)
def test_start_that_is_refused_can_be_tried_again(lab: Lab, content: bytes, memory_mib: int, fault: str) -> None:
    socket = lab.start()
    lab.host.http.put(socket, "/boot-source", {"kernel_image_path": str(lab.file("bad", content))})
    lab.host.http.put(socket, "/machine-config", {"vcpu_count": 1, "mem_size_mib": memory_mib})
    with pytest.raises(VmmError, match=fault):
        lab.host.http.put(socket, *START)
    assert lab.host.http.get(socket, "/")["state"] == "Not started"
    lab.host.http.put(socket, "/boot-source", {"kernel_image_path": str(lab.kernel(DEAF))})
    lab.host.http.put(socket, "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})
    lab.host.http.put(socket, *START)
    assert lab.host.http.get(socket, "/")["state"] == "Running"
