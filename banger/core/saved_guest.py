"""A guest's configuration as it was last wished for, kept beside its disks to start it without its playbook.

It holds what is written into the guest, keys included, so it is as private as the disk. What tasks asked for is marked:
plugins ask for theirs again, whatever host it is, and only what tasks asked for belongs into a playbook.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.core.shape import json_of, shaped, unshaped
from banger.errors import StateError
from banger.guestconfig import GuestConfig
from banger.host import Host, HostView
from banger.types import GuestFile, Mount

FILE = "guest.json"
_VERSION = 1
_TASKS, _NO_LOG = "tasks", "no_log"


@dataclass(frozen=True, slots=True)
class _File:
    """A guest file as it is kept, its content in base64."""

    path: str
    content: str
    mode: int
    uid: int
    gid: int
    origin: str


def save(host: Host, directory: Path, config: GuestConfig) -> None:
    """Keep this configuration in the VM's directory; nothing is written where it is there already."""
    content = text(config)
    path = directory / FILE
    if host.files.status(path) is None or host.files.read(path) != content:
        host.files.write(path, content)


def is_there(host: HostView, directory: Path) -> bool:
    """Whether a VM was ever put together as far as this; without it, it cannot be started."""
    return host.files.status(directory / FILE) is not None


def load(host: HostView, directory: Path) -> GuestConfig:
    """The configuration that was kept. Raises StateError when there is none, or none that can be read."""
    return _load(host, directory)[0]


def load_marked(host: HostView, directory: Path) -> GuestConfig | None:
    """The same; None when it was kept without a mark of what tasks asked for. Raises StateError as `load` does."""
    config, marked = _load(host, directory)
    return config if marked else None


def _load(host: HostView, directory: Path) -> tuple[GuestConfig, bool]:
    path = directory / FILE
    if not is_there(host, directory):
        raise StateError(f"what belongs into this guest is not known: {path} is not there", hint="apply its playbook")
    try:
        document = json.loads(host.files.read(path))
        return config_of(document), _TASKS in document
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} is not what banger wrote ({error})", hint="apply the VM's playbook") from error


def text(config: GuestConfig) -> bytes:
    """A configuration as it is kept; the same for what is the same."""
    return json_of(document_of(config))


def document_of(config: GuestConfig) -> dict[str, Any]:
    """A configuration as JSON has it."""
    part, hidden = config.of_tasks(), config.of_no_log()
    no_log = (
        {
            "files": [f.path for f in hidden.files()],
            "mounts": [unshaped(mount) for mount in hidden.mounts],
            "authorized_keys": hidden.authorized_keys,
        }
        if hidden
        else None
    )
    return {
        "version": _VERSION,
        "files": [_document_of_file(f) for f in config.files()],
        "directories": [[d.path, d.mode, d.uid, d.gid] for d in config.directories()],
        "mounts": [unshaped(mount) for mount in config.mounts],
        "dropped_mounts": config.dropped_mounts,
        "kernel_arguments": config.kernel_arguments,
        "authorized_keys": config.authorized_keys,
        _TASKS: {
            "files": sorted(part.claims("files")),
            "directories": [d.path for d in part.directories()],
            "mounts": [unshaped(mount) for mount in part.mounts],
            "dropped_mounts": part.dropped_mounts,
            "kernel_arguments": part.kernel_arguments,
            "authorized_keys": part.authorized_keys,
        },
        **({_NO_LOG: no_log} if no_log else {}),
    }


def _document_of_file(f: GuestFile) -> dict[str, Any]:
    """Without its mark, which is told of all together."""
    document: dict[str, Any] = unshaped(f)
    del document["no_log"]
    return {**document, "content": base64.b64encode(f.content).decode()}


def config_of(document: dict[str, Any]) -> GuestConfig:
    """The configuration that a document stands for. Raises ValueError, TypeError or KeyError for one not of ours."""
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']}")
    config = GuestConfig()
    of_tasks: dict[str, Any] = document.get(_TASKS, {})  # without it, all is as a plugin's
    no_log: dict[str, Any] = document.get(_NO_LOG, {})

    def asked(kind: str, what: Any, origin: str = "") -> Any:
        hidden = what in no_log.get(kind, ())
        return config.contributed_by(origin, overriding=what in of_tasks.get(kind, ()), no_log=hidden)

    for f in document["files"]:
        shaped(_File, f)
        path, origin, content = f.pop("path"), f.pop("origin"), base64.b64decode(f.pop("content"), validate=True)
        with asked("files", path, origin):
            config.write_file(path, content, **f)
    for path, mode, uid, gid in document["directories"]:
        if not all(isinstance(number, int) for number in (mode, uid, gid)):
            raise ValueError(f"the directory {path!r} has a mode or owner that is no number")
        with asked("directories", path):
            config.add_directory(path, mode, uid=uid, gid=gid)
    for target in document["dropped_mounts"]:  # before the mounts: dropping by a task takes a mount away
        with asked("dropped_mounts", target):
            config.drop_mount(target)
    for mount in document["mounts"]:
        with asked("mounts", mount):
            config.add_mount(shaped(Mount, mount))
    for argument in document["kernel_arguments"]:
        with asked("kernel_arguments", argument):
            config.add_kernel_argument(argument)
    for key in document.get("authorized_keys", ()):
        with asked("authorized_keys", key):
            config.add_authorized_key(key)
    return config
