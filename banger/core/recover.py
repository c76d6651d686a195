"""The store made again from the host alone: from the VMs' own directories, the images' own, and the VMMs that run.

What the store still tells is true and stays. It only looks and writes the store: no VM is started, stopped or changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from banger.core import saved_record
from banger.core.handles import vmm_process
from banger.core.home import RECORD
from banger.core.session import Session
from banger.core.state import SpoiltState, VmRecord
from banger.errors import StateError
from banger.imagedirectory import FACTS

_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """A VM's directory that the store knows nothing of. `record`: what it was; None: that cannot be told, and `why`."""

    directory: Path
    record: VmRecord | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What there is to recover. `spoilt`: what is wrong with the store; empty when nothing is."""

    vms: tuple[Found, ...]
    images: Mapping[str, str]
    """By name, the digest of the image that it stands for."""
    spoilt: str = ""

    @property
    def records(self) -> list[VmRecord]:
        return [found.record for found in self.vms if found.record]

    @property
    def anything(self) -> bool:
        return bool(self.records or self.images or self.spoilt)


def look(session: Session) -> Findings:
    """What could be recovered. Raises StateError for a store that another version wrote, or that may not be read."""
    try:
        records = session.store.snapshot()
        known, names, spoilt = records.vms(), records.images(), ""
    except SpoiltState as error:
        known, names, spoilt = [], {}, error.message
    return _look(session, known, names, spoilt)


def recover(session: Session) -> Findings:
    """Record what could be; a spoilt store is set aside as `state.json.spoilt`. Of running guests, who answers."""
    with session.store.anew() as records:
        spoilt = look(session).spoilt
        findings = _look(session, records.vms(), records.images(), spoilt)
        for record in findings.records:
            records.put(record)
        for name, digest in findings.images.items():
            records.put_image(name, digest)
    for record in findings.records:
        _note_answer(session, record)
    return findings


def recoverable(session: Session, known: Iterable[VmRecord]) -> list[VmRecord]:
    """The VMs beside these whose own directories still tell what they are; whether its name is free or not."""
    return [found.record for found in _directories(session, known, {}) if found.record]


def _note_answer(session: Session, record: VmRecord) -> None:
    """What a start would have noted of a guest that answers: only such a one is asked to sync before a stop."""
    handles = session.handles.of(record.directory)
    vmm = vmm_process(session.view.processes, record, handles)
    key = f"{record.name}/ready"
    if vmm and key not in handles and session.view.network.ssh_banner(record.nic.ssh, _ANSWER_S):
        session.handles.record(record.directory, key, {"pid": vmm.pid, "start_time": vmm.start_time})


def _look(session: Session, known: list[VmRecord], names: Mapping[str, str], spoilt: str) -> Findings:
    earlier = session.store.previous() if spoilt else None  # else what it has more was removed since
    before = {record.id: record for record in earlier.vms()} if earlier else {}
    vms = _with_names_of_their_own(session, known, _directories(session, known, before))
    records = [found.record for found in vms if found.record]
    images = _image_names(session, records, earlier.images() if earlier else {})
    return Findings(tuple(vms), {name: digest for name, digest in images.items() if name not in names}, spoilt)


def _directories(session: Session, known: Iterable[VmRecord], before: Mapping[str, VmRecord]) -> list[Found]:
    """What each VM's directory tells, of those that are not known; else what a record `before` does, by id."""
    view, ids = session.view, {record.id for record in known}
    found = []
    for directory in view.files.list(session.home.vms):
        status = view.files.status(directory)
        if directory.name in ids or status is None or not status.is_directory:
            continue
        try:
            record = saved_record.load(view, directory)
        except StateError as error:
            was = before.get(directory.name)
            if was is None or was.directory != directory:
                found.append(Found(directory, why=error.message))
                continue
            record = was
        running = vmm_process(view.processes, record, {}) is not None
        found.append(Found(directory, record.with_runtime(state="running" if running else "stopped", last_error="")))
    return found


def _with_names_of_their_own(session: Session, known: Iterable[VmRecord], found: Iterable[Found]) -> list[Found]:
    """Of several VMs of one name the store's stays, else the one that runs, else the one that was written last."""
    taken = {record.name for record in known}

    def rank(each: Found) -> tuple[bool, int]:
        status = session.view.files.status(each.directory / RECORD)
        return each.record is not None and each.record.runtime.state == "running", status.mtime_ns if status else 0

    settled = []
    for each in sorted(found, key=rank, reverse=True):
        if each.record and each.record.name in taken:
            why = f"another VM is called '{each.record.name}'; to give this one up: rm -r {each.directory}"
            settled.append(replace(each, record=None, why=why))
        else:
            taken |= {each.record.name} if each.record else set()
            settled.append(each)
    return sorted(settled, key=lambda each: each.record.name if each.record else each.directory.name)


def _image_names(session: Session, records: Iterable[VmRecord], before: Mapping[str, str]) -> dict[str, str]:
    """By name, the digest of a whole image: as its directory says, the last written first; as VMs and backups do."""
    view, home = session.view, session.home
    whole = [directory for directory in view.files.list(home.images) if view.files.status(directory / FACTS)]
    told: list[tuple[int, str, str]] = []
    for directory in whole:
        status = view.files.status(directory / saved_record.NAMES)
        names = saved_record.load_names(view, directory)
        told += [(status.mtime_ns if status else 0, name, directory.name) for name in names]
    known = {directory.name for directory in whole}
    images = {name: digest for name, digest in before.items() if digest in known}
    images |= {record.image: record.image_digest for record in records if record.image_digest in known}
    return images | {name: digest for _, name, digest in sorted(told)}
