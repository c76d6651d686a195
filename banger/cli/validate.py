"""`banger validate`: whether a playbook is right, as far as that can be told without a host."""

from __future__ import annotations

from pathlib import Path

import click

from banger.cli.loading import load_plugins
from banger.cli.options import extra_vars_option, format_option, playbook_argument
from banger.cli.render import data_of
from banger.cli.screen import as_json, say
from banger.cli.streams import only_ours
from banger.core.validate import validate as judge
from banger.core.variables import parse_extra
from banger.errors import PlaybookError


@click.command()
@playbook_argument
@extra_vars_option
@format_option
def validate(playbook: Path, extra_vars: tuple[str, ...], form: str) -> None:
    """Read PLAYBOOK and all it names, and tell every mistake. Needs no host: nothing is looked at, nothing made."""
    try:
        with only_ours():
            found = judge(playbook, load_plugins(without_home=True).declared(), parse_extra(extra_vars))
    except PlaybookError as error:
        if form != "json":
            raise
        problems = [data_of(problem) for problem in error.problems]
        click.echo(as_json({"ok": False, "problems": problems}))
        raise click.exceptions.Exit(PlaybookError.exit_code) from error
    counts = {"images": len(found.images), "networks": len(found.networks), "vms": len(found.vms)}
    if form == "json":
        click.echo(as_json({"ok": True, "problems": [], **counts}))
    else:
        say(f"{playbook}: nothing wrong; {', '.join(f'{name}={count}' for name, count in counts.items())}")
