"""YAML for people, which `yaml_source` and then `variables` read back as exactly the values that were given. Pure.

Keys keep their order. What is short stands on one line, text of several lines is a block of its own, and text that a
template could be found in is marked to be taken literally.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from banger.core.variables import is_template
from banger.core.yaml_source import resolve

WIDTH = 100
_STEP = "  "
_PLAIN = re.compile(r"[A-Za-z0-9/.][A-Za-z0-9/._@+=~-]*(?:[ :][A-Za-z0-9/._@+=~'-]+)*")
_PRINTABLE = "\t\n\\x20-\\x7e\\xa0-\\u2027\\u202a-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd\\U00010000-\\U0010ffff"
_BLOCK = re.compile(f"[{_PRINTABLE}]*")
_ESCAPED = re.compile(f'[^{_PRINTABLE}]|[\t\n"\\\\]')
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def sequence(items: Sequence[Any], pad: str = "") -> str:
    """A list, each item on a line of its own or on several; ends with a newline."""
    text = ""
    for item in items:
        if isinstance(item, Mapping) and item and _flow(item, WIDTH - len(pad) - 2) is None:
            text += f"{pad}- {mapping(item, pad + _STEP)[len(pad) + 2 :]}"
        else:
            text += f"{pad}-{_value(item, pad)}"
    return text


def mapping(entries: Mapping[str, Any], pad: str = "") -> str:
    """Keys and their values, each on a line of its own or on several; ends with a newline."""
    return "".join(f"{pad}{_scalar(key)}:{_value(value, pad, len(key))}" for key, value in entries.items())


def literally(text: str) -> str:
    """A template that gives this text, where it would be taken for a template itself."""
    if not is_template(text):
        return text
    if "endraw" not in text and "\r" not in text:  # Jinja2 makes every line end a \n
        return "{% raw %}" + text + "{% endraw %}"
    return '{{ "' + re.sub(r"[^A-Za-z0-9 ,.:;/=_-]", _unicode_escape, text) + '" }}'


def _value(value: Any, pad: str, taken: int = 0) -> str:
    """What stands after `key:` or `-`, with its newline."""
    flow = _flow(value, WIDTH - len(pad) - taken - 2)
    if flow is not None:
        return f" {flow}\n"
    if isinstance(value, str):
        return " " + _block(literally(value), pad + _STEP)
    below = mapping if isinstance(value, Mapping) else sequence
    return "\n" + below(value, pad + _STEP)


def _flow(value: Any, room: int) -> str | None:
    """A value on one line; None where it would be too long or a text has several lines. A scalar is never too long."""
    if isinstance(value, str):
        text = literally(value)
        return None if _is_for_a_block(text) else _scalar(text)
    if not isinstance(value, Mapping | list | tuple):
        return _scalar(value)
    if isinstance(value, Mapping):
        parts = [(f"{_scalar(key)}: ", each) for key, each in value.items()]
    else:
        parts = [("", each) for each in value]
    if any(isinstance(each, Mapping) for _, each in parts):
        return None
    written = [(before, _flow(each, room)) for before, each in parts]
    if any(text is None for _, text in written):
        return None
    inner = ", ".join(f"{before}{text}" for before, text in written)
    text = f"{{{inner}}}" if isinstance(value, Mapping) else f"[{inner}]"
    return text if len(text) <= room or not parts else None


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    is_plain = _PLAIN.fullmatch(value) and isinstance(resolve(value), str)
    return value if is_plain else '"' + _ESCAPED.sub(_escape, value) + '"'


def _is_for_a_block(text: str) -> bool:
    return "\n" in text.removesuffix("\n") and bool(text.strip()) and bool(_BLOCK.fullmatch(text))


def _block(text: str, pad: str) -> str:
    """A literal block scalar; its first line says how deep it is where the text begins with blanks."""
    depth = str(len(_STEP)) if text[0] in " \t\n" else ""
    keep = "-" if not text.endswith("\n") else "+" if text.endswith("\n\n") else ""
    lines = text.removesuffix("\n").split("\n")
    return f"|{depth}{keep}\n" + "".join(f"{pad}{line}\n" if line else "\n" for line in lines)


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or _unicode_escape(match)


def _unicode_escape(match: re.Match[str]) -> str:
    """As both YAML and Jinja2 read it."""
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
