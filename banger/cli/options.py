"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

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
