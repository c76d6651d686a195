"""banger.testing: counting effects, failing and crashing at them, processes that answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.errors import BangerError, Busy, DiskError, HostError, VmmError
from banger.host import Node, ProcessIdentity
from banger.identity import SshEndpoint
from banger.testing import SimulatedCrash, SimulatedHost
from banger.types import GuestFile

VM = Path("/vms/web-1")
ARGV = ["qemu-system-x86_64", "-qmp", f"unix:{VM}/api.sock,server=on", "-netdev", "user,hostfwd=tcp:127.0.0.1:2201-:22"]


@pytest.fixture
def host() -> SimulatedHost:
    simulated = SimulatedHost()
    simulated.files.make_directory(VM)
    return simulated


def start(host: SimulatedHost) -> ProcessIdentity:
    return host.processes.start(ARGV, log=VM / "vmm.log", cwd=VM)


def test_effects_are_named_in_order(host: SimulatedHost) -> None:
    host.files.write(VM / "a", b"")
    host.ext4.make(VM / "disk", 2**20)
    assert host.effects == [f"files.make_directory {VM}", f"files.write {VM}/a", f"ext4.make {VM}/disk"]


def test_fail_at_an_effect_it_does_not_happen_and_the_next_does(host: SimulatedHost) -> None:
    host.fail_at(2, Busy("held"))
    host.files.write(VM / "a", b"")
    with pytest.raises(Busy, match="held"):
        host.files.write(VM / "b", b"")
    host.files.write(VM / "c", b"")
    assert host.files.list(VM) == [VM / "a", VM / "c"]


@pytest.mark.parametrize(("after", "there"), [(False, [VM / "a"]), (True, [VM / "a", VM / "b"])])
def test_crash_at_an_effect_nothing_happens_any_more(host: SimulatedHost, after: bool, there: list[Path]) -> None:
    host.crash_at(2, after=after)
    host.files.write(VM / "a", b"")
    for name in ("b", "c"):
        with pytest.raises(SimulatedCrash):
            host.files.write(VM / name, b"")
    assert host.files.list(VM) == there
    host.restart()
    host.files.write(VM / "d", b"")
    assert not issubclass(SimulatedCrash, Exception)


def test_process_answers_qmp_and_ssh_until_it_ends(host: SimulatedHost) -> None:
    process = start(host)
    assert host.qmp.query(VM / "api.sock", "query-status")["running"]
    assert host.network.ssh_banner(SshEndpoint("127.0.0.1", 2201), 1) is not None
    assert not host.network.port_is_free("127.0.0.1", 2201)
    assert host.files.status(VM / "api.sock") is not None
    host.qmp.execute(VM / "api.sock", "system_powerdown")
    assert host.processes.wait(process, 0)
    assert host.network.ssh_banner(SshEndpoint("127.0.0.1", 2201), 1) is None
    assert host.network.port_is_free("127.0.0.1", 2201)
    with pytest.raises(VmmError):
        host.qmp.query(VM / "api.sock", "query-status")


def test_process_that_ignores_the_power_button_quits(host: SimulatedHost) -> None:
    process = start(host)
    host.qmp.ignores_powerdown.add(VM / "api.sock")
    host.qmp.execute(VM / "api.sock", "system_powerdown")
    assert not host.processes.wait(process, 0)
    host.qmp.execute(VM / "api.sock", "quit")
    assert host.processes.wait(process, 0)


def test_process_of_a_reused_pid_is_another(host: SimulatedHost) -> None:
    first = start(host)
    host.processes.end(first)
    host.processes.next_pid = first.pid
    second = start(host)
    assert second.pid == first.pid and second != first
    assert host.processes.find(f"{VM}/api.sock", first) == second


def test_missing_program_cannot_be_started(host: SimulatedHost) -> None:
    host.tools.missing.add("qemu-system-x86_64")
    with pytest.raises(HostError):
        start(host)


def test_disk_of_a_live_process_is_busy(host: SimulatedHost) -> None:
    host.ext4.make(VM / "disk", 2**20)
    process = host.processes.add(["qemu-system-x86_64", f"file={VM}/disk"])
    with pytest.raises(Busy):
        host.ext4.recover(VM / "disk")
    with pytest.raises(Busy):
        host.ext4.patch(VM / "disk", [])
    host.processes.end(process.identity)
    host.ext4.recover(VM / "disk")


def test_guest_writes_are_seen_by_stat_and_read_and_are_no_effect(host: SimulatedHost) -> None:
    host.ext4.make(VM / "disk", 2**20, [Node("/etc", "directory")])
    before, effects = host.files.status(VM / "disk"), list(host.effects)
    host.guest_writes(VM / "disk", GuestFile("/etc/x", b"guest"))
    assert host.files.status(VM / "disk") != before
    assert host.effects == effects
    assert host.ext4.tree(VM / "disk").children("/etc") == ["x"]


def test_failed_patch_changes_nothing(host: SimulatedHost) -> None:
    host.ext4.make(VM / "disk", 2**20, [Node("/d", "directory")])
    with pytest.raises(DiskError):
        host.ext4.patch(VM / "disk", [GuestFile("/x", b""), GuestFile("/d", b"")])
    assert host.ext4.tree(VM / "disk").children("/") == ["d"]


def test_reboot_ends_processes_and_keeps_files(host: SimulatedHost) -> None:
    process, boot_id = start(host), host.boot_id
    host.reboot()
    assert host.processes.wait(process, 0)
    assert host.boot_id != boot_id
    assert host.files.status(VM / "vmm.log") is not None


def test_unkillable_process_is_busy(host: SimulatedHost) -> None:
    process = start(host)
    host.processes.unkillable.add(process)
    with pytest.raises(Busy):
        host.processes.kill(process)
    with pytest.raises(BangerError):
        host.files.write(Path("/nowhere/x"), b"")
