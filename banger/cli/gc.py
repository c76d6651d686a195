"""`banger gc`: what belongs to nothing on this host; and its removal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from banger.cli.compose import open_session
from banger.cli.options import format_option
from banger.cli.screen import say
from banger.cli.streams import only_ours
from banger.cli.table import aligned
from banger.core.report import Event, silent
from banger.scalars import human

if TYPE_CHECKING:
    from banger.resource import Leftover


@click.command()
@click.option("--delete", is_flag=True, help="Remove what is found; without it, it is only told.")
@click.option("--images", is_flag=True, help="Also images that nothing uses.")
@format_option
def gc(delete: bool, images: bool, form: str) -> None:
    """What is left of VMs that are not recorded, images that nothing uses, files and locks of killed commands.

    Nothing is removed without --delete, and never what another home may have made.
    """
    from banger.core.gc import collect, find

    failures: list[Event] = []
    if delete:

        def report(event: Event) -> None:
            if event["type"] == "failed":
                failures.append(event)

        with only_ours():
            outcome, stays = collect(open_session(report), images=images)
        removed = outcome.changed
        if form == "json":
            told = [str(event["message"]) for event in failures]
            click.echo(json.dumps({"removed": removed, "failed": told, "left": [_object(each) for each in stays]}))
        else:
            say(f"{removed} removed")
            _tell_what_stays(stays)
    else:
        with only_ours():
            found = find(open_session(silent), images=images)
        if form == "json":
            click.echo(json.dumps([_object(each) for each in found]))
        else:
            _tell(found)
    for event in failures if form == "text" else []:
        say(f"FAILED: {event['message']}\n    {event['hint']}", err=True)
    if failures:
        raise click.exceptions.Exit(1)


def _tell(found: Sequence[Leftover]) -> None:
    goes = [each for each in found if each.resource]
    if goes:
        say(aligned(["SIZE", "WHAT"], [[_size(each), each.what] for each in goes]))
        total = human(sum(each.size_bytes for each in goes))
        say(f"{len(goes)} to remove, {total} on disk; banger gc --delete does it")
    else:
        say("nothing to remove")
    _tell_what_stays([each for each in found if not each.resource])


def _tell_what_stays(stays: Sequence[Leftover]) -> None:
    if stays:
        say("\nleft as it is:")
        say(aligned(["SIZE", "WHAT", "WHY"], [[_size(each), each.what, each.why] for each in stays]))


def _size(leftover: Leftover) -> str:
    return human(leftover.size_bytes) if leftover.size_bytes else ""


def _object(leftover: Leftover) -> dict[str, object]:
    return {
        "what": leftover.what,
        "vm_id": leftover.vm_id,
        "size_bytes": leftover.size_bytes,
        "removable": leftover.resource is not None,
        "why": leftover.why,
    }
