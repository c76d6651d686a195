"""`banger recover`: VMs that the store does not know any more, found again; and recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from banger.cli.compose import open_session
from banger.cli.options import format_option
from banger.cli.screen import say
from banger.cli.streams import only_ours
from banger.cli.table import aligned
from banger.core.report import silent

if TYPE_CHECKING:
    from banger.core.recover import Findings, Found


@click.command()
@click.option("--write", is_flag=True, help="Record what is found; without it, it is only told.")
@format_option
def recover(write: bool, form: str) -> None:
    """Find VMs and images again of which the store, state.json, knows nothing, or that is lost or spoilt.

    Nothing is written without --write, and no VM is touched: one that runs goes on running.
    """
    from banger.core import recover as core

    with only_ours():
        session = open_session(silent)
        findings = core.recover(session) if write else core.look(session)
    if form == "json":
        click.echo(json.dumps(_object(findings, written=write)))
    else:
        _tell(findings, written=write)


def _tell(findings: Findings, *, written: bool) -> None:
    if findings.spoilt:
        say(findings.spoilt)
    if findings.vms:
        say(aligned(["VM", "STATE", "DIRECTORY", ""], [_row(found) for found in findings.vms]))
    for name, digest in sorted(findings.images.items()):
        say(f"image {name}: {digest}")
    if not findings.anything:
        say("nothing to recover")
    elif written:
        say(f"recorded: {len(findings.records)} VMs, {len(findings.images)} names of images")
    else:
        say("nothing was written; banger recover --write records this")


def _row(found: Found) -> list[str]:
    record = found.record
    return [record.name if record else "?", record.runtime.state if record else "", str(found.directory), found.why]


def _object(findings: Findings, *, written: bool) -> dict[str, object]:
    vms = [
        {
            "name": found.record.name if found.record else None,
            "state": found.record.runtime.state if found.record else None,
            "directory": str(found.directory),
            "why": found.why,
        }
        for found in findings.vms
    ]
    return {"spoilt": findings.spoilt, "vms": vms, "images": dict(findings.images), "written": written}
