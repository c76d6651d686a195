"""`banger plan`: what an apply would do, and a file that makes one do exactly that."""

from __future__ import annotations

from pathlib import Path

import click

from banger.cli.apply import CHANGES_PENDING, finish
from banger.cli.compose import open_session
from banger.cli.options import changing, diff_option, extra_vars_option, format_option, playbook_argument, selecting
from banger.cli.render import rendering
from banger.core.converge import ApplyOptions, keep_plan
from banger.core.selection import Selection, words
from banger.core.variables import parse_extra
from banger.errors import BangerError


@click.command()
@playbook_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Keep the plan here, for banger apply."
)
@diff_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit code 4 when there is something to do.")
@selecting
@changing
@extra_vars_option
@format_option
def plan(
    playbook: Path,
    output: Path | None,
    diff: bool,
    detailed_exitcode: bool,
    limit: str | None,
    tags: str | None,
    skip_tags: str | None,
    restart: bool,
    recreate: bool,
    extra_vars: tuple[str, ...],
    form: str,
) -> None:
    """Say what applying PLAYBOOK would do; nothing is changed. With -o it can be applied later: banger apply FILE."""
    options = ApplyOptions(
        restart=restart,
        recreate=recreate,
        extra_vars=parse_extra(extra_vars),
        selection=Selection(words(limit), words(tags), words(skip_tags)),
        diff=diff,
    )
    with rendering(form) as report:
        outcomes, kept = keep_plan(open_session(report), playbook, options)
    finish(outcomes)
    if output:
        try:
            output.touch(mode=0o600)
            output.write_text(kept.text(), encoding="utf-8")
        except OSError as error:
            raise BangerError(f"cannot write {output}: {error.strerror}", hint="give another file") from error
    if detailed_exitcode and any(outcome.changed or outcome.pending for outcome in outcomes):
        raise click.exceptions.Exit(CHANGES_PENDING)
