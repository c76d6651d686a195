"""banger.linux.host and tools: the real host's odds and ends, and the face that only looks."""

from __future__ import annotations

import inspect
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from banger import host as contract
from banger.errors import BangerError
from banger.host import Host
from banger.linux.host import ForbiddenError, LinuxHost, ReadOnlyHost
from banger.linux.tools import LinuxTools
from banger.testing import SimulatedHost
from tests.capabilities import programs, require

FACETS = {
    "files": (contract.FilesView, contract.Files),
    "ext4": (contract.Ext4View, contract.Ext4),
    "links": (contract.LinksView, contract.Links),
    "processes": (contract.ProcessesView, contract.Processes),
    "qmp": (contract.QmpView, contract.Qmp),
    "network": (contract.NetworkView, contract.NetworkView),
    "tools": (contract.ToolsView, contract.Tools),
}


def names(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def hosts(tmp_path: Path) -> list[Host]:
    return [LinuxHost(tmp_path / "cache"), SimulatedHost()]


def test_hosts_have_every_method_with_the_signature_of_the_contract(tmp_path: Path) -> None:
    for host in hosts(tmp_path):
        for facet, (view, full) in FACETS.items():
            for method in names(view) | names(full):
                promised = inspect.signature(getattr(full, method))
                parameters = list(promised.parameters.values())[1:]
                real = inspect.signature(getattr(getattr(host, facet), method))
                assert list(real.parameters.values()) == parameters, f"{type(host).__name__}.{facet}.{method}"


def test_read_only_host_refuses_every_change_by_name(tmp_path: Path) -> None:
    for host in hosts(tmp_path):
        looking: Any = ReadOnlyHost(host)
        for facet, (view, full) in FACETS.items():
            for method in names(full) - names(view):
                with pytest.raises(ForbiddenError, match=rf"{facet}\.{method} changes the host"):
                    getattr(getattr(looking, facet), method)()
            for method in names(view):
                assert getattr(getattr(looking, facet), method) == getattr(getattr(host, facet), method)
        assert looking.boot_id == host.boot_id
    assert issubclass(ForbiddenError, BangerError)


def test_boot_id_is_the_kernels(tmp_path: Path) -> None:
    assert LinuxHost(tmp_path).boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# --- tools -------------------------------------------------------------------------------------------------------

FAKE_QEMU = """#!/bin/sh
echo "$@" >> {log}
for argument; do case $argument in file:*) echo "{answer}" > "${{argument#file:}}";; esac; done
"""


def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, boot_id: str = "boot-1") -> LinuxTools:
    """With a device that opens and a qemu whose guest says `answer` on its console."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "qemu-system-x86_64").write_text(FAKE_QEMU.format(log=tmp_path / "calls", answer=answer))
    (programs / "qemu-system-x86_64").chmod(0o755)
    (tmp_path / "kvm").touch()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return LinuxTools(tmp_path / "cache", lambda: boot_id, kvm=tmp_path / "kvm")


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize(("answer", "boots"), [("banger: probe", True), ("Kernel panic", False)])
def test_kvm_boots_is_what_the_guest_says_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, boots: bool
) -> None:
    for _ in range(2):
        host = tools(tmp_path, monkeypatch, answer)
        assert host.kvm_boots(Path("/boot/vmlinuz"), Path("/boot/initrd")) is boots
    assert calls(tmp_path) == 1
    asked = (tmp_path / "calls").read_text()
    assert "-accel kvm" in asked and "-kernel /boot/vmlinuz" in asked and "banger.probe" in asked


def test_kvm_boots_is_asked_again_after_a_reboot_or_with_a_broken_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tools(tmp_path, monkeypatch, "banger: probe").kvm_boots(Path("k"), Path("i"))
    assert not tools(tmp_path, monkeypatch, "nothing", "boot-2").kvm_boots(Path("k"), Path("i"))
    (tmp_path / "cache" / "kvm.json").write_text(json.dumps(["broken"]))
    assert tools(tmp_path, monkeypatch, "banger: probe", "boot-2").kvm_boots(Path("k"), Path("i"))
    assert calls(tmp_path) == 3


def test_guest_of_the_probe_ends_with_whoever_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = tools(tmp_path, monkeypatch, "nothing")
    program, told = tmp_path / "bin" / "qemu-system-x86_64", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {told}.new; mv {told}.new {told}; exec sleep 60\n")
    pid = os.fork()
    if pid == 0:
        asking.kvm_boots(Path("k"), Path("i"))
        os._exit(0)
    deadline = time.monotonic() + 10
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    guest = Path("/proc", told.read_text().strip(), "comm")
    while guest.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not guest.exists()


def test_kvm_without_the_device_is_no_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = tools(tmp_path, monkeypatch, "banger: probe")
    (tmp_path / "kvm").unlink()
    assert not host.kvm_boots(Path("k"), Path("i"))
    assert not (tmp_path / "calls").exists()


def test_make_ssh_key_is_a_pair_that_only_we_can_read(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path / "cache")
    require(programs("ssh-keygen"))
    (tmp_path / ".banger-stage-key").mkdir()  # of one that was killed
    for name in (".banger-stage-key/key", ".key.tmp"):
        (tmp_path / name).write_text("half")
    host.tools.make_ssh_key(tmp_path / "key", "web-1")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    kind, _, comment = (tmp_path / "key.pub").read_text().split()
    assert (kind, comment) == ("ssh-ed25519", "web-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.pub"]
