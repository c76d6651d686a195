"""`banger apply`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from banger.cli.compose import open_session
from banger.cli.options import extra_vars_option, forks_option, format_option, playbook_argument
from banger.cli.render import rendering
from banger.core.apply import Interrupted, Outcome
from banger.core.converge import ApplyOptions
from banger.core.converge import apply as apply_playbook
from banger.core.variables import parse_extra
from banger.errors import HostError


@click.command()
@playbook_argument
@click.option("--check", is_flag=True, help="Only say what would be done.")
@click.option("--restart", is_flag=True, help="Restart VMs where a change needs it.")
@click.option("--recreate", is_flag=True, help="Make root disks anew where a change needs it; work disks are kept.")
@extra_vars_option
@forks_option
@format_option
def apply(
    playbook: Path,
    check: bool,
    restart: bool,
    recreate: bool,
    extra_vars: tuple[str, ...],
    forks: int | None,
    form: str,
) -> None:
    """Make this host as PLAYBOOK says: images, disks, guest files, networks, running VMs."""
    options = ApplyOptions(check, restart, recreate, forks or os.cpu_count() or 1, parse_extra(extra_vars))
    with rendering(form) as report:
        outcomes = apply_playbook(open_session(report), playbook, options)
    finish(outcomes)


def finish(outcomes: list[Outcome]) -> None:
    """Exit 130 after an interrupt, 3 when this host lacks something, 1 for other failures. All has been told."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if any(isinstance(error, Interrupted) for error in errors):
        raise click.exceptions.Exit(Interrupted.exit_code)
    if errors and all(isinstance(error, HostError) for error in errors):
        raise click.exceptions.Exit(HostError.exit_code)
    if errors:
        raise click.exceptions.Exit(1)
