"""The durable store: TinyDB over one JSON file that is replaced whole, under a lock other processes honour.

Only intent and deterministic paths are kept here; what is true just now (pids, devices) lives in `handles`. TinyDB's
own JSONStorage truncates the file in place and caches queries, so each transaction reads once, works on a database in
memory, and writes once by rename, only if its block did not raise. Readers need no lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tinydb import TinyDB, where
from tinydb.storages import MemoryStorage
from tinydb.table import Table

from banger.core.locks import locked
from banger.errors import StateError
from banger.identity import Nic, SshEndpoint

SCHEMA = 1

VmState = Literal["stopped", "running"]


@dataclass(frozen=True, slots=True)
class VmRuntime:
    """A VM's durable runtime: its state and the paths and addresses that follow from its identity (seed S2)."""

    state: VmState
    guest_ip: str
    api_socket: str
    vsock_path: str
    vsock_cid: int
    log_path: str
    metrics_path: str
    dns_name: str
    vm_directory: str
    system_overlay: str
    work_disk: str
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class VmRecord:
    """Everything about a VM that outlives a reboot. Enough to tear it down without the playbook that asked for it."""

    id: str
    name: str
    image: str
    image_digest: str
    vcpus: int
    memory_bytes: int
    root_disk_bytes: int
    work_disk_bytes: int | None
    storage: str
    workdisk: str
    vmm: str
    nic: Nic
    network_options: dict[str, Any]
    runtime: VmRuntime
    overlay_bytes: int | None = None
    jailed: bool = False
    authorized_keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = field(default=())

    @property
    def directory(self) -> Path:
        return Path(self.runtime.vm_directory)

    def with_runtime(self, **changes: Any) -> VmRecord:
        return replace(self, runtime=replace(self.runtime, **changes))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> VmRecord:
        """Raises TypeError or KeyError when the document is not one of ours."""
        nic = document["nic"]
        return cls(
            **{
                **document,
                "nic": Nic(**{**nic, "ssh": SshEndpoint(**nic["ssh"])}),
                "runtime": VmRuntime(**document["runtime"]),
                "authorized_keys": tuple(document["authorized_keys"]),
                "tags": tuple(document["tags"]),
            }
        )


class Records:
    """The records inside one transaction or snapshot."""

    def __init__(self, database: TinyDB) -> None:
        self._vms: Table = database.table("vms")
        self._images: Table = database.table("images")

    def vms(self) -> list[VmRecord]:
        """Sorted by name."""
        return sorted((VmRecord.from_document(dict(row)) for row in self._vms.all()), key=lambda record: record.name)

    def by_name(self) -> dict[str, VmRecord]:
        return {record.name: record for record in self.vms()}

    def vm(self, name: str) -> VmRecord | None:
        row = self._vms.get(where("name") == name)
        return VmRecord.from_document(dict(row)) if isinstance(row, dict) else None

    def put(self, record: VmRecord) -> None:
        self._vms.upsert(asdict(record), where("id") == record.id)

    def images(self) -> dict[str, str]:
        """The digest that each image's name stood for when a playbook was last applied."""
        return {row["name"]: row["digest"] for row in self._images.all()}

    def put_image(self, name: str, digest: str) -> None:
        self._images.upsert({"name": name, "digest": digest}, where("name") == name)

    def remove(self, vm_id: str) -> None:
        self._vms.remove(where("id") == vm_id)


class Store:
    """`state.json` and its lock."""

    def __init__(self, path: Path, lock: Path) -> None:
        self._path = path
        self._lock = lock

    @contextmanager
    def transaction(self) -> Iterator[Records]:
        """Read, change and write as one step. Never hold it over slow work."""
        with locked(self._lock, purpose="writing state"):
            before = self._load()
            was = _text(before)  # TinyDB changes the very dictionaries it is given
            database = _database(before)
            yield Records(database)
            text = _text(_document(database))
            if text != was:
                self._keep_previous()
                write_atomically(self._path, text.encode())

    def snapshot(self) -> Records:
        """What is recorded now; changes made to it are lost."""
        return Records(_database(self._load()))

    @property
    def _previous(self) -> Path:
        return self._path.with_name(self._path.name + ".bak")

    def _keep_previous(self) -> None:
        """The file as it was before this change, under another name; a link, so it costs no copy."""
        link = self._previous.with_name(f".{self._previous.name}.tmp")
        with suppress(OSError):  # there is none yet, or no links on this file system: a comfort, no more
            link.unlink(missing_ok=True)
            link.hardlink_to(self._path)
            link.replace(self._previous)

    def _load(self) -> dict[str, Any]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return {"schema": SCHEMA}
        except OSError as error:
            raise StateError(f"cannot read {self._path}: {error.strerror}") from error
        try:
            document = json.loads(raw)
            version = document["schema"]
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(
                f"{self._path} is not a state file of ours ({error}); nothing was changed",
                hint=f"go back to the one before it: cp {self._previous} {self._path}",
            ) from error
        if version != SCHEMA:
            raise StateError(
                f"{self._path} has schema {version}; this banger knows {SCHEMA}", hint="use the version that wrote it"
            )
        return dict(document)


def _database(document: dict[str, Any]) -> TinyDB:
    database = TinyDB(storage=MemoryStorage)
    storage = database.storage
    assert isinstance(storage, MemoryStorage)
    storage.memory = {name: table for name, table in document.items() if name != "schema"}
    return database


def _text(document: dict[str, Any]) -> str:
    """JSON with one record a line: quick to make, for an indented one is not, and to read with diff(1)."""
    members = [f'"schema": {json.dumps(document["schema"])}']
    for name, rows in document.items():
        if name != "schema":
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
            members.append(f"{json.dumps(name)}: {{\n{lines}\n }}")
    return "{\n " + ",\n ".join(members) + "\n}\n"


def _document(database: TinyDB) -> dict[str, Any]:
    tables = database.storage.read() or {}
    # JSON has only string keys; TinyDB's in-memory document ids are integers.
    return {"schema": SCHEMA} | {name: {str(key): row for key, row in rows.items()} for name, rows in tables.items()}


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` (mode 0600) whole or not at all: temporary file, fsync, rename, directory fsync.

    Raises StateError; the old content is then still there.
    """
    try:
        _replace(path, content, durable)
    except OSError as error:
        raise StateError(
            f"cannot write {path}: {error.strerror}; what it held before is still there",
            hint=f"df -h {path.parent}; ls -ld {path.parent}",
        ) from error


def _replace(path: Path, content: bytes, durable: bool) -> None:
    import tempfile  # reading state, the more frequent thing, needs none of it

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
