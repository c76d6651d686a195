"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
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
yes_option = click.option("--yes", is_flag=True, help="Do not ask before what cannot be undone.")


def output_options(command: Command) -> Command:
    """How events are shown; the command gets an `output`."""

    @click.option(
        "--json-into",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Events also as JSON lines, into FILE.",
    )
    @format_option
    @wraps(command)
    def with_output(form: str, json_into: Path | None, **others: Any) -> Any:
        from banger.cli.render import Output

        return command(output=Output(form, json_into), **others)

    return with_output


def apply_options(command: Command) -> Command:
    """What `apply` and `plan` have in common; the command gets `options`."""

    @click.option("--diff", is_flag=True, help="Show how guest files differ from what is on the disks.")
    @limit_option
    @click.option("--tags", metavar="TAG,…", help="Only VMs with one of these tags, and tasks with one of them.")
    @click.option("--skip-tags", metavar="TAG,…", help="No VM and no task with one of these tags.")
    @click.option("--restart", is_flag=True, help="Restart VMs where a change needs it.")
    @click.option("--recreate", is_flag=True, help="Make root disks anew where needed; work disks are kept.")
    @extra_vars_option
    @wraps(command)
    def with_options(
        diff: bool,
        limit: str | None,
        tags: str | None,
        skip_tags: str | None,
        restart: bool,
        recreate: bool,
        extra_vars: tuple[str, ...],
        **others: Any,
    ) -> Any:
        from banger.core.converge import ApplyOptions
        from banger.core.selection import Selection, words
        from banger.core.variables import parse_extra

        options = ApplyOptions(
            restart=restart,
            recreate=recreate,
            extra_vars=parse_extra(extra_vars),
            selection=Selection(words(limit, "--limit"), words(tags, "--tags"), words(skip_tags, "--skip-tags")),
            diff=diff,
        )
        return command(options=options, **others)

    return with_options


def number_of(forks: int | None) -> int:
    """How many VMs at a time."""
    return forks or os.cpu_count() or 1
