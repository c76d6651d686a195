"""How a command that acts on this host goes: events as they come, a summary, an exit code."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import click

from banger.cli.compose import open_session
from banger.cli.options import TOLD
from banger.cli.render import Output, data_of, rendering
from banger.core.apply import Interrupted, NotBegun, Outcome
from banger.core.report import VERSION, Event
from banger.core.session import Session
from banger.errors import BangerError, HostError, PlaybookError, Problem
from banger.scalars import some

CHANGES_PENDING = 4


def perform(
    output: Output, act: Callable[[Session], list[Outcome]], *, detailed: bool = False, makes: bool = False
) -> None:
    """Do it, with a session that shows what is happening. Raises Exit when it did not end well.

    `detailed`: something to do is exit code 4. `makes`: it makes things, for which no plugin may be missing.
    """
    began = time.monotonic()
    with rendering(output) as report:
        if context := click.get_current_context(silent=True):
            context.meta[TOLD] = True

        def ended(outcomes: Sequence[Outcome], code: int) -> None:
            report(summary(outcomes, time.monotonic() - began, code))

        report({"type": "version", "events": VERSION})
        try:
            session = open_session(report)
            if makes:
                session.plugins.refuse_failed()
            for told in session.plugins.failures() if output.for_programs else []:  # people are told on stderr
                report({"type": "note", "subject": "", "message": told, "level": "warning"})
            outcomes = act(session)
        except BangerError as error:
            for event in refusals(error):
                report(event)
            ended([], error.exit_code)
            raise
        except KeyboardInterrupt:
            ended([], Interrupted.exit_code)
            raise
        code = exit_code(outcomes) or (CHANGES_PENDING if detailed and any(map(_has_changes, outcomes)) else 0)
        ended(outcomes, code)
    if code:
        raise click.exceptions.Exit(code)


def refuse(output: Output, error: BangerError) -> None:
    """The events of a command that could not even begin."""
    with rendering(output) as report:
        for event in ({"type": "version", "events": VERSION}, *refusals(error), summary([], 0, error.exit_code)):
            report(event)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """130 after an interrupt, 3 when all that failed is for what this host lacks, 1 for other failures."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if any(isinstance(error, Interrupted) for error in errors):
        return Interrupted.exit_code
    if errors and all(isinstance(error, HostError) for error in errors):
        return HostError.exit_code
    return 1 if errors else 0


def _has_changes(outcome: Outcome) -> bool:
    return bool(outcome.changed or outcome.pending)


def summary(outcomes: Sequence[Outcome], seconds: float, code: int) -> Event:
    """The last event: in how many subjects something went which way."""
    counts = Counter(map(_counted_as, outcomes))
    return {
        "type": "summary",
        "subjects": len(outcomes),
        **{word: counts[word] for word in ("changed", "failed", "pending", "not_begun", "unchanged")},
        "seconds": round(seconds, 3),
        "exit_code": code,
    }


def _counted_as(outcome: Outcome) -> str:
    """Each subject once: as what the user has to see to first."""
    if outcome.error:
        return "not_begun" if isinstance(outcome.error, NotBegun) else "failed"
    return "pending" if outcome.pending else "changed" if outcome.changed else "unchanged"


def refusals(error: BangerError) -> list[Event]:
    """Why nothing was done, for programs; people are told on stderr when the command ends."""
    problems = error.problems if isinstance(error, PlaybookError) else [Problem(None, error.message, error.hint)]
    return [{"type": "problem", **data_of(problem)} for problem in problems]


def confirmed(question: str, names: Sequence[str], *, yes: bool) -> None:
    """Ask before what cannot be undone; only of a person at a terminal, and not of one who said yes already."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not click.confirm(f"{question} {some(names)}. Go on?", err=True):
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(1)
