"""`banger explain`: for a value or a guest file, who said so, where, and what that overrode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from banger.cli.compose import open_session
from banger.cli.options import extra_vars_option, format_option, playbook_argument
from banger.cli.screen import as_json, say
from banger.cli.streams import only_ours
from banger.core.cause import Cause
from banger.core.explain import explain as explain_subject
from banger.core.report import silent
from banger.core.variables import extra_settings


@click.command()
@playbook_argument
@click.argument("subject")
@extra_vars_option
@format_option
def explain(playbook: Path, subject: str, extra_vars: tuple[str, ...], form: str) -> None:
    """Say why SUBJECT of PLAYBOOK is as it is: who said so, where, and what that overrode.

    SUBJECT is vm.NAME, image.NAME or network.NAME, one key of it such as vm.web.memory, a file in its guest such as
    vm.web:/etc/motd, or a variable, var.NAME. The host is only looked at.
    """
    with only_ours():
        cause = explain_subject(open_session(silent), playbook, subject, extra_settings(extra_vars))
    if form == "json":
        click.echo(as_json(document(cause)))
    else:
        say("\n".join(lines(cause)))


INSTEAD = "instead of "
_PHRASES = {
    "line": "{}",
    "key": "{}",
    "when": "when {}",
    "read from": "from {}",
    "nothing on": "nothing on {}",
    "kernel argument": "kernel argument {}",
}


def lines(cause: Cause, indent: str = "", word: str = "") -> Iterator[str]:
    """A cause and what is below it, indented; `word` says how it stands to what is above."""
    if word == INSTEAD:
        what = cause.value or "what comes from elsewhere"
    elif cause.value is None:
        what = cause.what
    else:
        what = _PHRASES.get(cause.what, f"{cause.what} = {{}}").format(cause.value)
    origin = ", ".join(filter(None, (cause.by, str(cause.place) if cause.place else "")))
    yield f"{indent}{word}{what}{f'  ({origin})' if origin else ''}"
    below = indent + "    "
    for each in cause.takes:
        yield from lines(each, below, "" if each.what in _PHRASES else "takes ")
    for each in cause.overrode:
        yield from lines(each, below, INSTEAD)
    for each in cause.parts:
        yield from lines(each, below)


def document(cause: Cause) -> dict[str, Any]:
    """The same as JSON values; what is empty is left out."""
    place = cause.place
    made: dict[str, Any] = {"what": cause.what, "value": cause.value, "by": cause.by}
    if place:
        made["place"] = {"file": place.file, "line": place.line, "column": place.column}
    for key in ("takes", "overrode", "parts"):
        if below := getattr(cause, key):
            made[key] = [document(each) for each in below]
    return made
