"""QEMU as a resource: its command line, its manners on a simulated host, and a real guest where one can boot."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import banger_vmm_qemu as plugin
import pytest
from banger_vmm_qemu.machine import Machine, command
from banger_vmm_qemu.process import QemuProcess

from banger.errors import HostError, VmmError
from banger.linux.host import LinuxHost
from banger.resource import Absent, Drifted, Lifetime, Present
from banger.testing import SimulatedHost
from banger.types import (
    Disk,
    HostKey,
    Image,
    ImageFacts,
    Nic,
    SshEndpoint,
    TapAttachment,
    UserAttachment,
    Vm,
)
from tests.capabilities import programs, require

NIC = Nic("lab", "user", "52:54:00:01:02:03", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 22200))
VM = Vm(
    *(Path("/vms/id1"), "id1", "web-1", "debian", 2, 2**29, 2**32, None, "overlay", "ext4", "qemu", NIC, ()),
    host_key=HostKey("private", "public"),
)
IMAGE = Image("debian", "digest", Path("/images/debian"), ImageFacts(None, "6.1", 2**29))
DISKS = (Disk(IMAGE.rootfs, read_only=True, role="root"), Disk(VM.root_overlay, role="upper"))
USER = UserAttachment(True, (("127.0.0.1", 22200, 22),))
ROOT = ("banger.root=overlay", "banger.lower=/dev/vda", "banger.upper=/dev/vdb")


def silently(_: str) -> None:
    """A progress display that shows nothing."""


def qemu(vm: Vm = VM, attachment: UserAttachment | TapAttachment = USER) -> QemuProcess:
    (resource,) = plugin.launch_vmm(vm, IMAGE, DISKS, attachment, ROOT, ("web-1/directory",))
    assert isinstance(resource, QemuProcess)
    return resource


def machine(attachment: UserAttachment | TapAttachment = USER) -> Machine:
    found = qemu(attachment=attachment).machine
    assert found is not None
    return found


def values(argv: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(argv) if name == option]


# --- the command line ---


def test_command_attaches_disks_in_order_and_the_image_read_only() -> None:
    argv = command(machine(), VM.api_socket, "tcg")
    assert values(argv, "-drive") == [
        "if=none,id=disk0,format=raw,readonly=on,file=/images/debian/rootfs.ext4",
        "if=none,id=disk1,format=raw,discard=unmap,file=/vms/id1/root.ext4",
    ]
    assert [value for value in values(argv, "-device") if "blk" in value] == [
        "virtio-blk-pci,drive=disk0",
        "virtio-blk-pci,drive=disk1",
    ]


def test_command_has_nothing_but_what_is_named() -> None:
    argv = command(machine(), VM.api_socket, "tcg")
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert values(argv, "-display") == ["none"]
    assert values(argv, "-qmp") == ["unix:/vms/id1/api.sock,server=on,wait=off"]
    assert values(argv, "-m") == ["512M"] and values(argv, "-smp") == ["2"]
    assert values(argv, "-append")[0].startswith("console=ttyS0 net.ifnames=0 panic=-1 ")
    assert values(argv, "-append")[0].endswith(" ".join(ROOT))


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max")])
def test_command_of_an_accelerator_has_its_processor(accelerator: Any, cpu: str) -> None:
    argv = command(machine(), VM.api_socket, accelerator)
    assert values(argv, "-accel")[0].startswith(accelerator)
    assert values(argv, "-cpu") == [cpu]
    assert ("modprobe.blacklist" in values(argv, "-append")[0]) == (accelerator == "tcg")


@pytest.mark.parametrize(("outbound", "restrict"), [(True, "off"), (False, "on")])
def test_command_of_a_user_network_forwards_ssh_and_restricts_the_rest(outbound: bool, restrict: str) -> None:
    argv = command(machine(replace(USER, outbound=outbound)), VM.api_socket, "tcg")
    assert values(argv, "-netdev") == [
        f"user,id=net0,ipv6=off,restrict={restrict},hostfwd=tcp:127.0.0.1:22200-10.0.2.15:22"
    ]


def test_command_of_a_tap_runs_no_scripts() -> None:
    argv = command(machine(TapAttachment("bt-1")), VM.api_socket, "tcg")
    assert values(argv, "-netdev") == ["tap,id=net0,ifname=bt-1,script=no,downscript=no"]


def test_process_with_a_tap_runs_in_its_namespace_and_has_its_console_kept(host: SimulatedHost) -> None:
    host.links.of["lab"] = host.links.of[""]
    qemu(attachment=TapAttachment("bt-1", "lab")).create(host, {}, silently)
    (process,) = host.processes.all
    assert process.netns == "lab"
    assert values(list(process.argv), "-chardev") == ["stdio,id=console,signal=off"]
    assert host.files.status(VM.console_log) is not None


def test_command_of_paths_with_commas_has_them_doubled() -> None:
    argv = command(replace(machine(), disks=(Disk(Path("/a,b/c")),)), VM.api_socket, "tcg")
    assert values(argv, "-drive")[0].endswith("file=/a,,b/c")


# --- on a simulated host ---


@pytest.fixture
def host() -> SimulatedHost:
    host = SimulatedHost()
    host.files.make_directory(VM.directory)
    return host


def test_process_is_absent_then_present_then_absent(host: SimulatedHost) -> None:
    resource = qemu()
    assert (resource.key, resource.needs, resource.lifetime) == ("web-1/vmm", ("web-1/directory",), Lifetime.BOOT)
    assert resource.observe(host, None) == Absent()
    stages: list[str] = []
    handle = resource.create(host, {}, stages.append)
    assert stages == ["probing KVM", "starting QEMU (tcg)"]
    assert {"vmm", "pid", "start_time", "api_socket", "accelerator"} <= set(handle)
    assert resource.observe(host, handle) == Present(handle)
    resource.remove(host, handle, stages.append)
    assert stages[2:] == ["shutting the guest down"]
    assert resource.observe(host, handle) == Absent()
    assert host.files.status(VM.api_socket) is None


def test_process_is_found_again_without_any_record(host: SimulatedHost) -> None:  # seed S4
    handle = qemu().create(host, {}, silently)
    seen = qemu().observe(host, None)
    assert isinstance(seen, Present)
    assert {key: handle[key] for key in seen.handle} == seen.handle
    stale = {**handle, "pid": 1, "start_time": 1}
    assert qemu().observe(host, stale) == seen


def test_process_of_a_host_where_kvm_boots_uses_it(host: SimulatedHost) -> None:
    host.tools.kvm = True
    assert qemu().create(host, {}, silently)["accelerator"] == "kvm"


def test_process_whose_machine_was_changed_needs_a_restart_and_says_why(host: SimulatedHost) -> None:
    handle = qemu().create(host, {}, silently)
    grown = qemu(replace(VM, vcpus=4, memory_bytes=2**30))
    assert grown.observe(host, handle) == Drifted(handle, ("vcpus 2 -> 4", "memory 512MiB -> 1GiB"), in_place=False)
    rewired = qemu(attachment=replace(USER, outbound=False))
    assert rewired.observe(host, handle) == Drifted(
        handle, ("its disks, network or kernel have changed",), in_place=False
    )


def test_process_of_another_vmm_is_named(host: SimulatedHost) -> None:
    argv = ["firecracker", "--api-sock", str(VM.api_socket)]
    host.processes.start(argv, log=VM.directory / "log", cwd=VM.directory)
    seen = qemu().observe(host, None)
    assert isinstance(seen, Drifted)
    assert (seen.differences, seen.in_place) == (("it runs under firecracker",), False)
    qemu().remove(host, None, silently)
    assert qemu().observe(host, None) == Absent()


def test_process_that_is_already_gone_is_removed_with_its_socket(host: SimulatedHost) -> None:
    handle = qemu().create(host, {}, silently)
    host.processes.end_all()
    qemu().remove(host, handle, silently)
    qemu().remove(host, None, silently)
    assert host.files.status(VM.api_socket) is None


def test_process_whose_guest_ignores_keys_is_told_to_quit(host: SimulatedHost) -> None:
    handle = qemu().create(host, {}, silently)
    host.qmp.ignores_powerdown.add(VM.api_socket)
    qemu().remove(host, handle, silently)
    assert "qmp.execute quit" in host.effects and not any("kill" in effect for effect in host.effects)
    assert qemu().observe(host, handle) == Absent()


def test_process_that_answers_nobody_is_killed(host: SimulatedHost) -> None:
    handle = qemu().create(host, {}, silently)
    host.qmp.deaf.add(VM.api_socket)
    qemu().remove(host, handle, silently)
    assert f"processes.kill {handle['pid']}" in host.effects


def test_process_that_dies_at_once_says_what_it_said(host: SimulatedHost) -> None:
    def die(process: Any) -> None:
        host.files.put(VM.directory / "qemu.log", b"qemu: could not open disk\n")
        host.processes.end(process.identity)

    host.processes.on_start = die
    with pytest.raises(VmmError, match="could not open disk"):
        qemu().create(host, {}, silently)
    assert qemu().observe(host, None) == Absent()


def test_process_that_was_started_but_not_recorded_is_taken_over(host: SimulatedHost) -> None:
    first = qemu().create(host, {}, silently)
    assert qemu().create(host, {}, silently)["pid"] == first["pid"]
    assert len(host.processes.all) == 1


@pytest.mark.parametrize(("directory", "said"), [("/" + "x" * 120, "130 bytes"), ("/a,b", "comma")])
def test_process_with_an_impossible_socket_path_asks_for_another_home(
    host: SimulatedHost, directory: str, said: str
) -> None:
    with pytest.raises(HostError, match=said) as caught:
        qemu(replace(VM, directory=Path(directory))).create(host, {}, silently)
    assert "$BANGER_HOME" in (caught.value.hint or "")
    assert not host.processes.all


def test_handles_of_a_vmm_stand_for_a_process_that_can_be_removed(host: SimulatedHost) -> None:
    handle = qemu().create(host, {}, silently)
    (resource,) = plugin.teardown_handles(VM, {"web-1/vmm": handle, "web-1/root/upper": {}})
    assert resource.key == "web-1/vmm"
    assert resource.observe(host, handle) == Present(handle)
    resource.remove(host, handle, silently)
    assert not any(process.alive for process in host.processes.all)


def test_handles_that_are_only_announced_or_of_another_vmm() -> None:
    (resource,) = plugin.teardown_handles(VM, {"web-1/vmm": {}})
    assert resource.key == "web-1/vmm"
    assert plugin.teardown_handles(VM, {"web-1/vmm": {"vmm": "firecracker"}}) == []
    assert plugin.teardown_handles(replace(VM, vmm="firecracker"), {"web-1/vmm": {}}) == []
    assert plugin.teardown_handles(VM, {"web-1/root/upper": {}}) == []


def test_vm_that_is_to_be_jailed_is_a_problem() -> None:
    assert plugin.validate_vm(VM, IMAGE) == []
    assert plugin.validate_vm(replace(VM, vmm="firecracker", jailed=True), IMAGE) == []
    (problem,) = plugin.validate_vm(replace(VM, jailed=True), IMAGE)
    assert "QEMU has no jailer" in problem.message


def test_needs_are_qemu_and_not_kvm() -> None:
    host = SimulatedHost()
    found = {need.name: need.check(host) for need in plugin.register_needs()}
    assert all(finding.met for finding in found.values())
    assert found["qemu version"].found.startswith("QEMU emulator version")
    assert found["/dev/kvm"].found == "may be opened"
    host.files.remove(Path("/dev/kvm"))
    found = {need.name: need.check(host) for need in plugin.register_needs()}
    assert found["/dev/kvm"].met
    assert found["/dev/kvm"].found == "not there; guests are emulated, which is slow"
    host.tools.missing.add("qemu-system-x86_64")
    assert not any(need.check(host).met for need in plugin.register_needs() if need.name != "/dev/kvm")


# --- for real ---


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def test_real_qemu_refuses_a_missing_disk_in_its_own_words(short: Path) -> None:
    require(programs("qemu-system-x86_64"))
    for name in ("vmlinuz", "initrd.img"):
        (short / name).write_bytes(b"not a kernel")
    image = Image("i", "d", short, IMAGE.facts)
    (resource,) = plugin.launch_vmm(replace(VM, directory=short), image, DISKS, USER, ROOT, ())
    with pytest.raises(VmmError, match=r"rootfs\.ext4"):
        resource.create(_without_kvm(short), {}, silently)
    assert resource.observe(LinuxHost(short), None) == Absent()


def _without_kvm(cache: Path) -> LinuxHost:
    host = LinuxHost(cache)
    host.tools._kvm = Path("/nowhere")
    return host
