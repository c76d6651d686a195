"""How a dataclass is checked by pydantic-core: strict types, no unknown keys.

pydantic would make the same of it, but its own import takes as long as reading a playbook does. So it is left to those
plugins' options that have types other than the ones here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, InitVar, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from banger.scalars import Written

if TYPE_CHECKING:
    from pydantic_core import CoreSchema
    from pydantic_core.core_schema import CoreConfig, DataclassField

_PLAIN: dict[object, CoreSchema] = {
    str: {"type": "str"},
    int: {"type": "int"},
    float: {"type": "float"},
    bool: {"type": "bool"},
    NoneType: {"type": "none"},
    Any: {"type": "any"},
}
_CONFIG: CoreConfig = {"strict": True, "extra_fields_behavior": "forbid"}


class _Unknown(Exception):
    """A type that is pydantic's business."""


def checker_of(kind: type) -> Callable[[str], Any]:
    """Makes a list of one object of the dataclass `kind` of JSON text. Raises pydantic_core.ValidationError.

    Of a list, because pydantic takes no configuration from outside for a bare dataclass.
    """
    from pydantic_core import SchemaValidator

    try:
        return SchemaValidator({"type": "list", "items_schema": _dataclass(kind, ())}, _CONFIG).validate_json
    except _Unknown:
        from pydantic import ConfigDict, TypeAdapter

        return TypeAdapter(list[kind], config=ConfigDict(strict=True, extra="forbid")).validate_json  # type: ignore[valid-type]


def _dataclass(kind: type, around: tuple[type, ...]) -> CoreSchema:
    """`around`: the dataclasses that this one is in."""
    hints = get_type_hints(kind, include_extras=True)
    if kind in around or any(isinstance(hint, InitVar) for hint in hints.values()):
        raise _Unknown
    own = [field for field in fields(kind) if field.init]
    return {
        "type": "dataclass",
        "cls": kind,
        "config": _CONFIG,
        "fields": [field.name for field in fields(kind)],
        "post_init": hasattr(kind, "__post_init__"),
        "slots": "__slots__" in vars(kind),
        "schema": {
            "type": "dataclass-args",
            "dataclass_name": kind.__name__,
            "fields": [_field(each, _of(hints[each.name], (*around, kind))) for each in own],
        },
    }


def _field(field: Field[Any], schema: CoreSchema) -> DataclassField:
    if field.default is not MISSING:
        schema = {"type": "default", "schema": schema, "default": field.default}
    elif field.default_factory is not MISSING:
        schema = {"type": "default", "schema": schema, "default_factory": field.default_factory}
    return {"type": "dataclass-field", "name": field.name, "schema": schema}


def _of(annotation: Any, around: tuple[type, ...]) -> CoreSchema:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Written):
        return {"type": "function-plain", "function": {"type": "no-info", "function": annotation.parse}}
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _dataclass(annotation, around)
    match get_origin(annotation), get_args(annotation):
        case origin, expected if origin is Literal:
            return {"type": "literal", "expected": list(expected)}
        case origin, arms if origin in (Union, UnionType):
            choices = [_of(arm, around) for arm in arms if arm is not NoneType]
            union: CoreSchema = choices[0] if len(choices) == 1 else {"type": "union", "choices": choices}
            return {"type": "nullable", "schema": union} if NoneType in arms else union
        case origin, (item, *words) if origin is Annotated and all(isinstance(word, str) for word in words):
            return _of(item, around)
        case origin, (item, rest) if origin is tuple and rest is ...:
            return {"type": "tuple", "items_schema": [_of(item, around)], "variadic_item_index": 0}
        case origin, (item,) if origin is list:
            return {"type": "list", "items_schema": _of(item, around)}
        case origin, (key, value) if origin is dict:
            return {"type": "dict", "keys_schema": _of(key, around), "values_schema": _of(value, around)}
    raise _Unknown
