"""`banger plan`: what an apply would do, and a file that makes one do exactly that."""

from __future__ import annotations

from pathlib import Path

import click

from banger.cli.files import refuse_foreign, write_private
from banger.cli.options import EventCommand, apply_options, output_options, playbook_argument
from banger.cli.perform import perform
from banger.cli.render import Output
from banger.core import planfile
from banger.core.apply import Outcome
from banger.core.converge import ApplyOptions, keep_plan
from banger.core.include import STDIN
from banger.core.session import Session
from banger.errors import UsageError


@click.command(cls=EventCommand)
@playbook_argument
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False), help="Keep it here, for banger apply."
)
@click.option("--detailed-exitcode", is_flag=True, help="Exit code 4 when there is something to do.")
@apply_options
@output_options
def plan(playbook: Path, file: Path | None, detailed_exitcode: bool, options: ApplyOptions, output: Output) -> None:
    """Say what applying PLAYBOOK would do; nothing is changed. With -o it can be applied later: banger apply FILE."""
    if file and file.exists() and playbook.exists() and file.samefile(playbook):
        raise UsageError(f"{file} is the playbook itself", hint="give another file to -o")
    if file == Path("-"):
        raise UsageError("a plan is kept in a file, not on stdout", hint="give a file to -o")
    if file and playbook == STDIN:
        raise UsageError(
            "a plan that is kept names its playbook, and stdin has no name", hint="give the playbook's file"
        )
    if file:
        refuse_foreign(file, planfile.is_kept, "a plan that was kept")

    def act(session: Session) -> list[Outcome]:
        outcomes, kept = keep_plan(session, playbook, options)
        if file and not any(outcome.error for outcome in outcomes):
            write_private(file, kept.text())
        return outcomes

    perform(output, act, detailed=detailed_exitcode, makes=file is not None)
