"""The end of a VM: everything it consists of, from its record and its handles; the record goes last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from banger.core import assemble, images
from banger.core.apply import Interrupted, Outcome
from banger.core.handles import vmm_process
from banger.core.leftovers import LeftoverVmm
from banger.core.locks import discard
from banger.core.session import Session
from banger.core.state import VmRecord
from banger.core.teardown import tear_down
from banger.errors import PlaybookError, PluginError, StateError, VmmError
from banger.guestconfig import GuestConfig
from banger.resource import Lifetime, Resource
from banger.types import Image, VmFiles


def resources_of(session: Session, record: VmRecord, config: GuestConfig | None = None) -> list[Resource]:
    """What a recorded VM consists of; its plugins may be gone by now, or refuse what the record says.

    `config`: what belongs into its guest, where that matters.
    """
    vm = session.vm(record, keys=False)
    image = _image(session, record)
    try:
        resources = assemble.assemble(vm, image, config or GuestConfig(), session.plugins, session.home.ssh_key)
    except (PluginError, PlaybookError) as error:
        session.report({"type": "note", "subject": f"vm/{record.name}", "message": error.message})
        directory = assemble.VmDirectory(vm.directory_key, vm.directory)
        resources = [directory, LeftoverVmm(vm.vmm_key, (vm.directory_key,), VmFiles(vm.directory))]
    return resources


def _image(session: Session, record: VmRecord) -> Image:
    """With facts that can be read: a VM goes whatever has become of its image."""
    try:
        return images.image_of_record(session.home, session.view, record.image, record.image_digest)
    except StateError:
        directory = session.home.image_directory(record.image_digest)
        return Image(record.image, record.image_digest, directory, images.UNBUILT)


def former_of(session: Session, record: VmRecord) -> list[Resource]:
    """What its handles stand for, each by the plugin that made it; that may not be what the record says now."""
    return session.plugins.teardown_handles(session.vm(record, keys=False), session.handles.of(record.directory))


def destroy_vm(session: Session, record: VmRecord) -> Outcome:
    """Remove a VM and its record. On failure the record stays, with the error, so that the next try finds it again."""
    outcome = take_away(session, record)
    write_off(session, [(record, outcome)])
    return outcome


def write_off(session: Session, ended: Sequence[tuple[VmRecord, Outcome]]) -> None:
    """The records of VMs that are proven gone go, those of others get the error: one write, however many they are.

    Killed before it, there is a record of nothing, and the next try finds nothing and comes here again.
    """
    if not ended:
        return
    gone = [record for record, outcome in ended if outcome.error is None]
    with session.store.transaction() as records:
        records.remove(*(record.id for record in gone))
        for record, outcome in ended:
            if outcome.error and not isinstance(outcome.error, Interrupted):
                records.put(record.with_runtime(last_error=str(outcome.error)))
    for record in gone:  # after the record: whoever gets the lock next finds the VM not there
        discard(session.home.lock(f"vm-{record.name}"))


def take_away(session: Session, record: VmRecord) -> Outcome:
    """Remove all a VM consists of, and prove it gone; its record is as it was."""
    subject = f"vm/{record.name}"
    resources = resources_of(session, record)
    known = {resource.key for resource in resources}
    resources = [*(each for each in former_of(session, record) if each.key not in known), *resources]
    handles = session.handles.of(record.directory)

    def forget(resource: Resource) -> None:
        # Its file goes with the directory, and on a full disk could not even be made shorter.
        if resource.lifetime is Lifetime.BOOT:
            with suppress(StateError):
                session.handles.forget(record.directory, resource.key)

    failures = tear_down(subject, resources, session.host, handles, session.report, forget, discard=True)
    if not failures and vmm_process(session.view.processes, record, handles):
        failures = [VmmError(f"a process still holds {record.runtime.api_socket}; the record is kept")]
    if failures:
        error = failures[0] if len(failures) == 1 else ExceptionGroup(f"{record.name} is not all gone", failures)
        session.report(
            {"type": "failed", "subject": subject, "message": _told(error), "hint": "run the same command again"}
        )
        return Outcome(subject, error=error)
    session.handles.drop(record.directory)
    return Outcome(subject, changed=len(resources))


def _told(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(f"{e} ({' '.join(getattr(e, '__notes__', []))})" for e in error.exceptions)
    return " ".join([str(error), *getattr(error, "__notes__", [])])
