"""Firecracker as a resource: what it is told, its manners on a simulated host, and the real one with tiny guests."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import banger_vmm_firecracker as plugin
import pytest
from banger_vmm_firecracker.faults import FAULTS, explained
from banger_vmm_firecracker.jail import is_jailed
from banger_vmm_firecracker.kernel import KernelElf
from banger_vmm_firecracker.machine import calls
from banger_vmm_firecracker.process import FirecrackerProcess, version_refusal

from banger.errors import BangerError, HostError, PlaybookError, VmmError
from banger.identity import ProcessIdentity
from banger.linux.host import LinuxHost
from banger.needs import Finding
from banger.resource import Absent, Drifted, Handle, Lifetime, Present
from banger.testing import SimulatedCrash, SimulatedHost
from banger.types import (
    Disk,
    HostKey,
    Image,
    ImageFacts,
    Nic,
    Problem,
    SshEndpoint,
    TapAttachment,
    UserAttachment,
    Vm,
)
from banger.vmmprocess import START_S
from tests.capabilities import programs, require
from tests.firecracker import firecracker_binaries
from tests.networks import new_namespace
from tests.tinyguests import DEAF, POLITE, TALKER, elf, tiny_guests

NIC = Nic("lab", "tap", "52:54:00:01:02:03", "172.16.0.2/24", "172.16.0.1", "1.1.1.1", SshEndpoint("172.16.0.2", 22))
VM = Vm(
    *(Path("/vms/1d1"), "1d1", "web-1", "debian", 2, 2**29, 2**32, None, "dm", "ext4", "firecracker", NIC, ()),
    host_key=HostKey("private", "public"),
)
IMAGE = Image("debian", "digest", Path("/images/debian"), ImageFacts(None, "6.1", 2**29))
DISKS = (Disk(Path("/dev/mapper/web"), role="root"), Disk(VM.work_disk, role="work"))
TAP = TapAttachment("t0")
ARGUMENTS = ("banger.root=/dev/vda",)
API = VM.api_socket
JAILED = replace(VM, jailed=True)


def silently(_: str) -> None:
    """A progress display that shows nothing."""


def told(stages: list[str]) -> list[str]:
    """What was being done, each once: whoever waits says it again and again."""
    return [stage for stage, _ in groupby(stages)]


def resources(
    vm: Vm = VM, image: Image = IMAGE, disks: tuple[Disk, ...] = DISKS, tap: TapAttachment = TAP
) -> tuple[KernelElf, FirecrackerProcess]:
    kernel, process = plugin.launch_vmm(vm, image, disks, tap, ARGUMENTS, ("web-1/directory",))
    assert isinstance(kernel, KernelElf) and isinstance(process, FirecrackerProcess)
    return kernel, process


def firecracker(vm: Vm = VM, **changes: Any) -> FirecrackerProcess:
    return resources(vm, **changes)[1]


# --- what it is told ---


def test_calls_are_these_in_this_order() -> None:
    machine = firecracker().machine
    assert machine is not None
    assert calls(machine) == [
        ("/machine-config", {"vcpu_count": 2, "mem_size_mib": 512}),
        (
            "/boot-source",
            {
                "kernel_image_path": "/images/debian/vmlinux",
                "initrd_path": "/images/debian/initrd.img",
                "boot_args": "console=ttyS0 reboot=k panic=1 pci=off net.ifnames=0 banger.vsock banger.root=/dev/vda",
            },
        ),
        (
            "/drives/disk0",
            {
                "drive_id": "disk0",
                "path_on_host": "/dev/mapper/web",
                "is_root_device": False,
                "is_read_only": False,
                "cache_type": "Writeback",
            },
        ),
        (
            "/drives/disk1",
            {
                "drive_id": "disk1",
                "path_on_host": "/vms/1d1/work.ext4",
                "is_root_device": False,
                "is_read_only": False,
                "cache_type": "Writeback",
            },
        ),
        ("/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": "t0", "guest_mac": "52:54:00:01:02:03"}),
        ("/vsock", {"guest_cid": 3, "uds_path": "/vms/1d1/vsock.sock"}),
        ("/entropy", {}),
    ]


def test_calls_of_a_shared_disk_have_it_read_only() -> None:
    machine = firecracker(disks=(Disk(IMAGE.rootfs, read_only=True),)).machine
    assert machine is not None
    (drive,) = [body for path, body in calls(machine) if path.startswith("/drives/")]
    assert (drive["is_read_only"], drive["cache_type"]) == (True, "Unsafe")


def test_needs_of_it_are_what_the_vm_stands_on_and_the_kernel() -> None:
    kernel, process = resources()
    assert (kernel.key, kernel.lifetime) == ("image/digest/vmlinux", Lifetime.DISK)
    assert (process.key, process.lifetime) == ("web-1/vmm", Lifetime.BOOT)
    assert process.needs == ("web-1/directory", kernel.key)


@pytest.mark.parametrize(
    ("version", "refused"),
    [("1.7.0", True), ("1.8.0", False), ("1.12.1", False), ("1.17.0-dev", False), ("2.0.0", True), ("", True)],
)
def test_version_is_in_the_window_or_refused(version: str, refused: bool) -> None:
    assert (version_refusal(version) is not None) == refused


# --- what it refuses ---

WORDS = {
    "the disk /vms/root.ext4 is not there": "Drive config error: Unable to create the virtio block device: Virtio"
    " backend error: Error manipulating the backing file: No such file or directory (os error 2) /vms/root.ext4"
    " (PUT /drives/disk0: status 400)",
    "may not open the disk /vms/root.ext4": "Drive config error: Unable to create the virtio block device: Virtio"
    " backend error: Error manipulating the backing file: Permission denied (os error 13) /vms/root.ext4"
    " (PUT /drives/disk0: status 400)",
    "cannot use the disk /vms/root.ext4: Is a directory": "Drive config error: Unable to create the virtio block"
    " device: Virtio backend error: Error manipulating the backing file: Is a directory (os error 21) /vms/root.ext4"
    " (PUT /drives/disk0: status 400)",
    "image's kernel is not there": "Boot source error: The kernel file cannot be opened: No such file or directory"
    " (os error 2)",
    "may not open the image's kernel": "Boot source error: The kernel file cannot be opened: Permission denied"
    " (os error 13)",
    "image's initrd is not there": "Boot source error: The initrd file cannot be opened due to invalid path or invalid"
    " permissions. No such file or directory (os error 2)",
    "may not open the image's initrd": "Boot source error: The initrd file cannot be opened due to invalid path or"
    " invalid permissions. Permission denied (os error 13)",
    "memory is too small": "Start microvm error: Error with initrd initialization: Failed to compute the initrd"
    " address..",
    "initrd cannot be loaded": "Start microvm error: Error with initrd initialization: Cannot load initrd due to an"
    " invalid memory configuration..",
    "none that Firecracker can load": "Start microvm error: System configuration error: Cannot load kernel due to"
    " invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel"
    " Loader: Invalid Elf magic number",
    "kernel arguments are too long": "Boot source error: The kernel command line is invalid: Invalid cmdline capacity"
    " provided.",
    "1 to 32 processors": "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be"
    " 1 or an even number if SMT is enabled.",
    "cannot give a guest this memory": "Machine config error: The memory size (MiB) is either 0, or not a multiple of"
    " the configured page size.",
    "cannot give the guest its memory": "Start microvm error: Invalid Memory Configuration: Cannot create mmap region:"
    " Out of memory (os error 12)",
    "there is no /dev/kvm": "Start microvm error: Internal error while starting microVM: Kvm error: Error creating KVM"
    " object: No such file or directory (os error 2) Make sure the user launching the firecracker process is \\\n"
    "configured on the /dev/kvm file's ACL.",
    "may not open /dev/kvm": "Start microvm error: Internal error while starting microVM: Kvm error: Error creating KVM"
    " object: Permission denied (os error 13) Make sure the user launching the firecracker process is \\\n"
    "configured on the /dev/kvm file's ACL.",
    "KVM does not work": "Start microvm error: Internal error while starting microVM: Kvm error: The host kernel"
    " reports an invalid KVM API version: -1",
    "the tap t0 is in use": "Network config error: Could not create the network device: Open tap device failed: Error"
    " while creating ifreq structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by t0. Check our"
    " documentation on setting up the network devices.",
    "may not use the tap t0": "Network config error: Could not create the network device: Open tap device failed: Error"
    " while creating ifreq structure: Operation not permitted (os error 1). Invalid TUN/TAP Backend provided by t0."
    " Check our documentation on setting up the network devices.",
    "t0 is no tap device": "Network config error: Could not create the network device: Open tap device failed: Error"
    " while creating ifreq structure: Invalid argument (os error 22). Invalid TUN/TAP Backend provided by t0. Check our"
    " documentation on setting up the network devices.",
    "there is no /dev/net/tun": "Network config error: Could not create the network device: Open tap device failed:"
    " Couldn't open /dev/net/tun: No such file or directory (os error 2)",
    "may not open /dev/net/tun": "Network config error: Could not create the network device: Open tap device failed:"
    " Couldn't open /dev/net/tun: Permission denied (os error 13)",
    "longer than 15 bytes": "Network config error: Could not create the network device: Open tap device failed: Invalid"
    " interface name",
    "not a card's address": "An error occurred when deserializing the json body of a request: The provided MAC address"
    " is invalid. at line 1 column 66.",
    "vsock socket is there already": "Vsock config error: Cannot create backend for vsock device: Error binding to the"
    " host-side Unix socket: Address in use (os error 98)",
    "vsock socket is too long": "Vsock config error: Cannot create backend for vsock device: Error binding to the"
    " host-side Unix socket: path must be shorter than SUN_LEN",
    "cannot make the VM's vsock socket: No such file": "Vsock config error: Cannot create backend for vsock"
    " device: Error binding to the host-side Unix socket: No such file or directory (os error 2)",
    "more devices than": "Start microvm error: Cannot initialize a MMIO Device or add a device to the MMIO Bus or"
    " cmdline: Failed to allocate requested resource: The requested resource is not available.",
    "not in a state": "The requested operation is not supported after starting the microVM.",
}
"""What Firecracker 1.12 says, by what that means."""


@pytest.mark.parametrize("meaning", WORDS)
def test_refusal_is_explained_with_a_cure_and_its_own_words(meaning: str) -> None:
    error = explained(VmmError(WORDS[meaning]), "/vms/firecracker.log")
    assert meaning in error.message
    assert WORDS[meaning] in error.message
    assert error.hint


def test_refusal_of_a_disk_never_costs_another_disk() -> None:
    error = explained(VmmError(WORDS["cannot use the disk /vms/root.ext4: Is a directory"]), "/vms/firecracker.log")
    assert error.hint == (
        "see what is there (ls -lL /vms/root.ext4) and what the kernel says (dmesg | tail); "
        "a root disk, and no other, is made anew by banger apply --recreate"
    )


def test_refusals_are_all_met_by_some_words() -> None:
    messages = [explained(VmmError(words), "log").message.partition(" (Firecracker: ")[0] for words in WORDS.values()]
    assert len(set(messages)) == len(FAULTS)


def test_refusal_nobody_knows_is_passed_on() -> None:
    error = explained(VmmError("something new"), "/vms/firecracker.log")
    assert (error.message, error.hint) == ("Firecracker refused: something new", "see /vms/firecracker.log")


# --- what is asked before ---


def problems(vm: Vm) -> list[Problem]:
    return list(plugin.validate_vm(vm, IMAGE))


def test_vm_as_it_should_be_has_no_problems() -> None:
    assert problems(VM) == []


def test_vm_of_another_vmm_is_not_judged() -> None:
    assert problems(replace(VM, vmm="qemu", vcpus=64, nic=replace(NIC, plugin="user"))) == []


def test_vm_on_a_user_network_is_a_problem_with_a_cure() -> None:
    (problem,) = problems(replace(VM, nic=replace(NIC, plugin="user", network="out")))
    assert "'web-1' is on the user-mode network 'out', which Firecracker has not" in problem.message
    assert problem.hint == "write network: tap, or vmm: qemu"
    with pytest.raises(PlaybookError, match="which Firecracker has not"):
        plugin.launch_vmm(VM, IMAGE, DISKS, UserAttachment(True, ()), (), ())


def test_vm_with_too_many_processors_is_a_problem() -> None:
    (problem,) = problems(replace(VM, vcpus=33))
    assert "at most 32 processors, and 'web-1' wants 33" in problem.message


def findings(host: SimulatedHost) -> dict[str, Finding]:
    return {need.name: need.check(host) for need in plugin.register_needs()}


def test_needs_of_a_bare_host_say_how_to_get_them() -> None:
    host = SimulatedHost()
    host.tools.missing |= {"firecracker", "lz4", "zstd"}
    host.files.remove(Path("/dev/kvm"))
    found = findings(host)
    assert {name for name, finding in found.items() if not finding.met} == {
        *("firecracker", "firecracker version", "/dev/kvm", "lz4"),
    }
    assert all(finding.cure for finding in found.values() if not finding.met)


def test_needs_of_a_host_that_has_all_are_met() -> None:
    host = SimulatedHost()
    assert all(finding.met for finding in findings(host).values())
    assert findings(host)["firecracker version"].found == "1.12.1"
    host.tools.versions["firecracker"] = "Firecracker v1.4.0"
    assert findings(host)["firecracker version"].found == "1.4.0; wanted: 1.8 or newer, older than 2.0"


# --- on a simulated host ---


@pytest.fixture
def host() -> SimulatedHost:
    return _host()


def _host() -> SimulatedHost:
    host = SimulatedHost()
    for directory in (VM.directory, IMAGE.directory, Path("/dev/mapper")):
        host.files.make_directory(directory)
    for file in (IMAGE.kernel, IMAGE.initrd, VM.work_disk, Path("/dev/mapper/web")):
        host.files.put(file, b"content")
    return host


def started(host: SimulatedHost, vm: Vm = VM) -> Handle:
    kernel, process = resources(vm)
    kernel.create(host, {}, silently)
    handle: Handle = process.create(host, {}, silently)
    return handle


def left(host: SimulatedHost) -> list[str]:
    """The names of what only a running one has."""
    kept = {"work.ext4", "console.log", "firecracker.log", "metrics.json"}
    return [path.name for path in host.files.list(VM.directory) if path.name not in kept]


def alive(host: SimulatedHost) -> int:
    return sum(process.alive for process in host.processes.all)


def test_process_is_absent_then_present_then_absent(host: SimulatedHost) -> None:
    process = firecracker()
    assert process.observe(host, None) == Absent()
    stages: list[str] = []
    resources()[0].create(host, {}, stages.append)
    handle = process.create(host, {}, stages.append)
    assert told(stages)[:2] == ["unpacking the kernel", "starting Firecracker"]
    stages.clear()
    assert handle == {"vmm": "firecracker", "pid": 1000, "start_time": 5000, "api_socket": str(API)}
    assert process.observe(host, handle) == Present(handle)
    assert process.describe(host, handle) == {"state": "Running", "version": "1.12.1"}
    process.remove(host, handle, stages.append)
    assert told(stages) == ["shutting the guest down"]
    assert process.observe(host, handle) == Absent()
    assert left(host) == []


def test_process_runs_in_the_namespace_of_its_tap(host: SimulatedHost) -> None:
    host.links.of["lab"] = host.links.of[""]
    resources()[0].create(host, {}, silently)
    firecracker(tap=TapAttachment("t0", "lab")).create(host, {}, silently)
    (process,) = host.processes.all
    assert (process.netns, process.taps) == ("lab", {"t0"})


def test_process_is_found_again_without_any_record(host: SimulatedHost) -> None:  # seed S4
    handle = started(host)
    assert firecracker().observe(host, None) == Present(handle)
    assert firecracker().observe(host, {**handle, "pid": 1, "start_time": 1}) == Present(handle)


def test_process_whose_machine_was_changed_needs_a_restart_and_says_why(host: SimulatedHost) -> None:
    handle = started(host)
    grown = firecracker(replace(VM, vcpus=4, memory_bytes=2**30))
    assert grown.observe(host, handle) == Drifted(handle, ("vcpus 2 -> 4", "memory 512MiB -> 1GiB"), in_place=False)
    moved = firecracker(replace(VM, vsock_cid=9), disks=DISKS[:1], tap=TapAttachment("t1"))
    assert moved.machine is not None
    moved = replace(moved, machine=replace(moved.machine, kernel_arguments=("other",)))
    assert moved.observe(host, handle) == Drifted(
        handle,
        (
            "its kernel or kernel arguments have changed",
            "its disks have changed",
            "its network card has changed",
            "its vsock address has changed",
        ),
        in_place=False,
    )


def test_jailed_one_finds_what_is_its_own_under_the_paths_it_has_outside(host: SimulatedHost) -> None:
    handle = started(host, JAILED)
    assert firecracker(JAILED).observe(host, handle) == Present(handle)
    (process,) = host.processes.all
    assert process.root == VM.jail / "firecracker" / "1d1" / "root"
    assert process.argv[:5] == ("/firecracker", "--id", "1d1", "--api-sock", str(API))
    uid = JAILED.vmm_uid
    assert uid == 0x70000000 + 0x1D1
    named = [Path("/images/debian/vmlinux"), IMAGE.initrd, DISKS[0].path, VM.work_disk, VM.directory]
    assert [host.files.owners.get(process.inside(path)) for path in named] == [uid] * 5
    assert host.files.file(process.inside(VM.work_disk)) is host.files.file(VM.work_disk)
    assert host.files.file(process.inside(IMAGE.initrd)) is not host.files.file(IMAGE.initrd)
    firecracker(JAILED).remove(host, handle, silently)
    assert left(host) == []


@pytest.mark.parametrize(("before", "now", "said"), [(VM, JAILED, "no -> yes"), (JAILED, VM, "yes -> no")])
def test_process_that_is_to_be_jailed_or_free_needs_a_restart(
    host: SimulatedHost, before: Vm, now: Vm, said: str
) -> None:
    handle = started(host, before)
    assert firecracker(now).observe(host, handle) == Drifted(handle, (f"jailed {said}",), in_place=False)
    firecracker(now).remove(host, handle, silently)
    assert (alive(host), left(host)) == (0, [])


def test_jailed_one_of_a_program_that_tells_its_version_is_known(host: SimulatedHost) -> None:
    arguments = ["/firecracker-v1.12.1-x86_64", "--id", "1d1", "--api-sock", str(API)]
    assert firecracker().other_program(arguments) is None
    assert firecracker().other_program(["/usr/bin/firecracker"]) is None
    assert firecracker().other_program(["/usr/bin/qemu-system-x86_64"]) == "it runs under qemu-system-x86_64"


@pytest.mark.parametrize(
    ("program", "jailed"),
    [
        ("/firecracker", True),
        ("/firecracker-v1.12.1-x86_64", True),
        ("/firecracker-v1.12/firecracker", False),
        ("/firecracker/bin/firecracker", False),
        ("/usr/bin/firecracker", False),
        ("/jailer", False),
        ("firecracker", False),
    ],
)
def test_jailed_one_is_known_by_its_program_in_the_root(program: str, jailed: bool) -> None:
    assert is_jailed([program, "--api-sock", str(API)]) is jailed
    assert not is_jailed([])


def test_jailer_that_is_yet_to_become_firecracker_is_a_start_that_was_broken_off(host: SimulatedHost) -> None:
    resources()[0].create(host, {}, silently)
    jailer = host.processes.add(["/usr/bin/jailer", "--id", "1d1", "--", "--api-sock", str(API)])
    seen = firecracker(JAILED).observe(host, None)
    assert isinstance(seen, Drifted)
    assert (seen.differences, seen.in_place) == (("its start was broken off",), True)
    handle = firecracker(JAILED).update(host, seen.handle, silently)
    assert (alive(host), jailer.alive) == (1, False)
    assert firecracker(JAILED).observe(host, None) == Present(handle)


@pytest.mark.parametrize("options", [{"nodev"}, {"noexec"}, {"nodev", "noexec"}])
def test_jail_where_nothing_in_it_would_work_is_refused_with_its_cure(host: SimulatedHost, options: set[str]) -> None:
    host.files.mounted = options
    with pytest.raises(HostError, match=f"its file system is mounted {','.join(sorted(options))}") as caught:
        started(host, JAILED)
    assert "mount it without nodev and noexec" in (caught.value.hint or "")
    assert (alive(host), left(host)) == (0, [])
    assert started(host, VM), "one that is not jailed needs neither"


def test_jailed_one_is_given_no_disk_of_others() -> None:
    with pytest.raises(PlaybookError, match="is to be jailed, and with storage: dm it reads a disk of others"):
        firecracker(JAILED, disks=(Disk(IMAGE.rootfs, read_only=True),))


def test_process_that_is_paused_is_not_as_it_should_be(host: SimulatedHost) -> None:
    handle = started(host)
    host.http.microvm(API).state = "Paused"
    assert firecracker().observe(host, handle) == Drifted(handle, ("it is paused",), in_place=False)


def test_process_that_does_not_answer_is_there_and_needs_a_restart(host: SimulatedHost) -> None:
    handle = started(host)
    host.http.deaf.add(API)
    assert firecracker().observe(host, handle) == Drifted(
        handle, ("it does not answer on its API socket",), in_place=False
    )
    assert firecracker().describe(host, handle) == {"state": "does not answer"}
    firecracker().remove(host, handle, silently)
    assert (alive(host), left(host)) == (0, [])


@pytest.mark.parametrize("answer", [[], {}, "x", None, {"state": "Running", "drives": 1}])
def test_process_that_answers_nonsense_is_one_that_does_not_answer(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    handle = started(host)
    monkeypatch.setattr(host.http, "get", lambda *arguments, **options: answer)
    seen = firecracker().observe(host, handle)
    assert seen == Drifted(handle, ("it does not answer on its API socket",), in_place=False)
    assert firecracker().describe(host, handle) == {"state": "does not answer"}


@pytest.mark.parametrize("key", ["vcpu_count", "mem_size_mib"])
@pytest.mark.parametrize("value", ["x", "x" * 2**20, [], {}, None, True, -1, 2**70, 0.5, math.inf, math.nan])
def test_process_that_answers_no_number_of_processors_or_mib_is_one_that_does_not_answer(
    host: SimulatedHost, key: str, value: object
) -> None:
    """Whoever broke out of a guest into its jail answers what they like."""
    handle = started(host)
    host.http.microvm(API).config["machine-config"][key] = value
    seen = firecracker().observe(host, handle)
    assert seen == Drifted(handle, ("it does not answer on its API socket",), in_place=False)


@pytest.mark.parametrize("state", ["x" * 2**20, "\x1b[2J", "\ud800", ["Running"], {"a": 1}, None, 2])
def test_process_that_answers_a_state_which_is_no_word_is_one_that_does_not_answer(
    host: SimulatedHost, state: Any
) -> None:
    handle = started(host)
    host.http.microvm(API).state = state
    seen = firecracker().observe(host, handle)
    assert seen == Drifted(handle, ("it does not answer on its API socket",), in_place=False)
    assert firecracker().describe(host, handle) == {"state": "does not answer"}


@pytest.mark.parametrize("key", ["boot-source", "drives", "network-interfaces", "vsock"])
@pytest.mark.parametrize("value", [1, math.inf, "x", [1], ["x"] * 2, {"a": 1}, None])
def test_process_that_answers_nonsense_of_its_parts_is_told_as_one_that_differs(
    host: SimulatedHost, key: str, value: object
) -> None:
    handle = started(host)
    host.http.microvm(API).config[key] = value
    seen = firecracker().observe(host, handle)
    assert isinstance(seen, Drifted) and not seen.in_place


def test_process_whose_start_was_broken_off_is_made_anew_in_place(host: SimulatedHost) -> None:
    started(other := _host())
    host.crash_at(other.effects.index("http.put /boot-source") + 1)
    with pytest.raises(SimulatedCrash):
        started(host)
    host.restart()
    seen = firecracker().observe(host, None)
    assert isinstance(seen, Drifted) and seen.in_place and seen.differences == ("its start was broken off",)
    handle = firecracker().update(host, seen.handle, silently)
    assert handle["pid"] != seen.handle["pid"]
    assert firecracker().observe(host, None) == Present(handle)
    assert alive(host) == 1


def test_process_that_was_started_but_not_recorded_is_taken_over(host: SimulatedHost) -> None:
    handle = started(host)
    assert firecracker().create(host, {}, silently) == handle
    assert alive(host) == 1


def test_process_of_another_vmm_is_named_and_can_be_ended(host: SimulatedHost) -> None:
    argv = ["qemu-system-x86_64", "-qmp", f"unix:{API},server=on,wait=off"]
    host.processes.start(argv, log=VM.directory / "qemu.log", cwd=VM.directory)
    seen = firecracker().observe(host, None)
    assert isinstance(seen, Drifted)
    assert (seen.differences, seen.in_place) == (("it runs under qemu-system-x86_64",), False)
    firecracker().remove(host, None, silently)
    assert alive(host) == 0


def test_process_whose_guest_ignores_keys_is_killed(host: SimulatedHost) -> None:
    handle = started(host)
    host.http.ignores_keys.add(API)
    stages: list[str] = []
    replace(firecracker(), shutdown_s=0.01).remove(host, handle, stages.append)
    assert told(stages) == ["shutting the guest down", "stopping Firecracker"]
    assert (alive(host), left(host)) == (0, [])


def test_process_that_is_discarded_is_killed_at_once(host: SimulatedHost) -> None:
    handle = started(host)
    stages: list[str] = []
    firecracker().discard(host, handle, stages.append)
    assert stages == ["stopping Firecracker"]
    assert (alive(host), left(host)) == (0, [])


def test_process_that_survives_its_kill_keeps_its_sockets(host: SimulatedHost) -> None:
    handle = started(host)
    host.http.deaf.add(API)
    host.processes.unkillable.add(ProcessIdentity(handle["pid"], handle["start_time"]))
    with pytest.raises(BangerError, match="still there"):
        firecracker().remove(host, handle, silently)
    assert {"api.sock", "vsock.sock"} <= set(left(host))


def test_process_that_is_already_gone_is_removed_with_its_sockets(host: SimulatedHost) -> None:
    handle = started(host)
    host.processes.end_all()
    assert left(host) == ["api.sock", "log.pipe", "metrics.pipe", "vsock.sock"]
    firecracker().remove(host, handle, silently)
    firecracker().remove(host, None, silently)
    assert left(host) == []


def test_process_that_dies_at_once_says_what_it_said(host: SimulatedHost) -> None:
    def die(process: Any) -> None:
        host.files.put(VM.directory / "firecracker.log", b"Error: RunWithApi(SomeReason)\n")
        host.processes.end(process.identity)

    host.processes.on_start = die
    with pytest.raises(VmmError, match=r"RunWithApi\(SomeReason\)"):
        started(host)
    assert firecracker().observe(host, None) == Absent()


def test_process_that_dies_at_once_quotes_nothing_of_an_earlier_start(host: SimulatedHost) -> None:
    log = VM.directory / "firecracker.log"
    host.files.put(log, b"an error of before\n")
    host.files.put(VM.console_log, b"a panic of before\n")

    def die(process: Any) -> None:
        host.files.put(log, host.files.read(log) + b"an error of now\n")
        host.processes.end(process.identity)

    host.processes.on_start = die
    with pytest.raises(VmmError) as caught:
        started(host)
    assert caught.value.message.splitlines()[1:] == ["  an error of now"]


def test_process_of_the_wrong_version_is_ended_and_says_which_is_wanted(host: SimulatedHost) -> None:
    host.http.version = "1.4.0"
    with pytest.raises(HostError, match=r"this Firecracker is 1\.4\.0; wanted: 1\.8 or newer, older than 2\.0"):
        started(host)
    assert (alive(host), left(host)) == (0, [])


def test_process_that_is_refused_something_is_ended_and_says_why(host: SimulatedHost) -> None:
    host.files.remove(VM.work_disk)
    with pytest.raises(VmmError, match=r"the disk /vms/1d1/work\.ext4 is not there") as caught:
        started(host)
    assert caught.value.hint == "apply the playbook again, which makes what is missing"
    assert (alive(host), left(host)) == (0, [])


def test_start_may_take_as_long_as_reading_kernel_and_initrd_does(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, given = host.http.put, {}

    def noted(socket: Path, path: str, body: Mapping[str, Any], timeout_s: float = 5.0) -> None:
        given[path] = timeout_s
        put(socket, path, body, timeout_s)

    monkeypatch.setattr(host.http, "put", noted)
    started(host)
    assert given.pop("/actions") == START_S
    assert set(given.values()) == {5.0}


def test_process_that_answers_no_more_says_what_it_said_and_is_not_said_to_refuse(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = host.http.put

    def deaf_at_the_start(socket: Path, path: str, body: Mapping[str, Any], timeout_s: float = 5.0) -> None:
        if path == "/actions":
            host.files.put(VM.directory / "firecracker.log", b"thread panicked\n")
            host.http.deaf.add(socket)
        put(socket, path, body, timeout_s)

    monkeypatch.setattr(host.http, "put", deaf_at_the_start)
    with pytest.raises(VmmError) as caught:
        started(host)
    assert "does not answer any more: nobody answered PUT /actions" in caught.value.message
    assert "thread panicked" in caught.value.message and "refused:" not in caught.value.message
    assert (alive(host), left(host)) == (0, [])


def test_process_without_the_program_leaves_nothing(host: SimulatedHost) -> None:
    host.tools.missing.add("firecracker")
    with pytest.raises(HostError, match="firecracker is not installed"):
        started(host)
    assert left(host) == []


@pytest.mark.parametrize("name", ["api.sock", "vsock.sock"])
def test_process_with_a_socket_path_too_long_asks_for_another_home(host: SimulatedHost, name: str) -> None:
    directory = Path("/" + "x" * (107 - len(name)))  # 108 bytes with the slash and this name
    with pytest.raises(HostError, match=f"{name} has a path of 108 bytes|has a path of") as caught:
        firecracker(replace(VM, directory=directory)).create(host, {}, silently)
    assert "$BANGER_HOME" in (caught.value.hint or "")
    assert not host.processes.all


@pytest.mark.parametrize("vm", [VM, JAILED], ids=["free", "jailed"])
@pytest.mark.parametrize("when", ["fails", "before", "after"])
def test_start_that_ends_at_any_effect_is_repaired_and_leaves_nothing(when: str, vm: Vm) -> None:
    number = 0
    while True:
        number += 1
        host = _host()
        if when == "fails":
            host.fail_at(number)
        else:
            host.crash_at(number, after=when == "after")
        try:
            started(host, vm)
        except (BangerError, SimulatedCrash):
            pass
        else:
            assert number > 10
            return
        host.restart()
        if when == "fails":
            assert (alive(host), left(host)) == (0, [])
        seen = firecracker(vm).observe(host, None)
        if isinstance(seen, Drifted):
            assert seen.in_place
        before = alive(host)
        handle = started(host, vm)
        assert alive(host) == 1 and before <= 1
        assert firecracker(vm).observe(host, None) == Present(handle)
        firecracker(vm).remove(host, None, silently)
        assert (alive(host), left(host)) == (0, [])


@pytest.mark.parametrize("vm", [VM, JAILED], ids=["free", "jailed"])
@pytest.mark.parametrize("after", [False, True])
def test_removal_that_is_killed_at_any_effect_is_finished_by_the_next(after: bool, vm: Vm) -> None:
    number = 0
    while True:
        number += 1
        host = _host()
        handle = started(host, vm)
        host.crash_at(number, after=after)
        try:
            firecracker(vm).remove(host, handle, silently)
        except SimulatedCrash:
            host.restart()
        else:
            assert number > 4
            return
        firecracker(vm).remove(host, None, silently)
        assert (alive(host), left(host)) == (0, [])


def test_kernel_is_unpacked_once_for_all_vms_of_its_image_and_stays(host: SimulatedHost) -> None:
    kernel = resources()[0]
    assert kernel.observe(host, None) == Absent()
    kernel.create(host, {}, silently)
    kernel.create(host, {}, silently)
    assert kernel.observe(host, None) == Present()
    assert [effect for effect in host.effects if "unpack" in effect] == ["tools.unpack_kernel /images/debian/vmlinux"]
    kernel.remove(host, None, silently)
    assert kernel.observe(host, None) == Present()


def test_kernel_whose_unpacking_was_killed_leaves_nothing_after_the_next(host: SimulatedHost) -> None:
    for name in (".vmlinux.8_x0.tmp", ".facts.json.8_x0.tmp"):
        host.files.put(IMAGE.directory / name, b"half")
    resources()[0].create(host, {}, silently)
    names = [path.name for path in host.files.list(IMAGE.directory)]
    assert names == [".facts.json.8_x0.tmp", "initrd.img", "vmlinux", "vmlinuz"], "and only what is its own"


@pytest.mark.parametrize("announced", [{}, {"vmm": "firecracker", "pid": 7}])
def test_handles_of_its_own_vmm_stand_for_a_process_that_can_be_removed(host: SimulatedHost, announced: Handle) -> None:
    started(host)
    (resource,) = plugin.teardown_handles(VM, {"web-1/vmm": announced, "web-1/root/upper": {}})
    assert resource.key == "web-1/vmm"
    resource.remove(host, announced, silently)
    assert (alive(host), left(host)) == (0, [])
    with pytest.raises(ValueError, match="cannot be started"):
        resource.create(host, {}, silently)


def test_handles_of_another_vmm_are_not_claimed() -> None:
    assert plugin.teardown_handles(VM, {"web-1/vmm": {"vmm": "qemu"}, "web-1/root/upper": {}}) == []
    assert plugin.teardown_handles(replace(VM, vmm="qemu"), {"web-1/vmm": {}}) == []
    assert plugin.teardown_handles(VM, {}) == []


# --- for real ---


@pytest.fixture
def real(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with room in its path for a socket's name, and Firecracker on PATH."""
    require(tiny_guests())
    require(programs("ip"))
    monkeypatch.setenv("PATH", f"{firecracker_binaries()}{os.pathsep}{os.environ['PATH']}")
    yield tmp_path_factory.mktemp("f")


