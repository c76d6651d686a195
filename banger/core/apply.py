"""Carrying out plans: journalled, in parallel over subjects, rolled back where they fail."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event as Flag
from typing import Protocol

from banger.core.plan import Action, Plan, Verb
from banger.core.report import Report
from banger.core.teardown import failing, remove, staging, tear_down
from banger.errors import BangerError
from banger.host import Host
from banger.resource import Handle, Lifetime, Resource, Stage
from banger.scalars import some


class Journal(Protocol):
    """Where one subject's handles are recorded: before each effect, and after it."""

    def announce(self, key: str) -> None: ...
    def record(self, key: str, handle: Handle) -> None: ...
    def forget(self, key: str) -> None: ...


class NoJournal:
    """For subjects that leave nothing of lifetime `boot` (images)."""

    def announce(self, key: str) -> None: ...
    def record(self, key: str, handle: Handle) -> None: ...
    def forget(self, key: str) -> None: ...


class Interrupted(BangerError):
    """The user asked to stop; what was half done has been rolled back."""

    exit_code = 130


class NotBegun(Interrupted):
    """The user asked to stop before anything was done about it: it is as it was, and has not failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one subject's plan came to."""

    subject: str
    ok: int = 0
    changed: int = 0
    pending: int = 0
    error: BaseException | None = None
    skipped: int = 0
    """Tasks that were not for it."""

    @property
    def recap(self) -> dict[str, object]:
        counts = {"ok": self.ok, "changed": self.changed, "failed": int(self.error is not None)}
        return {"type": "recap", "subject": self.subject, **counts, "pending": self.pending, "skipped": self.skipped}


def carry_out(plan: Plan, host: Host, journal: Journal, report: Report, cancelled: Flag) -> Outcome:
    """Do a plan's actions in order. On failure what this run created is removed again and the first error is kept."""
    handles: dict[str, Handle] = {action.resource.key: action.handle for action in plan.actions}
    created: list[Resource] = []
    changed = 0
    try:
        for action in plan.actions:
            if cancelled.is_set():
                raise Interrupted("interrupted")
            if action.changes:
                if action.verb is Verb.CREATE and not action.begun:
                    created.append(action.resource)
                stage = _stage(plan.subject, action.resource, report, cancelled)
                handles[action.resource.key] = _do(action, host, handles, journal, stage)
                if action.verb is Verb.REMOVE and action.resource in created:  # it was scaffolding
                    created.remove(action.resource)
                changed += 1
                verb = action.verb.value
                report({"type": "done", "subject": plan.subject, "verb": verb, "resource": action.resource.key})
            elif action.verb is Verb.KEEP and action.resource.lifetime is Lifetime.BOOT:
                journal.record(action.resource.key, action.handle)
    except Exception as error:  # noqa: BLE001  # whatever it was, the host must be put back and the others go on
        _roll_back(plan.subject, created, host, handles, journal, report, error)
        hint = error.hint if isinstance(error, BangerError) else None
        report({"type": "failed", "subject": plan.subject, "message": str(error), "hint": hint})
        return Outcome(plan.subject, changed=changed, error=error)
    kept = sum(action.verb is Verb.KEEP for action in plan.actions)
    if plan.blocked:
        blocked = plan.blocked[0]
        refusal = BangerError(f"{blocked.resource.key} {blocked.reason}")
        report({"type": "failed", "subject": plan.subject, "message": str(refusal), "hint": None})
        return Outcome(plan.subject, kept, changed, len(plan.pending), refusal)
    return Outcome(plan.subject, ok=kept, changed=changed, pending=len(plan.pending))


def _do(action: Action, host: Host, handles: Mapping[str, Handle], journal: Journal, stage: Stage) -> Handle:
    resource = action.resource
    transient = resource.lifetime is Lifetime.BOOT
    if action.verb is Verb.REMOVE:
        remove(resource, host, action.handle or handles.get(resource.key), stage)
        if transient:
            journal.forget(resource.key)
        return {}
    if transient:
        journal.announce(resource.key)
    with failing(resource):
        if action.verb is Verb.CREATE:
            handle = resource.create(host, {need: handles.get(need, {}) for need in resource.needs}, stage)
        else:
            handle = resource.update(host, action.handle, stage)
    if transient:
        journal.record(resource.key, handle)
    return handle


