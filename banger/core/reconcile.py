"""At the start of a command: what is recorded as running, or has handles, and is not alive, is taken down.

What is alive and not recorded so is recorded.

Seed S6. The handles go to teardown before the record changes, so that whatever they stand for is really gone.
"""

from __future__ import annotations

from contextlib import suppress

from banger.core.handles import vm_alive, vmm_process
from banger.core.session import Session
from banger.core.state import VmRecord
from banger.core.teardown import tear_down
from banger.errors import Busy


def reconcile(session: Session, held: frozenset[str] = frozenset()) -> None:
    """Settle every recorded VM. `held`: names whose locks the caller holds; one that another command holds is its."""
    for record in session.store.snapshot().vms():
        if not _untrue(session, record):
            continue
        if record.name in held:
            _settle(session, record)
            continue
        with suppress(Busy), session.locked([record.name], "settling what is not running"):
            session.handles.drop(record.directory)
            current = session.store.snapshot().vm(record.name)  # whoever held the lock may have settled it
            if current and _untrue(session, current):
                _settle(session, current)


def _untrue(session: Session, record: VmRecord) -> bool:
    handles = session.handles.of(record.directory)
    suspect = record.runtime.state == "running" or bool(handles)  # handles alone: killed while writing a stopped disk
    return suspect and not vm_alive(session.view.processes, record, handles)


def _settle(session: Session, record: VmRecord) -> None:
    if vmm_process(session.view.processes, record, session.handles.of(record.directory)) is None:
        _demote(session, record)
    else:  # it lives, and it is the record that is behind: put back from a backup, or not written any more
        with session.store.transaction() as records:
            records.put(record.with_runtime(state="running"))


def _demote(session: Session, record: VmRecord) -> None:
    subject = f"vm/{record.name}"
    session.report({"type": "note", "subject": subject, "message": "is not running any more; taking down what is left"})
    vm = session.vm(record, keys=False)
    handles = session.handles.of(record.directory)
    failures = tear_down(
        subject,
        session.plugins.teardown_handles(vm, handles),
        session.host,
        handles,
        session.report,
        lambda resource: session.handles.forget(record.directory, resource.key),
    )
    if failures:
        record = record.with_runtime(last_error=str(failures[0]))
    else:
        for key in handles:
            session.handles.forget(record.directory, key)
    record = record.with_runtime(state="stopped")
    with session.store.transaction() as records:
        records.put(record)
