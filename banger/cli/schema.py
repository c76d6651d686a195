"""`banger schema`: playbooks as a JSON Schema, for editors."""

from __future__ import annotations

import click

from banger.cli.loading import load_plugins
from banger.cli.screen import as_json
from banger.cli.streams import only_ours
from banger.core.schema import schema_of


@click.command()
def schema() -> None:
    """Print a JSON Schema (draft 2020-12) of playbooks, with the keys of all plugins that are in use.

    For editors: they complete and check what is being written. `banger validate` checks more.
    """
    with only_ours():
        made = schema_of(load_plugins(without_home=True).declared())
    click.echo(as_json(made, indent=2))
