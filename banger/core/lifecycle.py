"""Recorded VMs, one by one and without their playbook: started, stopped, deleted, shown, run.

A start writes what was last wished for into the guest (seed S9), so it is the same plan as that of an apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Event as Flag
from typing import Any

from banger.core import assemble, saved_guest
from banger.core.apply import Outcome, carry_out, in_parallel
from banger.core.choice import network_of
from banger.core.converge import create
from banger.core.destroy import destroy_vm, former_of, resources_of
from banger.core.handles import described, vmm_process
from banger.core.images import known_image
from banger.core.plan import plan
from banger.core.play import NAME, NAME_HINT
from banger.core.playbook import adhoc
from banger.core.reconcile import reconcile
from banger.core.session import Session, VmJournal
from banger.core.state import Records, VmRecord
from banger.core.suggest import did_you_mean
from banger.core.variables import shorten
from banger.errors import UsageError
from banger.resource import Absent, Resource

Act = Callable[[Session, VmRecord, Flag], Outcome]
Confirm = Callable[[Sequence[str]], None]


def recorded(session: Session, names: Sequence[str]) -> list[VmRecord]:
    """The records of these VMs. Raises UsageError for a name that has none, with the nearest that has."""
    for name in names:
        _refuse_unusable(name)
    known = session.store.snapshot().by_name()
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no VM {name!r}", hint=did_you_mean(name, known) or "banger vm list shows them all"
            )
    return [known[name] for name in dict.fromkeys(names)]


def start(session: Session, names: Sequence[str], forks: int) -> list[Outcome]:
    """Start these VMs; one that runs already is left as it is."""
    return _each(session, names, forks, "banger vm start", _start)


def stop(session: Session, names: Sequence[str], forks: int) -> list[Outcome]:
    """Stop these VMs, guests first; their disks stay."""
    return _each(session, names, forks, "banger vm stop", _stop)


def delete(session: Session, names: Sequence[str], forks: int, confirm: Confirm = lambda names: None) -> list[Outcome]:
    """Take these VMs away with all they are. `confirm` is told of them first, and what it raises ends the run."""

    def act(session: Session, record: VmRecord, _: Flag) -> Outcome:
        return destroy_vm(session, record)

    return _each(session, names, forks, "banger vm delete", act, confirm)


def ensure_running(session: Session, name: str, wish: Mapping[str, Any]) -> list[Outcome]:
    """Start this VM, or make it when there is none of this name.

    `wish`: keys of a VM as a playbook has them, sizes as text, for a new one. Raises UsageError for what cannot be.
    """
    _refuse_unusable(name)  # a lock has it in its path
    with session.locked([name], "banger vm run"):
        records = session.store.snapshot()
        record = records.vm(name)
        if record is None or not saved_guest.is_there(session.view, record.directory):
            return _make(session, name, wish, records)
        if wish:
            raise UsageError(
                f"{name} is there already, so it cannot be given {', '.join(sorted(wish))}",
                hint="change its playbook and apply that, or choose another name",
            )
        return _settled(session, [name], 1, _start)


def _refuse_unusable(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{shorten(name)} cannot be the name of any VM", hint=NAME_HINT)


def _make(session: Session, name: str, wish: Mapping[str, Any], records: Records) -> list[Outcome]:
    """Make a VM that there is none of, or whose making was broken off before anything came of it."""
    known = records.images()
    begun = records.vm(name)
    image = wish.get("image") or (begun.image if begun else None) or (next(iter(known)) if len(known) == 1 else None)
    if image not in known:
        what = f"there is no image {image!r}" if image else "it is not said which image"
        hint = f"--image, one of: {', '.join(sorted(known))}" if known else "apply a playbook with an image first"
        raise UsageError(what, hint=hint)
    networks = {record.nic.network: network_of(record, session.plugins) for record in records.vms()}
    playbook = adhoc(name, {**wish, "image": image}, session.plugins.declared(), networks)
    return create(session, playbook, {image: known_image(session.home, image, known[image])})


def show(session: Session, name: str) -> dict[str, Any]:
    """Everything about one VM: its record, and what is true of it just now."""
    (record,) = recorded(session, [name])
    handles = session.handles.of(record.directory)
    vmm = vmm_process(session.view.processes, record, handles)
    details = {}
    for resource in resources_of(session, record):
        there = resource.observe(session.view, handles.get(resource.key))
        if not isinstance(there, Absent):
            details[resource.key] = {**there.handle, **resource.describe(session.view, there.handle)}
    return {**described(record, alive=vmm is not None), "resources": details}


def _each(
    session: Session, names: Sequence[str], forks: int, purpose: str, act: Act, confirm: Confirm = lambda names: None
) -> list[Outcome]:
    recorded(session, names)  # a wrong name is told before anything is locked
    with session.locked(list(names), purpose):
        confirm(list(dict.fromkeys(names)))
        return _settled(session, names, forks, act)


def _settled(session: Session, names: Sequence[str], forks: int, act: Act) -> list[Outcome]:
    """Act on these VMs, whose locks are held, once what is recorded of them is true."""
    reconcile(session, frozenset(names))

    def task(record: VmRecord) -> Callable[[Flag], Outcome]:
        return lambda cancelled: act(session, record, cancelled)

    work = {f"vm/{record.name}": task(record) for record in recorded(session, names)}
    return in_parallel(work, forks, session.report)


def _start(session: Session, record: VmRecord, cancelled: Flag) -> Outcome:
    return _converge(session, record, cancelled, running=True)


def _stop(session: Session, record: VmRecord, cancelled: Flag) -> Outcome:
    return _converge(session, record, cancelled, running=False)


def _converge(session: Session, record: VmRecord, cancelled: Flag, *, running: bool) -> Outcome:
    handles, former = session.handles.of(record.directory), former_of(session, record)
    if running:
        config = saved_guest.load(session.view, record.directory)
        wanted, unwanted = resources_of(session, record, config), list[Resource]()
    else:  # a stopped VM's disks are nobody's business here
        wanted, unwanted = [], assemble.split_by_wish(resources_of(session, record), running=False)[1]
    todo = plan(
        f"vm/{record.name}", wanted, session.view, handles, unwanted=unwanted, former=former, user=f"{record.name}/vmm"
    )
    session.announce(todo)
    if running and todo.changes:
        _record(session, record.with_runtime(state="running", last_error=""))
    outcome = carry_out(todo, session.host, VmJournal(session.handles, record), session.report, cancelled)
    vmm = vmm_process(session.view.processes, record, session.handles.of(record.directory))
    error = str(outcome.error) if outcome.error else ""
    _record(session, record.with_runtime(state="running" if vmm else "stopped", last_error=error))
    return outcome


def _record(session: Session, record: VmRecord) -> None:
    if session.store.snapshot().vm(record.name) != record:
        with session.store.transaction() as records:
            records.put(record)
