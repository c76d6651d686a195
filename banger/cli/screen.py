"""Text for people. What a guest or an image says is shown on their terminal, and never tells it what to do."""

from __future__ import annotations

import json
import re
from typing import Any, TextIO

import click

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a terminal obeys (ECMA-48, C0 but for line feed and tab, DEL, C1), and what no terminal can be sent."""
_SMUGGLED = range(0xDC80, 0xDD00)
"""A byte that is no UTF-8, less 0xDC00 (PEP 383)."""


def visible(text: str) -> str:
    r"""The text with every control character written out, as `\x1b`."""
    return _CONTROL.sub(lambda match: _written_out(ord(match[0])), text)


def say(text: str, *, err: bool = False, file: TextIO | None = None) -> None:
    """A line, or several, for whoever is there to read them. Colours of our own would be put around `visible` text."""
    click.echo(visible(text), err=err, file=file)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """The JSON of this, readable in any language; but what no terminal should see, or can be sent, is an escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _written_out(number: int) -> str:
    byte = number - 0xDC00 if number in _SMUGGLED else number
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"
