"""What this host has: programs, and a KVM that really boots a guest.

That /dev/kvm opens says little: on some nested hosts machines are created and then never get anywhere. So one tiny
guest is booted, by the VMM that is there, and the answer is remembered until the host reboots.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from banger.errors import BangerError
from banger.linux.process import LinuxProcesses
from banger.linux.publish import stage, sync
from banger.linux.run import run, which
from banger.linux.unnamed import fill, path_of, unnamed_files

_log = logging.getLogger(__name__)
_KVM = Path("/dev/kvm")
_PROBE_S = 10.0
_VERSION_S = 10.0
_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""A guest that stands still would outlive a kill of ours; so its VMM is killed then (prctl(2), PR_SET_PDEATHSIG)."""
PROBE_ARGUMENT = "banger.probe"
"""On its kernel command line: our initrd says `PROBE_ANSWER` on the console and powers off."""
PROBE_ANSWER = b"banger: probe"


class LinuxTools:
    """See `banger.host.Tools`. `cache_directory` is made when there is something to remember."""

    def __init__(self, cache_directory: Path, boot_id: Callable[[], str], kvm: Path = _KVM) -> None:
        self._cache = cache_directory / "kvm.json"
        self._boot_id = boot_id
        self._probing = Lock()
        self._kvm = kvm

    def which(self, program: str) -> Path | None:
        """Where a program is, system directories included; None when it is not installed."""
        return which(program)

    def kvm_boots(self, kernel: Path, initrd: Path) -> bool:
        """Whether a guest boots under KVM; at once False without access to /dev/kvm, else found out once per boot."""
        if not os.access(self._kvm, os.R_OK | os.W_OK):
            return False
        with self._probing:
            if (known := self._remembered()) is not None:
                return known
            answer = self._boot(kernel, initrd)
            self._remember(answer)
            return answer

    def make_ssh_key(self, path: Path, comment: str) -> None:
        """A new ed25519 key pair without passphrase: `path` (0600) and `path`.pub; the private one appears last.

        The caller holds a lock on it. Raises HostError without ssh-keygen(1), CommandError when it fails.
        """
        private, public = path.with_name(f".{path.name}.tmp"), path.with_name(f"{path.name}.pub")
        with stage(path.with_name(f".banger-stage-{path.name}")) as directory:
            made = directory / "key"
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", made], timeout_s=60)
            for new, final in ((made.with_suffix(".pub"), public), (made, private)):
                sync(new)
                new.replace(final)
        private.replace(path)
        sync(path.parent)

    def vsock_proxy(self, socket: Path) -> str:
        """The ProxyCommand that reaches a guest's sshd over the VMM's vsock socket."""
        from banger.linux.vsock import proxy_command

        return proxy_command(socket)

    def ssh(self, argv: Sequence[str], *, netns: str = "", timeout_s: float) -> bool:
        """Run an ssh(1) command line from this network namespace; whether it ended with 0 in time."""
        try:
            if netns:
                from banger.linux.netns import call_inside

                call_inside(netns, lambda: run(argv, timeout_s=timeout_s))
            else:
                run(argv, timeout_s=timeout_s)
        except BangerError as error:
            _log.debug("%s", error)
            return False
        return True

    def version(self, program: str) -> str | None:
        """The first line of what it says of its version; None when it is not installed or says nothing."""
        try:
            lines = run([program, "--version"], timeout_s=_VERSION_S, merge=True).output.splitlines()
        except BangerError as error:
            _log.debug("%s", error)
            return None
        return lines[0].strip() if lines else None

    def unpack_kernel(self, source: Path, destination: Path) -> None:
        """See `banger.linux.kernel`."""
        from banger.linux.kernel import unpack_kernel

        unpack_kernel(source, destination)

    def _boot(self, kernel: Path, initrd: Path) -> bool:
        boot = _boot_by_qemu if which("qemu-system-x86_64") or not which("firecracker") else _boot_by_firecracker
        try:
            return PROBE_ANSWER in boot(kernel, initrd)
        except BangerError as error:
            _log.debug("no guest was booted: %s", error)
            return False

    def _remembered(self) -> bool | None:
        try:
            document = json.loads(self._cache.read_bytes())
            return bool(document["boots"]) if document["boot_id"] == self._boot_id() else None
        except (OSError, ValueError, TypeError, KeyError):
            return None  # nothing readable is remembered: probe again

    def _remember(self, answer: bool) -> None:
        document = json.dumps({"boot_id": self._boot_id(), "boots": answer}).encode()
        with contextlib.suppress(OSError):  # not remembering costs a probe next time, nothing else
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            self._cache.write_bytes(document)  # in place: half of it, after a kill, is as good as nothing


def _boot_by_firecracker(kernel: Path, initrd: Path) -> bytes:
    """What was on the console when the guest had answered, ended, or taken too long. A halt is no end here."""
    from banger.linux.kernel import unpacked

    with unnamed_files(3) as files:
        elf, configuration, log = (path_of(file, os.getpid()) for file in files)
        boot = {
            "kernel_image_path": elf,
            "initrd_path": str(initrd),
            "boot_args": f"console=ttyS0 reboot=k panic=1 pci=off {PROBE_ARGUMENT}",
        }
        machine = {"boot-source": boot, "drives": [], "machine-config": {"vcpu_count": 1, "mem_size_mib": 256}}
        fill(files[0], unpacked(kernel))
        fill(files[1], json.dumps(machine).encode())
        processes, console = LinuxProcesses(), Path(log)
        argv = [*_WITH_US, "firecracker", "--no-api", "--config-file", configuration]
        process = processes.start(argv, log=console, cwd=Path("/"))
        deadline = time.monotonic() + _PROBE_S
        while PROBE_ANSWER not in console.read_bytes() and time.monotonic() < deadline:
            if processes.wait(process, 0.05):
                break
        processes.kill(process)
        return console.read_bytes()


def _boot_by_qemu(kernel: Path, initrd: Path) -> bytes:
    """What was on the console when the guest had ended, or taken too long."""
    with unnamed_files(1) as (console,):
        command = [
            *(
                *_WITH_US,
                "qemu-system-x86_64",
                "-accel",
                "kvm",
                "-M",
                "q35",
                "-nodefaults",
                "-display",
                "none",
                "-m",
                "256M",
            ),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-no-reboot", "-serial", f"file:{path_of(console)}"),
            *("-append", f"console=ttyS0 {PROBE_ARGUMENT} panic=-1"),
        ]
        try:
            run(command, timeout_s=_PROBE_S, accept=None, inherit=[console.fileno()])
        except BangerError as error:
            _log.debug("the probe guest did not end: %s", error)
        return console.read()
