"""`banger export`: what there is, as a playbook."""

from __future__ import annotations

from pathlib import Path

import click

from banger.cli.compose import open_session
from banger.cli.files import refuse_foreign, write_private
from banger.cli.screen import say
from banger.cli.streams import only_ours
from banger.core.export import export as exported
from banger.core.export import is_export
from banger.core.report import silent


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it here, for nobody else to read; by default it goes to stdout.",
)
def export(names: tuple[str, ...], output: Path | None) -> None:
    """Write the VMs on this host, or those with these names, as a playbook, with their images and networks.

    An apply of it changes nothing here, and makes the same elsewhere. The files that tasks wrote into guests are in it,
    secret ones too. Exit code 1 when something cannot be in it, because it is not known; that is said.
    """
    if output:
        refuse_foreign(output, is_export, "an export")
    with only_ours():
        found = exported(open_session(silent), names)
    if output:
        write_private(output, found.text)
    else:
        click.echo(found.text, nl=False)
    for each in found.lacking:
        say(f"not in it: {each}", err=True)
    if found.lacking:
        raise click.exceptions.Exit(1)
