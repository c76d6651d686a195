"""Causes: what something is, who said so, where, and what that overrode; and those of a playbook's variables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from banger.core import variables, yaml_source
from banger.core.options import keys_of
from banger.core.request import AsWritten
from banger.core.scope import Scope
from banger.core.variables import Setting
from banger.core.yaml_source import Node, Scalar
from banger.errors import Place


@dataclass(frozen=True, slots=True)
class Cause:
    """What something is, and why: `by` whom, at which place. `overrode`: what lost to it, the nearest first.

    `takes`: what its templates use. `parts`: what it consists of, a file of lines. `value` is None where it is shown
    by its parts, or not for everybody to see.
    """

    what: str
    value: str | None
    by: str
    place: Place | None = None
    overrode: tuple[Cause, ...] = ()
    takes: tuple[Cause, ...] = ()
    parts: tuple[Cause, ...] = ()


def without_value(cause: Cause) -> Cause:
    """Whose it is and where, not what it is."""
    takes, overrode = (tuple(map(without_value, causes)) for causes in (cause.takes, cause.overrode))
    return replace(cause, value=None, takes=takes, overrode=overrode)


def variable(name: str, scope: Scope, seen_by: Setting | None = None) -> Cause | None:
    """A variable as a scope has it, or as one of its own settings sees it; None for one that it has not."""
    setting = scope.setting(name, seen_by)
    if setting is None:
        return None
    all_of_it = scope.settings[name]
    lost = all_of_it[: all_of_it.index(setting)]
    return Cause(
        name,
        in_words(setting.value),
        setting.source,
        setting.place,
        overrode=tuple(Cause(name, as_written(each.node), each.source, each.place) for each in reversed(lost)),
        takes=takes_of(texts_of(setting.node), scope, None, setting) if setting.place else (),
    )


def takes_of(
    texts: Iterable[str], scope: Scope, written: AsWritten | None, seen_by: Setting | None = None
) -> tuple[Cause, ...]:
    """The variables that these templates use."""
    found = []
    for name in dict.fromkeys(name for text in texts for name in variables.names_in(text)):
        if name == "item" and written and written.loop:
            takes = takes_of(texts_of(written.loop), scope, None)
            found.append(Cause("item", in_words(written.item), "loop", written.loop.place, takes=takes))
        elif cause := variable(name.partition(".")[0], scope, seen_by):
            found.append(cause)
    return tuple(found)


def texts_of(node: Node) -> list[str]:
    return [scalar.value for scalar in yaml_source.scalars(node) if isinstance(scalar.value, str)]


def deduplicated(causes: Iterable[Cause]) -> list[Cause]:
    return list(dict.fromkeys(causes))


def as_written(node: Node) -> str:
    return node.text if isinstance(node, Scalar) and node.text else in_words(yaml_source.plain(node))


def in_words(value: Any) -> str:
    """A value in a playbook's words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {in_words(each)}' for key, each in value.items())}}}"
    if is_dataclass(value):
        return f"{{{', '.join(f'{key}: {in_words(getattr(value, key))}' for key in keys_of(type(value)))}}}"
    return str(value) if value != "" else '""'


def kind_word(kind: str) -> str:
    """What a `vm`, an `image` and the like are called in a sentence."""
    return {"vm": "VM"}.get(kind, kind)