def _stage(subject: str, resource: Resource, report: Report, cancelled: Flag) -> Stage:
    tell = staging(subject, resource, report)

    def stage(detail: str) -> None:
        if cancelled.is_set():
            raise Interrupted("interrupted")
        tell(detail)

    return stage


def _roll_back(
    subject: str,
    created: Sequence[Resource],
    host: Host,
    handles: Mapping[str, Handle],
    journal: Journal,
    report: Report,
    error: Exception,
) -> None:
    def forget(resource: Resource) -> None:
        if resource.lifetime is Lifetime.BOOT:
            journal.forget(resource.key)

    recorded = {key: handle for key, handle in handles.items() if handle}
    for failure in tear_down(subject, created, host, recorded, report, forget):
        error.add_note(f"rolling back: {failure} ({'; '.join(getattr(failure, '__notes__', []))})")


def in_parallel(
    work: Mapping[str, Callable[[Flag], Outcome]],
    forks: int,
    report: Report,
    cancelled: Flag | None = None,
    idle: Collection[str] = (),
) -> list[Outcome]:
    """Run each subject's work, `forks` at a time; one that fails in any way leaves the others going. Order as given.

    For those that are `idle`, with next to nothing to do, a thread would cost more than the work: they come first.

    An interrupt (Ctrl-C) lets each subject end the effect it is at and rolls it back: its outcome is `Interrupted`, and
    of those that were not begun `NotBegun`; `cancelled` is set for whatever else the caller had in mind. A second one
    is raised at once, with threads still at work: the caller ends the process, and the next command repairs what that
    leaves.
    """
    cancelled = cancelled or Flag()
    done: dict[str, Outcome] = {}
    futures: dict[str, Future[Outcome]] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, forks))
    try:
        for subject in idle:
            done[subject] = _guarded(subject, work[subject], report, cancelled)
        for subject, task in work.items():
            if subject not in done:
                futures[subject] = pool.submit(_guarded, subject, task, report, cancelled)
        wait(futures.values())
    except KeyboardInterrupt:
        cancelled.set()
        report({"type": "note", "subject": "", "message": "interrupted: rolling back what is half done"})
        wait(futures.values())
    finally:
        pool.shutdown(wait=False)
    done |= {subject: future.result() for subject, future in futures.items()}
    outcomes = [done.get(subject) or _unbegun(subject) for subject in work]
    for outcome in outcomes:
        if not isinstance(outcome.error, NotBegun):
            report(outcome.recap)
    tell_not_begun([outcome.subject for outcome in outcomes if isinstance(outcome.error, NotBegun)], report)
    return outcomes


def tell_not_begun(subjects: Sequence[str], report: Report) -> list[Outcome]:
    """What an interrupt left as it was, told in one line; each with its outcome."""
    if subjects:
        message = f"not begun: {some([subject.partition('/')[2] for subject in subjects])}"
        report({"type": "note", "subject": "", "message": message, "subjects": list(subjects)})
    return [_unbegun(subject) for subject in subjects]


def _unbegun(subject: str) -> Outcome:
    return Outcome(subject, error=NotBegun("interrupted before it was begun"))


def _guarded(subject: str, task: Callable[[Flag], Outcome], report: Report, cancelled: Flag) -> Outcome:
    outcome = _attempted(subject, task, report, cancelled)
    report({"type": "ended", "subject": subject})
    return outcome


def _attempted(subject: str, task: Callable[[Flag], Outcome], report: Report, cancelled: Flag) -> Outcome:
    try:
        return _unbegun(subject) if cancelled.is_set() else task(cancelled)
    except Exception as error:  # noqa: BLE001  # whatever went wrong with this one, the others are told of and go on
        hint = error.hint if isinstance(error, BangerError) else None
        report({"type": "failed", "subject": subject, "message": str(error), "hint": hint})
        return Outcome(subject, error=error)
