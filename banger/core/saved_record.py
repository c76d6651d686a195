"""What the store says of a VM and of an image, once more beside the thing itself: for when the store is lost.

It is intent that `banger recover` makes the store of again. What changes while nothing is wished for (whether a VM
runs, its last error) is not in it, so it is written when a wish changes, and by a run that changes nothing never.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from banger.core.home import RECORD
from banger.core.shape import json_of, shaped, unshaped
from banger.core.state import VmRecord
from banger.errors import StateError
from banger.host import Host, HostView

NAMES = "names.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    vm: VmRecord


@dataclass(frozen=True, slots=True)
class _Names:
    version: int
    names: tuple[str, ...]


def save(host: Host, record: VmRecord) -> None:
    """Keep this record in the VM's directory; nothing is written where it is there already."""
    _write(host, record.directory / RECORD, _Kept(_VERSION, record.with_runtime(state="stopped", last_error="")))


def load(host: HostView, directory: Path) -> VmRecord:
    """The record that was kept in a VM's directory, of a VM that does not run. Raises StateError without a good one."""
    path = directory / RECORD
    if host.files.status(path) is None:
        raise StateError(f"{path} is not there")
    try:
        kept = shaped(_Kept, json.loads(host.files.read(path)))
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is not what banger wrote ({error})") from error
    if kept.version != _VERSION:
        raise StateError(f"{path} has version {kept.version}; this banger knows {_VERSION}")
    record = kept.vm
    if (record.id, record.directory) != (directory.name, directory):
        raise StateError(f"{path} is of the VM {record.id} in {record.directory}")
    return record


def save_names(host: Host, directory: Path, names: set[str]) -> None:
    """Keep what the image in this directory is called; nothing is written where that is there already."""
    _write(host, directory / NAMES, _Names(_VERSION, tuple(sorted(names))))


def load_names(host: HostView, directory: Path) -> set[str]:
    """What the image in this directory was last called; empty when it is not known."""
    path = directory / NAMES
    if host.files.status(path) is None:
        return set()
    try:
        return set(shaped(_Names, json.loads(host.files.read(path))).names)
    except (ValueError, RecursionError):
        return set()


def _write(host: Host, path: Path, document: _Kept | _Names) -> None:
    content = json_of(unshaped(document))
    if host.files.status(path) is None or host.files.read(path) != content:
        host.files.write(path, content)
