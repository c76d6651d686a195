"""Showing events: plain lines in a pipe, JSON lines for programs, and a live line per subject on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import click

from banger.cli.files import open_for_events
from banger.cli.screen import as_json, say, visible
from banger.cli.streams import lossy, only_ours
from banger.core.report import Event, Report
from banger.errors import Problem
from banger.scalars import human

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

_VERBS = {"create": "+", "update": "~", "remove": "-", "pending": "!", "blocked": "x"}
_INTERRUPTED = 130
_NAMED_ALIKE = 3
"""How many of the VMs that have the same plan as one before them are named."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where events go: `form` is `text` (live on a terminal, lines elsewhere) or `json`; `stderr` where stdout is for
    something else; JSON lines go into a file beside that."""

    form: str = "text"
    json_into: Path | None = None
    stderr: bool = False

    @property
    def for_programs(self) -> bool:
        """Whether events go anywhere as JSON."""
        return self.form == "json" or self.json_into is not None


@contextmanager
def rendering(output: Output) -> Iterator[Report]:
    """A report that shows events as they come, from whatever thread, whole ones only."""
    lock = Lock()
    with ExitStack() as stack:
        # Opened first, where it is said as it was given: below, descriptor 1 may become another.
        kept = [_json(stack.enter_context(_opened(output.json_into)))] if output.json_into else []
        shown = [stack.enter_context(_shown(output)), *kept]

        def report(event: Event) -> None:
            with lock:
                for show in shown:
                    show(event)

        yield report


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with os.fdopen(open_for_events(path), "w", encoding="utf-8", buffering=1) as stream:
        yield lossy(stream, str(path))


@contextmanager
def _shown(output: Output) -> Iterator[Report]:
    if output.form == "json":
        with only_ours() as stdout:
            yield _json(stdout)
        return
    if output.stderr:
        with only_ours(), _told(output) as told:
            yield told
        return
    with _told(output) as told:
        yield told


@contextmanager
def _told(output: Output) -> Iterator[Report]:
    stream = sys.stderr if output.stderr else sys.stdout
    if not stream.isatty():
        lines = _Folded(lambda line: say(line, file=stream))
        yield lines
        lines.flush()
        return
    with _LiveLines(output.stderr) as live:
        yield live


def _json(stream: TextIO) -> Report:
    return lambda event: click.echo(as_json(event), file=stream)


def data_of(problem: Problem) -> dict[str, Any]:
    """A problem for programs: `file`, `line` and `column` (None where it has no place), `message`, `hint`."""
    place = problem.place
    where = (place.file, place.line, place.column) if place else (None, None, None)
    located = dict(zip(("file", "line", "column"), where, strict=True))
    return {**located, "message": problem.message, "hint": problem.hint}


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
            growth, free = event["disks_bytes"], event["free_bytes"]
            fits = [f"room: disks can grow by {human(growth)}, {human(free)} is free"] if growth <= free else []
            return [*(f"warning: {warning}" for warning in event["warnings"]), *fits]
        case "warning":
            return [f"warning: {event['message']}", *([f"    {event['hint']}"] if event["hint"] else [])]
        case "note":
            told = f"{subject}: {event['message']}" if subject else event["message"]
            return [f"{event.get('level', 'note')}: {told}"]
        case "failed":
            hint = [f"    {event['hint']}"] if event.get("hint") else []
            return [f"{subject}: FAILED: {event['message']}", *hint]
        case "recap":
            counts = "  ".join(f"{name}={event[name]}" for name in ("ok", "changed", "failed", "pending", "skipped"))
            return [f"{subject:<28} {counts}"]
        case "summary" if event["subjects"]:
            return _summed_up(event)
    return []


def _summed_up(event: Event) -> list[str]:
    counts = ", ".join(f"{event[name]} {name}" for name in ("changed", "unchanged", "failed", "pending"))
    waiting = f", {event['not_begun']} not begun" if event.get("not_begun") else ""
    lines = [f"{event['subjects']} in {event['seconds']:.1f} s: {counts}{waiting}"] if event["subjects"] > 1 else []
    return [*lines, "interrupted: run the same command again"] if event["exit_code"] == _INTERRUPTED else lines


def _planned(action: dict[str, Any]) -> list[str]:
    reason = f"  ({action['reason']})" if action["reason"] else ""
    by_hand = [f"      $ {command}" for command in action.get("by_hand", ())]
    diff = [f"      {line}" for line in action.get("diff", ())]
    return [f"  {_VERBS[action['verb']]} {action['resource']}{reason}", *by_hand, *diff]


class _Folded:
    """Prints the lines of events; of plans in a row that differ in nothing but their VM's name, the first."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._plans: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
        """The names and lines of those not printed yet, by what they have in common."""

    def __call__(self, event: Event) -> None:
        lines = lines_of(event)
        if event["type"] == "plan":
            if lines:
                name = event["subject"].partition("/")[2]
                alike = tuple(line.replace(f" {name}/", " NAME/") for line in lines)
                self._plans.setdefault(alike, []).append((name, lines))
            return
        self.flush()
        for line in lines:
            self._echo(line)

    def flush(self) -> None:
        for alike in self._plans.values():
            (_, lines), *others = alike
            for line in lines:
                self._echo(line)
            if others:
                names = ", ".join(name for name, _ in others[:_NAMED_ALIKE])
                more = f" and {len(others) - _NAMED_ALIKE} more" if len(others) > _NAMED_ALIKE else ""
                self._echo(f"  = the same for {names}{more}")
        self._plans.clear()


