"""`banger destroy`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from banger.cli.apply import finish
from banger.cli.compose import open_session
from banger.cli.options import extra_vars_option, forks_option, format_option, limit_option, playbook_argument
from banger.cli.render import rendering
from banger.core.converge import ApplyOptions
from banger.core.converge import destroy as destroy_playbook
from banger.core.selection import Selection, words
from banger.core.variables import parse_extra


@click.command()
@playbook_argument
@limit_option
@extra_vars_option
@forks_option
@format_option
def destroy(playbook: Path, limit: str | None, extra_vars: tuple[str, ...], forks: int | None, form: str) -> None:
    """Remove the VMs that PLAYBOOK names, with their disks. Built images stay, for the next apply."""
    options = ApplyOptions(
        forks=forks or os.cpu_count() or 1,
        extra_vars=parse_extra(extra_vars),
        selection=Selection(limit=words(limit)),
    )
    with rendering(form) as report:
        outcomes = destroy_playbook(open_session(report), playbook, options)
    finish(outcomes)
