"""The durable store: TinyDB over one JSON file that is replaced whole, under a lock other processes honour.

Only intent and deterministic paths are kept here; what is true just now (pids, devices) lives in `handles`. TinyDB's
own JSONStorage truncates the file in place and caches queries, so each transaction reads once, works on a database in
memory, and writes once by rename, only if its block did not raise. Readers need no lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tinydb import TinyDB, where
from tinydb.storages import MemoryStorage
from tinydb.table import Table

from banger.core.home import RECORD
from banger.core.locks import locked, make_private
from banger.core.shape import shaped, unshaped
from banger.errors import Busy, HomeError, StateError
from banger.identity import Nic

SCHEMA = 1

VmState = Literal["stopped", "running"]
_CURE = "banger recover says what of it can be found again, and with --write does it"


class SpoiltState(HomeError):
    """The store is gone, or cannot be understood."""


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
        """Raises ValueError when the document is not one of ours."""
        return shaped(cls, document)


class Records:
    """What is recorded, to be read."""

    def __init__(self, database: TinyDB, unreadable: Callable[[Exception], StateError]) -> None:
        self._vms: Table = database.table("vms")
        self._images: Table = database.table("images")
        self._unreadable = unreadable
        self._read: list[VmRecord] | None = None

    def vms(self) -> list[VmRecord]:
        """Sorted by name."""
        if self._read is None:
            self._read = sorted((self._record(row) for row in self._vms.all()), key=lambda record: record.name)
        return list(self._read)

    def by_name(self) -> dict[str, VmRecord]:
        return {record.name: record for record in self.vms()}

    def vm(self, name: str) -> VmRecord | None:
        row = self._vms.get(where("name") == name)
        return self._record(row) if isinstance(row, dict) else None

    def images(self) -> dict[str, str]:
        """The digest that each image's name stood for when a playbook was last applied."""
        try:
            return {row["name"]: row["digest"] for row in self._images.all()}
        except KeyError as error:
            raise self._unreadable(error) from error

    def _record(self, row: dict[str, Any]) -> VmRecord:
        try:
            return VmRecord.from_document(row)
        except ValueError as error:
            raise self._unreadable(error) from error


class Transaction(Records):
    """What is recorded, to be changed."""

    def put(self, *records: VmRecord) -> None:
        """Of several, the last of an id is kept. Raises Busy for a card that another VM was given meanwhile."""
        given = {record.id: record for record in records}
        _refuse_twins({record.id: record for record in self.vms()}, given)
        self._read = None
        for document in self._vms.search(where("id").test(given.__contains__)):
            self._vms.update(unshaped(given.pop(document["id"])), doc_ids=[document.doc_id])
        self._vms.insert_multiple(unshaped(record) for record in given.values())

    def put_image(self, name: str, digest: str) -> None:
        self._images.upsert({"name": name, "digest": digest}, where("name") == name)

    def remove(self, *vm_ids: str) -> None:
        self._read = None
        self._vms.remove(where("id").test(set(vm_ids).__contains__))


