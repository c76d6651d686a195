"""What this machine can do, found by trying it. A test that needs something asks for it first:

    require(loop_devices())
    require(device_mapper(), lab_only=True)

Each function returns None, or the reason why the thing is not there. Answers are remembered.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from banger.linux.run import PACKAGES, which
from tests.firecracker import elf_kernel, firecracker_binaries

_DM_VERSION = 0xC138FD00  # linux/dm-ioctl.h, on a struct dm_ioctl of 312 bytes
_DM_IOCTL_BYTES = 312
_PROBE_S = 120.0
"""For a guest in a guest; with KVM on a real processor it takes a second."""


def require(reason: str | None, *, lab_only: bool = False) -> None:
    """Skip the test for this reason, if there is one. Where everything was promised ($BANGER_TEST_REQUIRE_ALL), fail.

    `lab_only`: only the lab promises it.
    """
    if reason is None:
        return
    promised = os.environ.get("BANGER_TEST_REQUIRE_ALL") and (not lab_only or os.environ.get("BANGER_IN_LAB"))
    if promised:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


_PACKAGES = {
    **PACKAGES,
    "ifconfig": "net-tools",
    "ip": "iproute2",
    "route": "net-tools",
    "systemd-analyze": "systemd",
    "xz": "xz-utils",
}
"""The Debian package that has a program, of those too that only tests use."""


def programs(*names: str) -> str | None:
    missing = [name for name in names if which(name) is None]
    if not missing:
        return None
    return f"needs {', '.join(missing)} (apt install {' '.join(_PACKAGES.get(name, name) for name in missing)})"


@functools.cache
def device_mapper() -> str | None:
    """Whether the kernel's device-mapper answers."""
    request = bytearray(_DM_IOCTL_BYTES)
    request[0:4] = (4).to_bytes(4, "little")  # struct dm_ioctl: version[0], and data_size after version[3]
    request[12:16] = _DM_IOCTL_BYTES.to_bytes(4, "little")
    try:
        with Path("/dev/mapper/control").open("r+b", buffering=0) as control:
            fcntl.ioctl(control, _DM_VERSION, request)
    except OSError as error:
        return f"no device-mapper here: {error.strerror}"
    return None


@functools.cache
def loop_devices() -> str | None:
    """Whether a file becomes a block device."""
    with tempfile.NamedTemporaryFile(prefix="loop-") as file:
        os.truncate(file.fileno(), 2**20)
        attached = _try("losetup", "--find", "--show", file.name)
        if attached.returncode == 0:
            _try("losetup", "--detach", attached.stdout.strip())
    return _refusal("no loop devices here", attached)


@functools.cache
def network_namespaces() -> str | None:
    """Whether a network namespace of our own can be had, with a bridge, a tap and nftables in it."""
    if reason := programs("unshare", "ip", "nft"):
        return reason
    script = (
        "ip link set lo up && ip link add b0 type bridge && ip tuntap add t0 mode tap && ip link set t0 master b0 &&"
        " nft add table ip t && nft 'add chain ip t c { type nat hook postrouting priority 100; }' &&"
        " nft add rule ip t c masquerade"
    )
    return _refusal("no network namespaces here", _try("unshare", "--net", "sh", "-c", script))


@functools.cache
def firecracker() -> str | None:
    """Whether Firecracker's binaries are here, or can be fetched, and run."""
    try:
        done = _try(str(firecracker_binaries() / "firecracker"), "--version")
    except (subprocess.SubprocessError, ValueError, OSError) as error:
        return f"no Firecracker: {error}"
    return _refusal("Firecracker does not run here", done)


@functools.cache
def kvm_boots() -> str | None:
    """Whether a guest boots under KVM: Firecracker starts one whose initrd says so and powers off.

    That /dev/kvm opens says little. Where the processor cannot do it, that is seen without trying.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm"
    if not {"svm", "vmx"} & set(Path("/proc/cpuinfo").read_text().split()):
        return "/dev/kvm is there, but the processor has neither svm nor vmx"
    if reason := firecracker():
        return reason
    from tests.lab.build import lab_image

    image = lab_image()
    with tempfile.TemporaryDirectory(prefix="kvm-") as directory:
        kernel = elf_kernel(image / "vmlinuz", Path(directory))
        machine = {
            "boot-source": {
                "kernel_image_path": str(kernel),
                "initrd_path": str(image / "initrd.img"),
                "boot_args": "console=ttyS0 quiet reboot=k panic=1 pci=off banger.probe",
            },
            "drives": [],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
        }
        configuration = Path(directory) / "machine.json"
        configuration.write_text(json.dumps(machine))
        log = Path(directory) / "console"
        with (
            log.open("wb") as console,
            subprocess.Popen(
                [firecracker_binaries() / "firecracker", "--no-api", "--config-file", configuration],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            deadline = time.monotonic() + _PROBE_S
            while b"banger: probe" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.kill()
        said = log.read_text(errors="replace")
    return None if "banger: probe" in said else f"no guest boots under KVM: {said}"


def _try(*command: str) -> subprocess.CompletedProcess[str]:
    program = which(command[0]) or command[0]
    return subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30.0,
        check=False,
    )


def _refusal(what: str, done: subprocess.CompletedProcess[str]) -> str | None:
    return None if done.returncode == 0 else f"{what}: {done.stderr.strip()}"
