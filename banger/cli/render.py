"""Showing events: plain lines in a pipe, JSON lines for programs, and a live line per subject on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import click

from banger.core.report import Event, Report
from banger.scalars import human

if TYPE_CHECKING:
    from rich.live import Live

_VERBS = {"create": "+", "update": "~", "remove": "-", "pending": "!", "blocked": "x"}


@contextmanager
def rendering(form: str, *, stderr: bool = False) -> Iterator[Report]:
    """`form`: `text` (live on a terminal, lines elsewhere) or `json`. `stderr`: stdout is for something else."""
    if form == "json":
        yield _Json()
    elif (sys.stderr if stderr else sys.stdout).isatty():
        with _live(stderr) as report:
            yield report
    else:
        yield _Lines(stderr)


class _Json:
    """One object a line, whole lines only, whatever threads do."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            click.echo(json.dumps(event, ensure_ascii=False, default=str))


class _Lines:
    """What a person reads in a log: one line per step, nothing for what stays as it is."""

    def __init__(self, stderr: bool) -> None:
        self._lock = Lock()
        self._stderr = stderr

    def __call__(self, event: Event) -> None:
        with self._lock:
            for line in lines_of(event):
                click.echo(line, err=self._stderr)


def lines_of(event: Event) -> list[str]:
    """An event in plain words; several lines, one, or none."""
    subject = event.get("subject", "")
    match event["type"]:
        case "plan":
            changes = [action for action in event["actions"] if action["verb"] in _VERBS]
            return [line for action in changes for line in _planned(action)]
        case "stage":
            return [f"{subject}: {event['stage']}: {event['detail']}"]
        case "room":
            return event["warnings"] or [
                f"room: disks can grow by {human(event['disks_bytes'])}, {human(event['free_bytes'])} is free"
            ]
        case "note":
            return [f"{subject}: {event['message']}" if subject else event["message"]]
        case "failed":
            hint = [f"    {event['hint']}"] if event.get("hint") else []
            return [f"{subject}: FAILED: {event['message']}", *hint]
        case "recap":
            counts = "  ".join(f"{name}={event[name]}" for name in ("ok", "changed", "failed", "pending"))
            return [f"{subject:<28} {counts}"]
    return []


def _planned(action: dict[str, Any]) -> list[str]:
    reason = f"  ({action['reason']})" if action["reason"] else ""
    by_hand = [f"      $ {command}" for command in action.get("by_hand", ())]
    diff = [f"      {line}" for line in action.get("diff", ())]
    return [f"  {_VERBS[action['verb']]} {action['resource']}{reason}", *by_hand, *diff]


class _LiveLines:
    """One line per subject that is being worked on, with its stage and how long it has been at it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lock = Lock()
        self._at: dict[str, tuple[str, float]] = {}

    def __call__(self, event: Event) -> None:
        from time import monotonic

        with self._lock:
            subject = event.get("subject", "")
            if event["type"] == "stage":
                self._at[subject] = (f"{event['stage']}: {event['detail']}", monotonic())
            else:
                if event["type"] == "ended":
                    self._at.pop(subject, None)
                for line in lines_of(event):
                    self._live.console.print(line, markup=False, highlight=False)

    def __rich__(self) -> object:
        from time import monotonic

        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        room = max(1, self._live.console.height - 2)
        for subject, (text, since) in list(self._at.items())[:room]:
            table.add_row(subject, text, f"{monotonic() - since:.0f} s")
        if len(self._at) > room:
            table.add_row(f"… and {len(self._at) - room} more", "", "")
        return table


@contextmanager
def _live(stderr: bool) -> Iterator[Report]:
    from rich.console import Console
    from rich.live import Live  # only when there is a terminal to show it on

    with Live(console=Console(stderr=stderr), refresh_per_second=4, transient=True) as live:
        report = _LiveLines(live)
        live.update(report)  # type: ignore[arg-type]  # rich takes anything with __rich__, its types do not say so
        yield report
