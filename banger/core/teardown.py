"""Taking resources away: every stage, in reverse, whatever fails; what a survivor stands on stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from banger.core.plan import ordered
from banger.core.report import Report
from banger.errors import Busy, PluginError, StateError
from banger.host import Host
from banger.resource import Handle, Resource, Stage

BUSY_TIMEOUT_S = 5.0
_BUSY_PAUSE_S = 0.05


def tear_down(
    subject: str,
    resources: Iterable[Resource],
    host: Host,
    handles: Mapping[str, Handle],
    report: Report,
    forget: Callable[[Resource], None],
    *,
    discard: bool = False,
) -> list[Exception]:
    """Remove every resource, last made first, and tell `forget` of each that is proven gone.

    Returns what failed, in order. A failure never stops the rest, but nothing is taken from under what could not be
    removed: a disk stays while its VMM may still be writing to it. `discard`: all of it goes, nothing is to be spared.
    """
    failures: list[Exception] = []
    kept: set[str] = set()
    for resource in reversed(ordered(resources)):
        if resource.key in kept:
            kept.update(resource.needs)
            continue
        try:
            stage = staging(subject, resource, report)
            remove(resource, host, handles.get(resource.key), stage, discard=discard)
        except Exception as error:  # noqa: BLE001  # the point: one failure must not strand all the others
            error.add_note(f"while removing {resource.key}")
            failures.append(error)
            kept.update(resource.needs)
            continue
        report({"type": "done", "subject": subject, "verb": "remove", "resource": resource.key})
        try:
            forget(resource)
        except StateError as error:  # it is gone all the same
            failures.append(error)
    return failures


@contextmanager
def failing(resource: Resource) -> Iterator[None]:
    """A `sys.exit()` of a resource is its failure like any other: in a thread it would end nothing, and tell nobody."""
    try:
        yield
    except SystemExit as error:
        raise PluginError(f"{resource.key}: its plugin called sys.exit({error.code!r})") from error


def remove(resource: Resource, host: Host, handle: Handle | None, stage: Stage, *, discard: bool = False) -> None:
    """Remove one resource, trying again for a while as long as it is busy."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with failing(resource):
                (resource.discard if discard else resource.remove)(host, handle, stage)
        except Busy:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def staging(subject: str, resource: Resource, report: Report) -> Stage:
    """Tells the report what is being done; the same words twice in a row are told once."""
    told: list[str] = []

    def stage(detail: str) -> None:
        if told[-1:] != [detail]:
            told.append(detail)
            report({"type": "stage", "subject": subject, "stage": resource.stage or "apply", "detail": detail})

    return stage