jailed_or_free = pytest.mark.parametrize("jailed", [False, True], ids=["free", "jailed"])


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace with two taps."""
    with new_namespace() as name:
        for tap in ("t0", "t1"):
            subprocess.run(["ip", "-n", name, "tuntap", "add", tap, "mode", "tap"], check=True)
        yield name


def real_vm(
    directory: Path, code: bytes, netns: str, name: str = "one", *, jailed: bool = False
) -> tuple[LinuxHost, FirecrackerProcess]:
    """A host, and a VM on it whose kernel is there."""
    host = LinuxHost(directory / "cache")
    image = Image("tiny", "digest", directory / "image", IMAGE.facts)
    vm_id = "a1" if name == "one" else "a2"
    vm = replace(VM, directory=directory / vm_id, id=vm_id, jailed=jailed)
    for each in (image.directory, vm.directory):
        each.mkdir(exist_ok=True)
    image.kernel.write_bytes(elf(code))
    image.initrd.write_bytes(b"x" * 512)
    disk = vm.directory / "disk"
    disk.write_bytes(bytes(2**16))
    kernel, process = resources(vm, image, (Disk(disk),), TapAttachment("t0" if name == "one" else "t1", netns))
    if isinstance(kernel.observe(host, None), Absent):
        kernel.create(host, {}, silently)
    return host, process


def left_in(process: FirecrackerProcess) -> list[str]:
    kept = {"disk", "console.log", "firecracker.log", "metrics.json"}
    return [path.name for path in process.files.directory.iterdir() if path.name not in kept]


def mentioned(directory: Path) -> list[str]:
    """The command lines that name this directory."""
    lines = [_command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line for line in lines if str(directory) in line]


def _command_line(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@jailed_or_free
def test_real_guest_is_started_found_and_shut_down(real: Path, netns: str, jailed: bool) -> None:
    host, process = real_vm(real, POLITE, netns, jailed=jailed)
    handle = process.create(host, {}, silently)
    try:
        assert Path(f"/proc/{handle['pid']}/comm").read_text() == "firecracker\n"
        assert Path(f"/proc/{handle['pid']}/ns/net").stat().st_ino == Path("/run/netns", netns).stat().st_ino
        identity = Path(f"/proc/{handle['pid']}/status").read_text()
        uid = process.jail.uid if process.jail else os.geteuid()
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in identity
        gid = process.jail.uid if process.jail else os.getegid()
        assert f"Gid:\t{gid}\t{gid}\t{gid}\t{gid}\n" in identity
        assert Path(f"/proc/{handle['pid']}/root/proc").exists() != jailed
        assert process.observe(host, None) == Present(handle)
        assert process.create(host, {}, silently) == handle
        assert process.describe(host, handle)["state"] == "Running"
    finally:
        stages: list[str] = []
        process.remove(host, handle, stages.append)
    assert told(stages) == ["shutting the guest down"]
    assert process.observe(host, handle) == Absent()
    assert left_in(process) == []
    assert mentioned(real) == []


@jailed_or_free
def test_real_guest_is_ended_by_hand(real: Path, netns: str, jailed: bool) -> None:
    host, process = real_vm(real, DEAF, netns, jailed=jailed)
    handle = process.create(host, {}, silently)
    script = "\n".join(process.undo_by_hand())
    done = subprocess.run(["sh", "-uc", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kill -s TERM {handle['pid']}\n", "")
    assert process.observe(host, handle) == Absent()
    assert host.processes.console_ended(process.files.console_log, 5.0)
    assert (left_in(process), mentioned(real)) == ([], [])


@jailed_or_free
def test_real_guest_that_is_deaf_is_killed_when_its_time_is_over(real: Path, netns: str, jailed: bool) -> None:
    host, process = real_vm(real, DEAF, netns, jailed=jailed)
    process = replace(process, shutdown_s=0.1)
    handle = process.create(host, {}, silently)
    stages: list[str] = []
    process.remove(host, handle, stages.append)
    assert told(stages) == ["shutting the guest down", "stopping Firecracker"]
    assert (left_in(process), mentioned(real)) == ([], [])


@jailed_or_free
def test_real_one_that_was_killed_is_absent_and_starts_again(real: Path, netns: str, jailed: bool) -> None:
    host, process = real_vm(real, DEAF, netns, jailed=jailed)
    handle = process.create(host, {}, silently)
    os.kill(handle["pid"], 9)
    assert host.processes.wait(ProcessIdentity(handle["pid"], handle["start_time"]), 10)
    assert process.observe(host, handle) == Absent()
    assert {"api.sock", "vsock.sock"} <= set(left_in(process))
    again = process.create(host, {}, silently)
    assert process.observe(host, None) == Present(again)
    process.discard(host, again, silently)
    assert (left_in(process), mentioned(real)) == ([], [])


def test_real_ones_share_a_kernel_and_nothing_else(real: Path, netns: str) -> None:
    host, one = real_vm(real, POLITE, netns)
    _, two = real_vm(real, POLITE, netns, "two")
    first, second = one.create(host, {}, silently), two.create(host, {}, silently)
    one.remove(host, first, silently)
    assert two.observe(host, second) == Present(second)
    two.remove(host, second, silently)
    assert mentioned(real) == []


@jailed_or_free
def test_real_one_is_refused_and_leaves_nothing(real: Path, netns: str, jailed: bool) -> None:
    host, process = real_vm(real, DEAF, netns, jailed=jailed)
    (process.files.directory / "disk").unlink()
    disk = process.files.directory / "disk"
    said = f"another name for {disk}: No such file" if jailed else f"the disk {disk} is not there"
    with pytest.raises(BangerError, match=said):
        process.create(host, {}, silently)
    assert (left_in(process), mentioned(real)) == ([], [])


def test_real_guest_cannot_fill_the_disk_by_talking(real: Path, netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**14
    monkeypatch.setattr("banger.linux.console.CONSOLE_BYTES", most)
    host, process = real_vm(real, TALKER, netns)
    handle = process.create(host, {}, silently)
    console, log_pipe = process.files.console_log, process.files.directory / "log.pipe"
    try:
        sizes = [0]
        while not sizes[-1] < max(sizes):  # it was cut down once
            sizes.append(console.stat().st_size)
        assert max(sizes) <= most
        _kill(next(line for line in mentioned(real) if "console_relay" in line))
        with log_pipe.open("rb", buffering=0) as log:
            while b"BrokenPipe" not in (log.read(4096) or b""):
                pass
        assert process.observe(host, handle) == Present(handle)
    finally:
        process.discard(host, handle, silently)
    assert set(console.read_bytes()) == {ord("x"), ord("\n")}
    assert (left_in(process), mentioned(real)) == ([], [])


def _kill(line: str) -> None:
    """The process of this command line."""
    path = next(path for path in Path("/proc").glob("[0-9]*/cmdline") if _command_line(path) == line)
    os.kill(int(path.parent.name), signal.SIGKILL)


STARTER = """
import sys
from pathlib import Path
from banger.linux.host import LinuxHost
from tests.plugins.test_vmm_firecracker import DEAF, real_vm, silently
host, process = real_vm(Path(sys.argv[1]), DEAF, sys.argv[2], jailed=sys.argv[3] == "True")
print("now", flush=True)
process.create(host, {}, silently)
print("done", flush=True)
"""


_STARTS = 18


def delays(whole_s: float) -> Iterator[float]:
    """So many from the beginning to a little after the end; then, for where it takes longer in a new process, more."""
    yield from (number * 1.2 * whole_s / _STARTS for number in range(_STARTS))
    while (whole_s := 2 * whole_s) < 5:
        yield whole_s


def _length_of_a_start(host: LinuxHost, process: FirecrackerProcess) -> float:
    begun = time.monotonic()
    handle = process.create(host, {}, silently)
    whole_s = time.monotonic() - begun
    process.discard(host, handle, silently)
    return whole_s


@pytest.mark.slow
@jailed_or_free
def test_real_start_that_is_killed_at_any_moment_is_repaired(real: Path, netns: str, jailed: bool) -> None:
    host, process = real_vm(real, DEAF, netns, jailed=jailed)
    seen = set[type]()
    for number, delay_s in enumerate(delays(_length_of_a_start(host, process))):
        if number >= _STARTS and len(seen) > 1:
            break
        with subprocess.Popen(
            [sys.executable, "-c", STARTER, real, netns, str(jailed)], stdout=subprocess.PIPE
        ) as starter:
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"now\n"
            time.sleep(delay_s)
            starter.kill()
        found = process.observe(host, None)
        seen.add(type(found))
        assert not isinstance(found, Drifted) or found.in_place, found
        handle = process.create(host, {}, silently)
        assert process.observe(host, None) == Present(handle)
        assert len([line for line in mentioned(real) if "console_relay" in line]) == 1
        process.discard(host, None, silently)
        assert (left_in(process), mentioned(real)) == ([], [])
    assert Absent in seen and len(seen) > 1
