"""A script beside each VM that takes it down without banger: by sh(1) and what the host has for its own devices.

What is in it comes from the VM's resources themselves, each one's own lines, in the order of a teardown. Pure but for
`save`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from banger.core.plan import ordered
from banger.host import Host
from banger.resource import Resource

FILE = "teardown.sh"

_HEAD = """#!/bin/sh
# Takes down the VM {name} without banger: ends its VMM, and removes its devices and its network.
#
#   sh teardown.sh            its disks stay
#   sh teardown.sh --purge    its disks go too, and this directory
#
# An apply writes this anew. With banger at hand, rather: banger vm stop, banger vm delete, banger gc.
set -u
PATH=$PATH:/usr/sbin:/sbin
purge=
case "${{1-}}" in
'') ;;
--purge) purge=yes ;;
*)
    echo "usage: sh teardown.sh [--purge]" >&2
    exit 2
    ;;
esac
failed=
kept=' '  # keys of what something stands on that is still there
"""
_PART = """
case "$kept" in
*{pattern}*)
    kept="$kept"{needs}
    ;;
*)
    echo {key}
    if ! (
{lines}
    ); then
        echo {key}': is still there' >&2
        failed=yes
        kept="$kept"{needs}
    fi
    ;;
esac
"""
_TAIL = """
if [ -n "$failed" ]; then
    echo 'not all is gone; see above, and run this again' >&2
    exit 1
fi
if [ -n "$purge" ]; then
    rm -rf -- {directory} || exit 1
    echo 'all is gone but its record: banger vm delete '{name}
else
    echo 'its disks are still in '{directory}'; to remove them: sh teardown.sh --purge'
fi
"""


def save(host: Host, name: str, directory: Path, resources: Sequence[Resource]) -> None:
    """Keep the script in the VM's directory; nothing is written where it is there already."""
    path, content = directory / FILE, script(name, directory, resources).encode()
    if host.files.status(path) is None or host.files.read(path) != content:
        host.files.write(path, content, 0o700)


def script(name: str, directory: Path, resources: Sequence[Resource]) -> str:
    """Last made first; what something stands on that could not be taken away stays, all else is tried."""
    order = ordered(resources)
    beneath: dict[str, tuple[str, ...]] = {}
    for resource in order:
        beneath[resource.key] = _beneath(resource, beneath)
    parts = [_part(each, beneath[each.key]) for each in reversed(order) if each.undo_by_hand()]
    quoted = {"name": shlex.quote(name), "directory": shlex.quote(str(directory))}
    return "".join([_HEAD.format(**quoted), *parts, _TAIL.format(**quoted)])


def _part(resource: Resource, needs: Sequence[str]) -> str:
    return _PART.format(
        pattern=shlex.quote(f" {resource.key} "),
        key=shlex.quote(resource.key),
        needs=shlex.quote("".join(f"{need} " for need in needs)) if needs else "",
        lines="\n".join(resource.undo_by_hand()),
    )


def _beneath(resource: Resource, beneath: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """All that it stands on, directly or not."""
    every = [key for need in resource.needs for key in (need, *beneath.get(need, ()))]
    return tuple(dict.fromkeys(every))
