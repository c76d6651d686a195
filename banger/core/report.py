"""What is happening, as events. Renderers live in the command line; the core only says.

An event is a flat JSON object with `type`:

- `version`  first; `events` is the version of this format
- `plan`     `subject`, `actions`: a list of `verb`, `resource`, `reason`, perhaps `needs` (what it waits for),
             `by_hand` (a dry run), `diff`
- `room`     `disks_bytes` by which disks can grow and `free_bytes` for them, `guests_bytes` of memory that what starts
             may take and `available_bytes`, `warnings` (a dry run)
- `warning` `message`, `hint`, `subjects`: what this host lacks for them (a dry run; an apply refuses)
- `stage`    `subject`, `stage`, `detail`: what is being done right now
- `done`     `subject`, `verb`, `resource`: one action ended well
- `failed`   `subject`, `message`, `hint`
- `ended`    `subject`: nothing more is done about it in this run
- `note`     `subject`, `message`, perhaps `level`: `warning`, perhaps `subjects`: a list of those it is about
- `recap`    `subject`, `ok`, `changed`, `failed`, `pending`, `skipped`
- `problem`  `file`, `line`, `column`, `message`, `hint`: why nothing was done
- `summary`  last: how many `subjects`, and how many of them `changed`, `unchanged`, `failed`, `pending`, `not_begun`;
             `seconds`, `exit_code`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Report = Callable[[Event], None]

VERSION = 1


def silent(event: Event) -> None:
    """For callers that do not care."""