class _LiveLines:
    """How far all is, and a line per subject that is being worked on, with its stage and how long it has been at it.

    They are there from the first stage on: before it there is nothing to wait for, but perhaps a question to answer.
    """

    def __init__(self, stderr: bool) -> None:
        self._stderr = stderr
        self._live: Live | None = None
        self._lines = _Folded(self._print)
        self._at: dict[str, tuple[str, float]] = {}
        self._planned: set[str] = set()
        self._ended: set[str] = set()
        self._failed = 0

    def __enter__(self) -> _LiveLines:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.flush()
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        subject = event.get("subject", "")
        match event["type"]:
            case "stage":
                if self._live is None:
                    self._lines.flush()
                    self._live = _started(self, self._stderr)
                self._at[subject] = (f"{event['stage']}: {event['detail']}", monotonic())
                return
            case "plan" if lines_of(event):
                self._planned.add(subject)
            case "failed":
                self._failed += 1
            case "ended":
                self._at.pop(subject, None)
                self._ended.add(subject)
        self._lines(event)

    def _print(self, line: str) -> None:
        if self._live:
            self._live.console.print(_plain(line))
        else:
            say(line, err=self._stderr)

    def __rich__(self) -> Table:
        from rich.table import Table

        assert self._live is not None
        table = Table.grid(padding=(0, 2))
        at = list(self._at.items())
        if len(self._planned) > 1:
            failed = f", {self._failed} failed" if self._failed else ""
            table.add_row(f"{len(self._planned & self._ended)} of {len(self._planned)} done{failed}", "", "")
        room = max(1, self._live.console.height - 3)
        for subject, (text, since) in at[:room]:
            table.add_row(_plain(subject), _plain(text), f"{monotonic() - since:.0f} s")
        if len(at) > room:
            table.add_row(f"… and {len(at) - room} more", "", "")
        return table


def _plain(text: str) -> Text:
    """For rich, which looks in a string for markup and for names of emoji: it finds some in a line of passwd(5)."""
    from rich.text import Text

    return Text(visible(text))


def _started(lines: _LiveLines, stderr: bool) -> Live:
    from rich.console import Console
    from rich.live import Live  # only when there is a terminal to show it on

    live = Live(console=Console(stderr=stderr), refresh_per_second=4, transient=True)
    live.start()
    live.update(lines)
    return live
