"""Firecrackers in memory: what their API answers, and what becomes of them. A part of `banger.testing`.

The words are those of Firecracker 1.12; the contract tests hold them to the real one's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from banger.errors import VmmError

if TYPE_CHECKING:
    from banger.simulated.processes import SimulatedProcess
    from banger.testing import SimulatedHost

NOT_STARTED, RUNNING = "Not started", "Running"
_MISSING = "No such file or directory (os error 2)"
_BEFORE = "The requested operation is not supported before starting the microVM."
_AFTER = "The requested operation is not supported after starting the microVM."
_DRIVE_DEFAULTS = {"is_read_only": False, "cache_type": "Unsafe", "io_engine": "Sync", "partuuid": None}
_MACHINE_DEFAULTS = {"smt": False, "track_dirty_pages": False, "huge_pages": "None"}
_VCPUS = range(1, 33)


@dataclass
class Microvm:
    """What one Firecracker process was told. `config` is what `GET /vm/config` answers."""

    process: SimulatedProcess
    state: str = NOT_STARTED
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "boot-source": {"kernel_image_path": "", "initrd_path": None, "boot_args": None},
            "drives": [],
            "entropy": None,
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, **_MACHINE_DEFAULTS},
            "network-interfaces": [],
            "vsock": None,
        }
    )


class SimulatedHttp:
    """`banger.host.Http` of the live Firecrackers that listen on a socket.

    `deaf`: sockets where nobody answers; `ignores_keys`: sockets whose guest does not react to Ctrl-Alt-Del; `kvm`:
    whether /dev/kvm opens; `memory_mib`: how much a guest may have; `version`: of all Firecrackers.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self.deaf: set[Path] = set()
        self.ignores_keys: set[Path] = set()
        self.kvm = True
        self.memory_mib = 2**20
        self.version = "1.12.1"
        self._host = host
        self._microvms: list[Microvm] = []

    def get(self, socket: Path, path: str, timeout_s: float = 5.0) -> Any:
        microvm = self.microvm(socket, f"GET {path}")
        if path == "/version":
            return {"firecracker_version": self.version}
        if path == "/":
            return {
                "id": _value_of(microvm.process.argv, "--id") or "anonymous-instance",
                "state": microvm.state,
                "vmm_version": self.version,
                "app_name": "Firecracker",
            }
        if path == "/vm/config":
            return copy.deepcopy(microvm.config)
        raise _refusal(f"Invalid request method and/or path: GET {path.removeprefix('/')}.", "GET", path)

    def put(self, socket: Path, path: str, body: Mapping[str, Any], timeout_s: float = 5.0) -> None:
        with self._host.effect(f"http.put {path} {body.get('action_type', '')}".rstrip()):
            microvm = self.microvm(socket, f"PUT {path}")
            fault = self._told(microvm, socket, path, body)
            if fault:
                raise _refusal(fault, "PUT", path)

    def microvm(self, socket: Path, what: str = "a question") -> Microvm:
        """The one that listens there. Raises VmmError when none does, or it does not answer."""
        identity = self._host.processes.find(str(socket))
        process = next((each for each in self._host.processes.all if each.identity == identity), None)
        listens = process is not None and self._target(socket) in process.sockets and "--api-sock" in process.argv
        if process is None or socket in self.deaf or not listens:
            raise VmmError(f"nobody answered {what} on {socket}: [Errno 111] Connection refused")
        known = next((each for each in self._microvms if each.process is process), None)
        if known is None:
            known = Microvm(process)
            self._microvms.append(known)
        return known

    def _target(self, socket: Path) -> Path:
        file = self._host.files.file(socket)
        return file.target if file is not None and file.target is not None else socket

    def uses(self, disk: Path) -> bool:
        """Whether a live one was given this disk."""
        drives = [drive for microvm in self._microvms if microvm.process.alive for drive in microvm.config["drives"]]
        return any(drive["path_on_host"] == str(disk) for drive in drives)

    def _told(self, microvm: Microvm, socket: Path, path: str, body: Mapping[str, Any]) -> str | None:
        """Do what a PUT asks for; its fault when it is refused."""
        config = microvm.config
        if path == "/actions":
            return self._act(microvm, socket, str(body["action_type"]))
        if microvm.state != NOT_STARTED:
            return _AFTER
        match path.split("/")[1:]:
            case ["machine-config"]:
                if body["vcpu_count"] not in _VCPUS:
                    return (
                        "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1"
                        " or an even number if SMT is enabled."
                    )
                config["machine-config"] = {**_MACHINE_DEFAULTS, **body}
            case ["boot-source"]:
                return self._boot_source(microvm, body)
            case ["drives", name]:
                return self._drive(microvm, name, body)
            case ["network-interfaces", name]:
                return self._card(microvm, name, body)
            case ["vsock"]:
                return self._vsock(microvm, body)
            case ["entropy"]:
                config["entropy"] = {"rate_limiter": None, **body}
            case _:
                return f"Invalid request method and/or path: PUT {path.removeprefix('/')}."
        return None

    def _act(self, microvm: Microvm, socket: Path, action: str) -> str | None:
        if action == "InstanceStart":
            return self._start(microvm)
        if microvm.state == NOT_STARTED:
            return _BEFORE
        if action == "SendCtrlAltDel" and socket not in self.ignores_keys:
            self._host.processes.end(microvm.process.identity)
        return None

    def _start(self, microvm: Microvm) -> str | None:
        kernel = microvm.config["boot-source"]["kernel_image_path"]
        if microvm.state != NOT_STARTED:
            return _AFTER
        if not kernel:
            return "Start microvm error: Cannot start microvm without kernel configuration."
        if microvm.config["machine-config"]["mem_size_mib"] > self.memory_mib:
            return (
                "Start microvm error: Invalid Memory Configuration: Cannot create mmap region: "
                "Out of memory (os error 12)"
            )
        if not self.kvm:
            return (
                "Start microvm error: Internal error while starting microVM: Kvm error: Error creating KVM object: "
                "Permission denied (os error 13) Make sure the user launching the firecracker process is \\\n"
                "configured on the /dev/kvm file's ACL."
            )
        if not self._host.files.read(microvm.process.inside(Path(kernel))).startswith(b"\x7fELF"):
            return (
                "Start microvm error: System configuration error: Cannot load kernel due to invalid memory "
                "configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: "
                "Invalid Elf magic number"
            )
        microvm.state = RUNNING
        return None

    def _boot_source(self, microvm: Microvm, body: Mapping[str, Any]) -> str | None:
        if not self._finds(microvm, body["kernel_image_path"]):
            return f"Boot source error: The kernel file cannot be opened: {_MISSING}"
        if body.get("initrd_path") and not self._finds(microvm, body["initrd_path"]):
            return (
                "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. "
                + _MISSING
            )
        microvm.config["boot-source"] = {"initrd_path": None, "boot_args": None, **body}
        return None

    def _drive(self, microvm: Microvm, name: str, body: Mapping[str, Any]) -> str | None:
        path = body["path_on_host"]
        if body["drive_id"] != name:
            return "The id from the path does not match the id from the body!"
        if not self._finds(microvm, path):
            return (
                "Drive config error: Unable to create the virtio block device: Virtio backend error: "
                f"Error manipulating the backing file: {_MISSING} {path}"
            )
        others = [drive for drive in microvm.config["drives"] if drive["drive_id"] != name]
        microvm.config["drives"] = [*others, {**_DRIVE_DEFAULTS, "rate_limiter": None, "socket": None, **body}]
        return None

    def _card(self, microvm: Microvm, name: str, body: Mapping[str, Any]) -> str | None:
        tap = body["host_dev_name"]
        others = [p for p in self._host.processes.all if p.alive and p.netns == microvm.process.netns]
        if any(tap in process.taps for process in others if process is not microvm.process):
            return (
                "Network config error: Could not create the network device: Open tap device failed: Error while "
                f"creating ifreq structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by {tap}. "
                "Check our documentation on setting up the network devices."
            )
        microvm.process.taps.add(tap)
        kept = [card for card in microvm.config["network-interfaces"] if card["iface_id"] != name]
        limits = {"rx_rate_limiter": None, "tx_rate_limiter": None}
        microvm.config["network-interfaces"] = [*kept, {"guest_mac": None, **limits, **body}]
        return None

    def _vsock(self, microvm: Microvm, body: Mapping[str, Any]) -> str | None:
        path = microvm.process.inside(Path(body["uds_path"]))
        error = "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket"
        if self._host.files.status(path) is not None:
            return f"{error}: Address in use (os error 98)"
        if self._host.files.status(path.parent) is None:
            return f"{error}: {_MISSING}"
        self._host.files.put(path, b"")
        microvm.config["vsock"] = dict(body)
        return None

    def _finds(self, microvm: Microvm, path: str) -> bool:
        return self._host.files.status(microvm.process.inside(Path(path))) is not None


def _value_of(argv: tuple[str, ...], option: str) -> str | None:
    return argv[argv.index(option) + 1] if option in argv else None


def _refusal(fault: str, method: str, path: str) -> VmmError:
    return VmmError(f"{fault} ({method} {path}: status 400)")
