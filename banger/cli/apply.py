"""`banger apply`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from banger.cli.compose import open_session
from banger.cli.options import (
    changing,
    diff_option,
    extra_vars_option,
    forks_option,
    format_option,
    playbook_argument,
    selecting,
)
from banger.cli.render import rendering
from banger.core import planfile
from banger.core.apply import Interrupted, Outcome
from banger.core.converge import ApplyOptions
from banger.core.converge import apply as apply_playbook
from banger.core.selection import Selection, words
from banger.core.variables import parse_extra
from banger.errors import HostError, UsageError

CHANGES_PENDING = 4


@click.command()
@playbook_argument
@click.option("--check", is_flag=True, help="Only say what would be done.")
@diff_option
@click.option("--detailed-exitcode", is_flag=True, help="With --check: exit code 4 when there is something to do.")
@selecting
@changing
@extra_vars_option
@forks_option
@format_option
def apply(
    playbook: Path,
    check: bool,
    diff: bool,
    detailed_exitcode: bool,
    limit: str | None,
    tags: str | None,
    skip_tags: str | None,
    restart: bool,
    recreate: bool,
    extra_vars: tuple[str, ...],
    forks: int | None,
    form: str,
) -> None:
    """Make this host as PLAYBOOK says: images, disks, guest files, networks, running VMs.

    PLAYBOOK may be a plan that `banger plan -o` kept: exactly that is done, or nothing.
    """
    if detailed_exitcode and not check:
        raise UsageError("--detailed-exitcode tells of what --check finds", hint="give both")
    options = ApplyOptions(
        check,
        restart,
        recreate,
        forks or os.cpu_count() or 1,
        parse_extra(extra_vars),
        Selection(words(limit), words(tags), words(skip_tags)),
        diff,
    )
    if kept := planfile.read(playbook):
        if restart or recreate or extra_vars or limit or tags or skip_tags:
            raise UsageError(f"{playbook} is a plan, and has its own options", hint="make another with banger plan")
        playbook = kept.playbook
        options = replace(options, **kept.options(), kept=kept)
    with rendering(form) as report:
        outcomes = apply_playbook(open_session(report), playbook, options)
    finish(outcomes)
    if detailed_exitcode and any(outcome.changed or outcome.pending for outcome in outcomes):
        raise click.exceptions.Exit(CHANGES_PENDING)


def finish(outcomes: list[Outcome]) -> None:
    """Exit 130 after an interrupt, 3 when this host lacks something, 1 for other failures. All has been told."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if any(isinstance(error, Interrupted) for error in errors):
        raise click.exceptions.Exit(Interrupted.exit_code)
    if errors and all(isinstance(error, HostError) for error in errors):
        raise click.exceptions.Exit(HostError.exit_code)
    if errors:
        raise click.exceptions.Exit(1)
