"""`banger destroy`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from banger.cli.options import (
    EventCommand,
    extra_vars_option,
    forks_option,
    limit_option,
    number_of,
    output_options,
    playbook_argument,
    yes_option,
)
from banger.cli.perform import confirmed, perform
from banger.cli.render import Output
from banger.core.converge import ApplyOptions
from banger.core.converge import destroy as destroy_playbook
from banger.core.selection import Selection, words
from banger.core.variables import parse_extra


@click.command(cls=EventCommand)
@playbook_argument
@limit_option
@extra_vars_option
@yes_option
@forks_option
@output_options
def destroy(
    playbook: Path, limit: str | None, extra_vars: tuple[str, ...], yes: bool, forks: int | None, output: Output
) -> None:
    """Remove the VMs that PLAYBOOK names, with their disks. Built images stay, for the next apply."""
    options = ApplyOptions(
        forks=number_of(forks),
        extra_vars=parse_extra(extra_vars),
        selection=Selection(limit=words(limit, "--limit")),
        confirm=partial(confirmed, "This removes all disks of", yes=yes),
    )
    perform(output, lambda session: destroy_playbook(session, playbook, options))
