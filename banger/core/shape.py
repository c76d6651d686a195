"""Values of ours as JSON, and back: every field there, of its type, and none besides. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")
_Reader = Callable[[Any], Any]


def shaped(kind: type[Made], document: object) -> Made:
    """A dataclass of its JSON object, those within it too. Raises ValueError that says what does not fit."""
    read: Callable[[object], Made] = _reader(kind)  # type: ignore[arg-type]  # a class can be hashed
    return read(document)


def unshaped(value: Any) -> Any:
    """A value of ours as JSON has it, for `shaped` to read again; what is plain already is not copied."""
    if names := _names(type(value)):  # type: ignore[arg-type]  # a class can be hashed
        return {name: unshaped(getattr(value, name)) for name in names}
    return [unshaped(each) for each in value] if isinstance(value, list | tuple) else value


def json_of(document: dict[str, Any]) -> bytes:
    """JSON with a member a line: quick to make, for an indented one is not, and to read with diff(1)."""
    members = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in document.items())
    return f"{{\n {members}\n}}\n".encode()


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


@cache
def _reader(kind: Any) -> _Reader:
    """A function that takes a value of this type, and refuses others. A whole number is no truth value."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin in (Union, UnionType):
        inner = _reader(next(each for each in arguments if each is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return _checked(lambda value: value in arguments, f"one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        item = _reader(arguments[0])
        listed = _checked(lambda value: isinstance(value, list | tuple), "a list")
        return lambda value: tuple(item(each) for each in listed(value))
    if is_dataclass(kind):
        return _object(kind)
    if origin is dict:
        return _checked(lambda value: isinstance(value, dict), "an object")
    return _checked(lambda value: type(value) is kind, f"of type {kind.__name__}")


def _checked(fits: Callable[[Any], bool], what: str) -> _Reader:
    def read(value: Any) -> Any:
        if not fits(value):
            raise ValueError(f"{str(value)[:40]!r} is not {what}")
        return value

    return read


def _object(kind: Any) -> _Reader:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}

    def read(document: Any) -> Any:
        if not isinstance(document, dict):
            raise ValueError("not an object")
        if strange := document.keys() - readers.keys():
            raise ValueError(f"{min(map(str, strange))!r} is not known")
        if missing := needed - document.keys():
            raise ValueError(f"{min(missing)!r} is missing")
        given = {}
        for name, value in document.items():
            try:
                given[name] = readers[name](value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {error}") from error
        return kind(**given)

    return read
