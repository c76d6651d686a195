"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from banger.errors import BangerError, UsageError

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


class EventCommand(click.Command):
    """A command that has events: a program that asks for them is told of a wrong command line by these, too."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        asked = _asks_for_json(args)  # parsing takes them away
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if asked:
                _refuse(UsageError(error.format_message()), "json", None)
            raise

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BangerError as error:
            if not context.meta.get(TOLD):
                _refuse(error, context.params["form"], context.params["json_into"])
            raise


TOLD = "banger.told"
"""In a click context's `meta` once events are being told: then an error is told by them."""


def _asks_for_json(arguments: Sequence[str]) -> bool:
    return "--format=json" in arguments or ("--format", "json") in pairwise(arguments)


def _refuse(error: BangerError, form: str, json_into: Path | None) -> None:
    """Tell programs of an error from before anything was begun; people are told when the command ends."""
    if form != "json" and not json_into:
        return
    from banger.cli.perform import refuse
    from banger.cli.render import Output

    try:
        refuse(Output(form, json_into), error)
    except UsageError:  # that file cannot be written, of which the error may tell
        refuse(Output(form), error)


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
