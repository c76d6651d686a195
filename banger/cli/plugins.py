"""`banger plugins`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from banger.cli.loading import load_plugins
from banger.cli.options import format_option
from banger.cli.screen import say
from banger.cli.streams import only_ours
from banger.cli.table import aligned


@click.group()
def plugins() -> None:
    """The plugins that are installed."""


@plugins.command("list")
@format_option
def list_(form: str) -> None:
    """Name, version, source, status and hooks of every plugin."""
    with only_ours():
        infos = load_plugins().infos()
    if form == "json":
        click.echo(json.dumps([asdict(info) for info in infos]))
        return
    rows = [[info.name, info.version, info.source, info.status, " ".join(info.hooks)] for info in infos]
    say(aligned(["NAME", "VERSION", "SOURCE", "STATUS", "HOOKS"], rows))
