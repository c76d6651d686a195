"""`banger doctor`: what each plugin needs of this host, what was found, and the command that mends it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from banger.cli.compose import open_session
from banger.cli.options import format_option
from banger.cli.screen import say
from banger.cli.streams import only_ours
from banger.cli.table import aligned
from banger.core.choice import Answer, Choice, findings
from banger.core.report import silent
from banger.errors import HostError
from banger.needs import Finding

ALWAYS = ("workdisk_ext4",)
"""Used whatever is chosen for storage, network and VMM."""
_GET_PLUGIN = "see banger plugins list, and take it out of BANGER_BLOCK_PLUGINS or config.toml"


@click.command()
@format_option
def doctor(form: str) -> None:
    """Look whether this host has what each plugin needs. Exit code 3 when what `auto` would choose cannot run."""
    with only_ours():
        session = open_session(silent)
        answers = findings(session.plugins, session.view)
        choice = Choice.on(session.plugins, session.view)
    active = {info.name for info in session.plugins.infos() if info.status == "active"}
    used = (*choice.path, *ALWAYS)
    answers += [
        Answer(name, "the plugin", Finding(False, "not in use", _GET_PLUGIN)) for name in used if name not in active
    ]
    lacking = [answer for answer in answers if answer.plugin in used and not answer.finding.met]
    if form == "json":
        found = [{"plugin": answer.plugin, "need": answer.need, **asdict(answer.finding)} for answer in answers]
        passed_over = dict(choice.lacking)
        click.echo(json.dumps({"ok": not lacking, "auto": choice.path, "passed_over": passed_over, "needs": found}))
    else:
        say(aligned(["PLUGIN", "NEEDS", "", "FOUND"], [_row(answer) for answer in answers]))
        say(f"\nauto: {', '.join(choice.path)}")
        for reason in choice.lacking.values():
            say(f"    not {reason}")
    if lacking:
        raise click.exceptions.Exit(HostError.exit_code)


def _row(answer: Answer) -> list[str]:
    finding = answer.finding
    cure = f"; {finding.cure}" if finding.cure and not finding.met else ""
    return [answer.plugin, answer.need, "ok" if finding.met else "MISSING", f"{finding.found}{cure}"]
