"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

playbook_argument = click.argument("playbook", type=click.Path(path_type=Path))
format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
forks_option = click.option(
    "--forks", type=click.IntRange(1), help="How many VMs at a time; by default the number of processors."
)
limit_option = click.option(
    "--limit", metavar="PATTERN,…", help="Only VMs whose name matches one of these: web-*,!web-3."
)
extra_vars_option = click.option(
    "-e", "--extra-vars", multiple=True, metavar="KEY=VALUE|@FILE", help="A variable, or a YAML file of variables."
)
diff_option = click.option("--diff", is_flag=True, help="Show how guest files differ from what is on the disks.")


def selecting(command: Command) -> Command:
    """Which VMs and tasks it is about."""
    for option in (
        click.option("--skip-tags", metavar="TAG,…", help="No VM and no task with one of these tags."),
        click.option("--tags", metavar="TAG,…", help="Only VMs with one of these tags, and tasks with one of them."),
        limit_option,
    ):
        command = option(command)
    return command


def changing(command: Command) -> Command:
    """What may be done that is not done by itself."""
    for option in (
        click.option("--recreate", is_flag=True, help="Make root disks anew where needed; work disks are kept."),
        click.option("--restart", is_flag=True, help="Restart VMs where a change needs it."),
    ):
        command = option(command)
    return command
