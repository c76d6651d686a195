"""A guest's fstab(5), as text to text. Pure.

What is not asked about stays as it is, byte for byte: comments, empty lines, foreign mounts, lines that are no mount.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from banger.types import Mount

_BLANKS = re.compile(r"[ \t]+")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_ESCAPED = re.compile(r"[ \t\n\r\\]")
_DEFAULTS = ["defaults", "0", "0"]


def render_fstab(original: str | None, dropped: Iterable[str], added: Iterable[Mount]) -> str:
    """The image's fstab with the mounts on `dropped` targets taken out and `added` ones put in.

    An added mount takes the line of the first mount on its target and the place of all others; without one it goes to
    the end, in the order given. It stays even when its target is dropped too. None counts as an empty file.
    """
    text = original or ""
    unwanted = {normalise_target(target) for target in dropped}
    wanted = {_identity(mount): mount for mount in added}
    missing = dict(wanted)
    before = text.removesuffix("\n").split("\n") if text else []
    after: list[str] = []
    for line in before:
        mount = parse_line(line)
        identity = _identity(mount) if mount else None
        if identity in wanted:
            if missing.pop(identity, None):
                after.append(render_line(wanted[identity]))
        elif identity not in unwanted:
            after.append(line)
    after += [render_line(mount) for mount in missing.values()]
    return text if after == before else "".join(f"{line}\n" for line in after)


def parse_line(line: str) -> Mount | None:
    """The mount that a line stands for; None for comments, empty lines, and lines that mount(8) would not take."""
    fields = _BLANKS.split(line.strip(" \t\r"))
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    options, dump, pass_number = fields[3:6] + _DEFAULTS[len(fields[3:6]) :]
    if not (re.fullmatch("[0-9]{1,9}", dump) and re.fullmatch("[0-9]{1,9}", pass_number)):
        return None
    names = tuple(_unescape(options).split(","))
    return Mount(_unescape(fields[0]), _unescape(fields[1]), _unescape(fields[2]), names, int(dump), int(pass_number))


def render_line(mount: Mount) -> str:
    """One line of fstab(5), without its newline; blanks and backslashes in a field are written as octal escapes."""
    options = ",".join(mount.options) or "defaults"
    fields = [_escape(field or "none") for field in (mount.source, mount.target, mount.fstype, options)]
    if fields[0].startswith("#"):
        fields[0] = "\\043" + fields[0][1:]
    return " ".join([*fields, str(mount.dump), str(mount.pass_number)])


def normalise_target(target: str) -> str:
    """The same mount point always in the same words: `//home/` is `/home`."""
    return "/" + posixpath.normpath(target).lstrip("/") if target.startswith("/") else target


def _identity(mount: Mount) -> str:
    """What tells one mount from another: where it is mounted, or for swap, which is mounted nowhere, its source."""
    return normalise_target(mount.target) if mount.target.startswith("/") else f"{mount.target} {mount.source}"


def _unescape(field: str) -> str:
    raw = field.encode("utf-8", "surrogateescape")
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), raw).decode("utf-8", "surrogateescape")


def _escape(field: str) -> str:
    return _ESCAPED.sub(lambda match: f"\\{ord(match[0]):03o}", field)
