"""A guest's configuration as it was last wished for, kept beside its disks to start it without its playbook.

It holds what is written into the guest, keys included, so it is as private as the disk.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from banger.errors import StateError
from banger.guestconfig import GuestConfig
from banger.host import Host, HostView
from banger.types import Mount

FILE = "guest.json"
_VERSION = 1


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
    path = directory / FILE
    if not is_there(host, directory):
        raise StateError(f"what belongs into this guest is not known: {path} is not there", hint="apply its playbook")
    try:
        return _config(json.loads(host.files.read(path)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(f"{path} is not what banger wrote ({error})", hint="apply the VM's playbook") from error


def text(config: GuestConfig) -> bytes:
    """A configuration as it is kept; the same for what is the same."""
    document = {
        "version": _VERSION,
        "files": [{**asdict(f), "content": base64.b64encode(f.content).decode()} for f in config.files()],
        "directories": [[d.path, d.mode, d.uid, d.gid] for d in config.directories()],
        "mounts": [asdict(mount) for mount in config.mounts],
        "dropped_mounts": config.dropped_mounts,
        "kernel_arguments": config.kernel_arguments,
    }
    return json.dumps(document, indent=1).encode()


def _config(document: dict[str, Any]) -> GuestConfig:
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']}")
    config = GuestConfig()
    for f in document["files"]:
        content = base64.b64decode(f.pop("content"), validate=True)
        config.write_file(f.pop("path"), content, **f)
    for path, mode, uid, gid in document["directories"]:
        config.add_directory(path, mode, uid=uid, gid=gid)
    for mount in document["mounts"]:
        config.add_mount(Mount(**{**mount, "options": tuple(mount["options"])}))
    for target in document["dropped_mounts"]:
        config.drop_mount(target)
    for argument in document["kernel_arguments"]:
        config.add_kernel_argument(argument)
    return config