class Store:
    """`state.json` and its lock."""

    def __init__(self, path: Path, lock: Path) -> None:
        self._path = path
        self._lock = lock
        self._seen: tuple[tuple[int, int, int], Records] | None = None
        """What was read last, and which file that was."""

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Read, change and write as one step. Never hold it over slow work."""
        with locked(self._lock, purpose="writing state"):
            before = self._load()
            was = _text(before)  # TinyDB changes the very dictionaries it is given
            database = _database(before)
            yield Transaction(database, self._unreadable)
            text = _text(_document(database))
            if text != was:
                self._keep_previous()
                self._seen = None
                write_atomically(self._path, text.encode())

    def sweep(self) -> None:
        """Take away what a command that was killed while it wrote has left."""
        debris = [path for path in map(temporary_of, (self._path, self._previous)) if path.exists()]
        if debris:
            with locked(self._lock, purpose="writing state"):
                for path in debris:
                    path.unlink(missing_ok=True)

    def snapshot(self) -> Records:
        """What is recorded now. Read again only when the file is another: it is replaced, never changed."""
        signature = _signature(self._path)
        if signature is None or self._seen is None or self._seen[0] != signature:
            records = Records(_database(self._load()), self._unreadable)
            if signature is None:
                return records
            self._seen = signature, records
        return self._seen[1]

    @contextmanager
    def anew(self) -> Iterator[Transaction]:
        """A transaction that also a spoilt store does not stop: that is set aside, and there are no records."""
        with locked(self._lock, purpose="writing state"):
            try:
                before = self._load()
                _check(Records(_database(before), self._unreadable))
                spoilt = False
            except SpoiltState:
                before, spoilt = {"schema": SCHEMA}, True
            was = _text(before)
            database = _database(before)
            yield Transaction(database, self._unreadable)
            text = _text(_document(database))
            if spoilt:
                with suppress(FileNotFoundError):
                    self._path.replace(self._path.with_name(self._path.name + ".spoilt"))
            elif text != was:
                self._keep_previous()
            if spoilt or text != was:
                write_atomically(self._path, text.encode())

    def previous(self) -> Records:
        """What was recorded before the last change; nothing when that cannot be told."""
        earlier = Store(self._previous, self._lock)
        try:
            records = earlier.snapshot()
            _check(records)
        except StateError:
            return Records(_database({}), self._unreadable)
        return records

    @property
    def _previous(self) -> Path:
        return self._path.with_name(self._path.name + ".bak")

    def _keep_previous(self) -> None:
        """The file as it was before this change, under another name; a link, so it costs no copy."""
        link = temporary_of(self._previous)
        with suppress(OSError):  # there is none yet, or no links on this file system: a comfort, no more
            link.unlink(missing_ok=True)
            link.hardlink_to(self._path)
            try:
                link.replace(self._previous)
            finally:  # rename(2) leaves it, too, when both are already names of one file
                link.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            # A state file is replaced, never removed: without it VMs would be forgotten.
            if self._previous.is_file() or any(self._path.parent.glob(f"vms/*/{RECORD}")):
                raise SpoiltState(f"{self._path} is gone; nothing was changed", hint=_CURE) from None
            return {"schema": SCHEMA}
        except OSError as error:
            raise HomeError(
                f"cannot read {self._path}: {error.strerror}; nothing was changed", hint=f"ls -ld {self._path}"
            ) from error
        try:
            document = json.loads(raw)
            version = document["schema"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._unreadable(error) from error
        if version != SCHEMA:
            raise HomeError(
                f"{self._path} has schema {version}; this banger knows {SCHEMA}", hint="use the version that wrote it"
            )
        if not all(_is_table(table) for name, table in document.items() if name != "schema"):
            raise self._unreadable(ValueError("a table in it is none"))
        return dict(document)

    def _unreadable(self, error: Exception) -> SpoiltState:
        return SpoiltState(f"{self._path} is not a state file of ours ({error}); nothing was changed", hint=_CURE)


def _refuse_twins(known: Mapping[str, VmRecord], given: Mapping[str, VmRecord]) -> None:
    """No card that was chosen just now is another VM's: they are chosen before they are recorded. All by id."""
    moved = {vm_id for vm_id, record in given.items() if vm_id not in known or known[vm_id].nic != record.nic}
    if not moved:
        return
    holders = {record.nic.ssh: record for vm_id, record in {**known, **given}.items() if vm_id not in moved}
    for record in map(given.__getitem__, moved):
        ssh = record.nic.ssh
        if (holder := holders.setdefault(ssh, record)) is not record:
            raise Busy(
                f"{ssh.host}:{ssh.port} was given to {holder.name} while it was being chosen for {record.name}",
                hint="run this again: it chooses another",
            )


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Which file it is, taken before it is read: what replaces it meanwhile is another one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _check(records: Records) -> None:
    """Raises SpoiltState when something in there cannot be read."""
    records.vms()
    records.images()


def _is_table(table: object) -> bool:
    """Rows by number, as TinyDB has them; JSON makes the numbers text."""
    return isinstance(table, dict) and all(key.isdecimal() and isinstance(row, dict) for key, row in table.items())


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

    The caller holds the lock of what it is about: the temporary file has always the same name, so that what a kill
    leaves of it is written over. Raises StateError; the old content is then still there.
    """
    try:
        _replace(path, content, durable)
    except OSError as error:
        raise StateError(
            f"cannot write {path}: {error.strerror}; what it held before is still there",
            hint=f"df -h {path.parent}; ls -ld {path.parent}",
        ) from error


def temporary_of(path: Path) -> Path:
    """What is written before it gets the name `path`."""
    return path.with_name(f".{path.name}.tmp")


def _replace(path: Path, content: bytes, durable: bool) -> None:
    make_private(path.parent)
    temporary = temporary_of(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
