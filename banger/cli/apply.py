"""`banger apply`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from banger.cli.options import (
    EventCommand,
    apply_options,
    forks_option,
    number_of,
    output_options,
    playbook_argument,
    yes_option,
)
from banger.cli.perform import confirmed, perform
from banger.cli.render import Output
from banger.core import planfile
from banger.core.converge import ApplyOptions
from banger.core.converge import apply as apply_playbook
from banger.errors import UsageError


@click.command(cls=EventCommand)
@playbook_argument
@click.option("--check", is_flag=True, help="Only say what would be done.")
@click.option("--detailed-exitcode", is_flag=True, help="With --check: exit code 4 when there is something to do.")
@apply_options
@yes_option
@forks_option
@output_options
def apply(
    playbook: Path,
    check: bool,
    detailed_exitcode: bool,
    options: ApplyOptions,
    yes: bool,
    forks: int | None,
    output: Output,
) -> None:
    """Make this host as PLAYBOOK says: images, disks, guest files, networks, running VMs.

    PLAYBOOK may be a plan that `banger plan -o` kept: exactly that is done, or nothing.
    """
    if detailed_exitcode and not check:
        raise UsageError("--detailed-exitcode tells of what --check finds", hint="give both")
    confirm = partial(confirmed, "This removes the root disks of", yes=yes)
    options = replace(options, check=check, forks=number_of(forks), confirm=confirm)
    if kept := planfile.read(playbook):
        if options.restart or options.recreate or options.extra_vars or options.selection.chooses:
            raise UsageError(f"{playbook} is a plan, and has its own options", hint="make another with banger plan")
        playbook = kept.playbook
        options = replace(options, **kept.options(), kept=kept)
    act = partial(apply_playbook, path=playbook, options=options)
    perform(output, act, detailed=detailed_exitcode, makes=not check)
