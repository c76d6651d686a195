"""Checks a marked YAML tree against a dataclass and tells every mistake in it at its own place, in plain words.

The dataclasses (a VM's keys, a module's options) are checked by `checker`; here its findings are put into words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from banger.core import yaml_source
from banger.core.checker import checker_of
from banger.core.suggest import did_you_mean
from banger.core.variables import Unrendered, is_template, names_in, shorten
from banger.core.yaml_source import Node, Scalar
from banger.errors import Place, Problem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Options = TypeVar("Options")
Location = tuple[int | str, ...]
_checker_of = cache(checker_of)

_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dataclass_type": "a mapping of keys and values",
    "dict_type": "a mapping of keys and values",
    "list_type": "a list",
    "tuple_type": "a list",
    "none_required": "null",
}


def check(
    node: yaml_source.Mapping,
    kind: type[Options],
    what: str,
    problems: list[Problem],
    *,
    rendered: bool = True,
    also: Collection[str] = (),
) -> Options | None:
    """An object of the dataclass `kind` made from this mapping, or None with what is wrong added to `problems`.

    `what` names the thing in messages ("the VM 'web-1'"). Values whose template failed are passed over, and with
    `rendered=False` all that hold a template: what remains is checked, and None is given. `also` are keys that the
    user could have meant, but that are checked elsewhere.
    """
    from pydantic_core import ValidationError

    is_open = _failed if rendered else _templated
    data = json.dumps([yaml_source.plain(node)])
    try:
        value: Options = _checker_of(kind)(data)[0]  # type: ignore[arg-type]  # every class is hashable
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += dict.fromkeys(_problems(details, node, kind, what, is_open, also))
        return None
    return None if any(map(is_open, yaml_source.scalars(node))) else value


def check_what_can_be(
    node: yaml_source.Mapping, kind: type[Options], what: str, problems: list[Problem], *, also: Collection[str] = ()
) -> tuple[Options | None, bool]:
    """As `check`, but when some keys are wrong, an object of the others, so that these can be looked into further.

    The second value is whether that is the whole mapping.
    """
    told = len(problems)
    value = check(node, kind, what, problems, also=also)
    if value is not None:
        return value, True
    wrong = {problem.place for problem in problems[told:]}
    bad = {key for key, entry in node.entries.items() if entry.key_place in wrong or _touched(entry.node, wrong)}
    return check(without(node, bad), kind, what, []), False


def _touched(node: Node, wrong: Collection[Place | None]) -> bool:
    return node.place in wrong or any(s.place in wrong or _failed(s) for s in yaml_source.scalars(node))


def keys_of(kind: type) -> list[str]:
    """The keys a dataclass takes."""
    return [field.name for field in fields(kind) if field.init]


def required_keys_of(kind: type) -> list[str]:
    """Those of them that have no default."""
    return [field.name for field in fields(kind) if field.init and field.default is field.default_factory is MISSING]


def _failed(scalar: Scalar) -> bool:
    return isinstance(scalar.value, Unrendered)


def _templated(scalar: Scalar) -> bool:
    return isinstance(scalar.value, str) and is_template(scalar.value)


def _problems(
    details: Sequence[ErrorDetails],
    root: yaml_source.Mapping,
    kind: type,
    what: str,
    is_open: Callable[[Scalar], bool],
    also: Collection[str],
) -> list[Problem]:
    """One problem for each value that is wrong; the arms of a union are told together."""
    wrong: dict[Location, list[ErrorDetails]] = {}
    problems: list[Problem] = []
    for detail in details:
        location = detail["loc"][1:]
        path, node = _find(root, location)
        if detail["type"] == "missing":
            problems.append(_missing(path, node, location, what))
        elif detail["type"] == "unexpected_keyword_argument":
            problems.append(_unknown(root, location, what, kind, also))
        elif not any(map(is_open, yaml_source.scalars(node))):
            wrong.setdefault(path, []).append(detail)
    return problems + [_wrong(path, _find(root, path)[1], found, what) for path, found in wrong.items()]


def _find(root: Node, location: Location) -> tuple[Location, Node]:
    """The deepest node on this way; pydantic's own words for the arms of a union are not in the tree."""
    path: list[int | str] = []
    node = root
    for step in location:
        if isinstance(node, yaml_source.Mapping) and step in node.entries:
            node = node.entries[str(step)].node
        elif isinstance(node, yaml_source.Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            continue
        path.append(step)
    return tuple(path), node


def _missing(path: Location, node: Node, location: Location, what: str) -> Problem:
    where = f"'{_dotted(path)}' of {what}" if path else what
    return Problem(node.place, f"{where} needs '{location[-1]}'")


def _unknown(root: yaml_source.Mapping, location: Location, what: str, kind: type, also: Collection[str]) -> Problem:
    path, parent = _find(root, location[:-1])
    key = str(location[-1])
    place = parent.entries[key].key_place if isinstance(parent, yaml_source.Mapping) else parent.place
    where = f"'{_dotted(path)}' of {what}" if path else what
    return Problem(place, f"unknown key '{key}' in {where}", did_you_mean(key, [*_known(kind, path), *also]))


def _wrong(path: Location, node: Node, details: Sequence[ErrorDetails], what: str) -> Problem:
    name = f"'{_dotted(path)}' of {what}" if path else what
    reasons = list(dict.fromkeys(_reason(detail) for detail in details))
    expected = [reason for reason in reasons if not reason.startswith("it ")]
    own = "; ".join(reason[3:] for reason in reasons if reason.startswith("it "))
    if own and isinstance(node, yaml_source.Mapping):  # said of the whole; it stands at the value that is quoted in it
        quoted = (s.place for s in yaml_source.scalars(node) if isinstance(s.value, str) and repr(s.value) in own)
        return Problem(next(quoted, node.place), f"{name} {own}", _hint(node, details))
    message = own or "should be " + " or ".join(expected)
    shown = f", not {_shown(node)}" if not own else f": {_shown(node)}"
    return Problem(node.place, f"{name} {message}{shown}", _hint(node, details))


def _reason(detail: ErrorDetails) -> str:
    """`a list` after "should be", or a sentence of its own that begins with "it"."""
    if detail["type"] in _TYPES:
        return _TYPES[detail["type"]]
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        return str(context["expected"])
    if detail["type"] == "value_error":
        text = str(context["error"]).partition(";")[0]
        return f"it is {text}" if text.startswith("not ") else f"it is wrong: {text}"
    return "it is wrong: " + detail["msg"][:1].lower() + detail["msg"][1:]


def _shown(node: Node) -> str:
    if isinstance(node, Scalar) and _came_of_template(node):
        return f"{_word(node.value)} (from {shorten(node.text)})"
    if isinstance(node, Scalar):
        return shorten(node.text) if node.text else "empty"
    return "a list" if isinstance(node, yaml_source.Sequence) else "a mapping"


def _came_of_template(node: Scalar) -> bool:
    """Whether what a template gave is worth showing: not where it is another one for each VM, to be told only once."""
    if isinstance(node.value, Unrendered) or not is_template(node.text) or node.value == node.text:
        return False
    return not any(name.partition(".")[0] == "vm" for name in names_in(node.text))


def _word(value: yaml_source.Atom) -> str:
    if isinstance(value, str):
        return shorten(value)
    return json.dumps(value)


def _hint(node: Node, details: Sequence[ErrorDetails]) -> str | None:
    kinds = {detail["type"] for detail in details}
    if not isinstance(node, Scalar):
        return "begin a text of several lines with |" if "string_type" in kinds else None
    if "value_error" in kinds:
        return _value_hint(node, details)
    if "string_type" in kinds and node.value is not None:
        return "write {{ … | string }}" if is_template(node.text) else f'write it in quotes: "{node.text}"'
    if "string_type" in kinds:
        return 'an empty text is written ""'
    if kinds & {"tuple_type", "list_type"}:
        return f"write [{node.text}]" if " " not in node.text else "write each item in a line of its own, after '- '"
    if "literal_error" in kinds and isinstance(node.value, str):
        return _literal_hint(node.value, str(details[0].get("ctx", {}).get("expected", "")))
    if "int_type" in kinds and isinstance(node.value, str) and is_template(node.text):
        return "write {{ … | int }}" if re.fullmatch("[0-9]+", node.value) else None
    if "bool_type" in kinds:
        return _boolean_hint(node.text)
    if "int_type" in kinds and isinstance(node.value, str) and re.fullmatch("[0-9]+", node.value):
        return "write it without quotes" if not node.value.startswith("0") else "write it without a leading 0"
    return None


def _literal_hint(text: str, expected: str) -> str | None:
    """Only what begins alike: `absent` looks like `present`, and is its opposite."""
    near = did_you_mean(text, [word for word in re.findall(r"'([^']*)'", expected) if word[:1] == text[:1]])
    return near if near and near.startswith("did") else None


def _boolean_hint(text: str) -> str | None:
    words = {"true": ("yes", "on", "true", "1"), "false": ("no", "off", "false", "0")}
    return next((f"write {right}" for right, wrong in words.items() if text.lower() in wrong), None)


def _value_hint(node: Scalar, details: Sequence[ErrorDetails]) -> str | None:
    """What the type itself says would be right; for a size with another unit, the very size."""
    text = next(str(detail.get("ctx", {}).get("error", "")) for detail in details if detail["type"] == "value_error")
    size = re.fullmatch(r"(\d+)\s*([kmgt])i?b?", str(node.value).strip(), re.IGNORECASE)
    if size and text.startswith("not a size"):
        return f"did you mean {size[1]}{size[2].upper()}iB?"
    return text.partition("; ")[2] or None


def _known(kind: type, path: Location) -> list[str]:
    """The keys that the dataclass at the end of this way takes."""
    found: Any = kind
    for step in path:
        if isinstance(step, str) and is_dataclass(found) and isinstance(found, type):
            found = _dataclass_in(get_type_hints(found).get(step))
    return keys_of(found) if isinstance(found, type) and is_dataclass(found) else []


def _dataclass_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return annotation
    return next(filter(None, map(_dataclass_in, get_args(annotation))), None)


def _dotted(path: Location) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def place_of(node: yaml_source.Mapping, key: str) -> Place:
    """Where a key's value stands; the mapping's own place when the key is not there."""
    found = node.get(key)
    return found.place if found else node.place


def without(node: yaml_source.Mapping, keys: Collection[str]) -> yaml_source.Mapping:
    """The mapping without these keys."""
    return yaml_source.Mapping({k: e for k, e in node.entries.items() if k not in keys}, node.place)
