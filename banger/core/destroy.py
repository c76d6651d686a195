"""The end of a VM: everything it consists of, from its record and its handles; the record goes last."""

from __future__ import annotations

from banger.core import assemble, images
from banger.core.apply import Outcome
from banger.core.handles import vmm_process
from banger.core.locks import discard
from banger.core.session import Session
from banger.core.state import VmRecord
from banger.core.teardown import tear_down
from banger.errors import VmmError
from banger.guestconfig import GuestConfig
from banger.resource import Resource
from banger.types import Image


def resources_of(session: Session, record: VmRecord) -> list[Resource]:
    """What a recorded VM consists of, and whatever else its handles stand for."""
    vm = session.vm(record)
    image = Image(record.image, record.image_digest, session.home.image_directory(record.image_digest), images.UNBUILT)
    resources = assemble.assemble(vm, image, GuestConfig(), session.plugins)
    known = {resource.key for resource in resources}
    recorded = session.plugins.teardown_handles(vm, session.handles.of(record.directory))
    return [*(resource for resource in recorded if resource.key not in known), *resources]


def destroy_vm(session: Session, record: VmRecord) -> Outcome:
    """Remove a VM. On failure its record stays, with the error, so that the next try finds it again."""
    subject = f"vm/{record.name}"
    resources = resources_of(session, record)
    there = [r for r in resources if session.view.files.status(record.directory) is not None]
    handles = session.handles.of(record.directory)
    failures = tear_down(
        subject,
        resources,
        session.host,
        handles,
        session.report,
        lambda resource: None if resource.key.endswith("/directory") else _forget(session, record, resource),
    )
    if not failures and vmm_process(session.view.processes, record, handles):
        failures = [VmmError(f"a process still holds {record.runtime.api_socket}; the record is kept")]
    if failures:
        error = failures[0] if len(failures) == 1 else ExceptionGroup(f"{record.name} is not all gone", failures)
        with session.store.transaction() as records:
            records.put(record.with_runtime(last_error=str(error)))
        session.report({"type": "failed", "subject": subject, "message": _told(error), "hint": "run destroy again"})
        return Outcome(subject, error=error)
    session.handles.drop(record.directory)
    with session.store.transaction() as records:
        records.remove(record.id)
    discard(session.home.lock(f"vm-{record.name}"))
    return Outcome(subject, changed=max(1, len(there)))


def _forget(session: Session, record: VmRecord, resource: Resource) -> None:
    session.handles.forget(record.directory, resource.key)


def _told(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(f"{e} ({' '.join(getattr(e, '__notes__', []))})" for e in error.exceptions)
    return " ".join([str(error), *getattr(error, "__notes__", [])])
