"""What is true of each VM just now: pids, devices, sockets. A cache over `handles.json` in the VM's directory.

Never the truth (a resource asks the host), never in the durable store (seed S1). A handle is announced in the file
before the effect that makes it, and the file is written before the memory. A missing file reads as no handles; a
corrupt one is reported and set aside (seed S3).
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from banger.core.state import VmRecord, write_atomically
from banger.errors import StateError
from banger.identity import ProcessIdentity

if TYPE_CHECKING:
    from banger.host import ProcessesView
    from banger.resource import Handle

FILE = "handles.json"


class HandleCache:
    """Thread-safe. Keyed by the VM's directory, which its id decides."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self._lock = RLock()
        self._known: dict[Path, dict[str, Handle]] = {}

    def of(self, directory: Path) -> dict[str, Handle]:
        """All handles of a VM by resource key; an announced effect without an answer yet is an empty handle."""
        with self._lock:
            if directory not in self._known:
                self._known[directory] = _read(directory / FILE)
            return dict(self._known[directory])

    def announce(self, directory: Path, key: str) -> None:
        """An effect is about to happen: from here on, whoever finds the file looks for it."""
        self.record(directory, key, {})

    def record(self, directory: Path, key: str, handle: Handle) -> None:
        with self._lock:
            self._change(directory, self.of(directory) | {key: handle})

    def forget(self, directory: Path, key: str) -> None:
        """It is proven gone."""
        with self._lock:
            handles = self.of(directory)
            if handles.pop(key, None) is not None:
                self._change(directory, handles)

    def drop(self, directory: Path) -> None:
        """What is known of them is of no use any more: the VM is gone, or whoever held its lock has written them."""
        with self._lock:
            self._known.pop(directory, None)

    def _change(self, directory: Path, handles: dict[str, Handle]) -> None:
        document = {"version": 1, "boot_id": self._boot_id, "handles": handles}
        # Lost at a power cut with everything it describes, so no fsync.
        write_atomically(directory / FILE, json.dumps(document, indent=1).encode(), durable=False)
        self._known[directory] = handles


def _read(path: Path) -> dict[str, Handle]:
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:  # with another user's handles, nothing can be said of what runs
        raise StateError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}; run as its owner") from error
    except OSError as error:
        return _set_aside(path, error)
    try:
        document: Any = json.loads(raw)
        handles = document["handles"]
        if document["version"] != 1 or not all(isinstance(handle, dict) for handle in handles.values()):
            raise ValueError("not a handles file of this version")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return _set_aside(path, error)
    return {str(key): dict(handle) for key, handle in handles.items()}


def _set_aside(path: Path, error: Exception) -> dict[str, Handle]:
    """What cannot be read is kept for whoever wants to know, where that can be done; there are no handles then."""
    import logging

    aside = path.with_name(path.name + ".corrupt")
    with suppress(OSError):
        path.replace(aside)
    log = logging.getLogger(__name__)
    log.warning("%s cannot be read (%s); set aside as %s, looking on the host instead", path, error, aside.name)
    return {}


def vmm_process(processes: ProcessesView, record: VmRecord, handles: dict[str, Handle]) -> ProcessIdentity | None:
    """The process that owns this VM's API socket, as the kernel says; the recorded pid only shortens the search."""
    return processes.find(record.runtime.api_socket, _hint(handles.get(f"{record.name}/vmm", {})))


def vm_alive(processes: ProcessesView, record: VmRecord, handles: dict[str, Handle]) -> bool:
    """The one liveness question (seed S5): recorded as running, and its API socket's process is there."""
    return record.runtime.state == "running" and vmm_process(processes, record, handles) is not None


def state_word(record: VmRecord, *, alive: bool) -> str:
    """How a user is told of it: `running`, `failed` when the last try to make it so did not end well, or `stopped`."""
    if alive:
        return "running"
    return "failed" if record.runtime.last_error else "stopped"


def described(record: VmRecord, *, alive: bool) -> dict[str, Any]:
    """What is recorded of a VM, for programs: sizes in bytes, null where there is none."""
    return {
        "name": record.name,
        "state": state_word(record, alive=alive),
        "id": record.id,
        "image": record.image,
        "image_digest": record.image_digest,
        "vcpus": record.vcpus,
        "memory_bytes": record.memory_bytes,
        "root_disk_bytes": record.root_disk_bytes,
        "work_disk_bytes": record.work_disk_bytes,
        "storage": record.storage,
        "network": record.nic.network,
        "vmm": record.vmm,
        "address": record.nic.address,
        "mac": record.nic.mac,
        "dns_name": record.runtime.dns_name,
        "directory": record.runtime.vm_directory,
        "console": record.runtime.log_path,
        "last_error": record.runtime.last_error,
    }


def _hint(handle: Handle) -> ProcessIdentity | None:
    pid, start_time = handle.get("pid"), handle.get("start_time")
    return ProcessIdentity(pid, start_time) if isinstance(pid, int) and isinstance(start_time, int) else None
