"""YAML with the place of every value and every key kept, and without the surprises of YAML 1.1. Pure.

Only `~`, `null` and nothing are null, only `true` and `false` are booleans, only decimal digits without a leading zero
are whole numbers, and only digits with a point in them are floats. All else is text: `0644`, `22:22`, `no`, `1_000`,
`52:54:00:12:34:56`. Anchors, aliases and merge keys work; a key that is there twice, or is not text, is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Sequence as Lines
from dataclasses import dataclass
from typing import Any

import yaml

from banger.core.suggest import did_you_mean
from banger.errors import Place, Problem

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml: slower, otherwise the same
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

Atom = None | bool | int | float | str

MAXIMUM_DEPTH = 100
"""Lists within lists; libyaml's composer recurses on the C stack and would run over its end."""
MAXIMUM_NODES = 200_000
"""Values after every alias has been written out; a few lines of nested aliases can stand for billions."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})\.[0-9]+([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, Atom] = {"": None, "~": None, "null": None, "true": True, "false": False}
_PLAIN, _TEXT = "plain", "tag:yaml.org,2002:str"
_TAGS: dict[str, type[Any]] = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value; `text` is how it was written."""

    value: Atom
    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of values."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """What a mapping has under one key, and where the key stands."""

    key_place: Place
    node: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values, in the order they were written; not to be changed."""

    entries: dict[str, Entry]
    place: Place

    def get(self, key: str) -> Node | None:
        """The value under a key; None when the key is not there."""
        entry = self.entries.get(key)
        return entry.node if entry else None


Node = Scalar | Sequence | Mapping


def load(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document; `file` names it in places. An empty document is None.

    Problems are collected; the tree is still given for what could be read, and is None after a syntax error.
    """
    try:
        if _too_deep(text):
            return None, [Problem(Place(file, 1, 1), f"nested deeper than {MAXIMUM_DEPTH} levels")]
        root = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        return None, [_character_problem(error, text, file)]
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_problem(error, text, file)]
    if root is None:
        return None, []
    reader = _Reader(file)
    return reader.node(root), reader.problems


def resolve(text: str) -> Atom:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def plain(node: Node | None) -> Any:
    """The Python data of a tree: dict, list, str, int, float, bool, None."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if node is None:
        return None
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def scalars(node: Node) -> Iterator[Scalar]:
    """Every scalar value in a tree, in order."""
    if isinstance(node, Scalar):
        yield node
    else:
        for child in node.items if isinstance(node, Sequence) else [entry.node for entry in node.entries.values()]:
            yield from scalars(child)


class _Loader(_SafeLoader):
    """Composes the node tree and resolves nothing but "was this scalar plain?"."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return _PLAIN if kind is yaml.ScalarNode and implicit[0] else _TEXT


class _Reader:
    """Turns one document's PyYAML nodes into ours."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._done: dict[int, tuple[Node, int, int]] = {}  # id of node -> ours, values in it, levels in it
        self._open: set[int] = set()

    def node(self, source: yaml.Node) -> Node:
        return self._sized(source)[0]

    def _sized(self, source: yaml.Node) -> tuple[Node, int, int]:
        if isinstance(source, yaml.ScalarNode):
            return self._scalar(source), 1, 0
        if template := _bare_template(source):
            place, hint = self._place(source.value[0][0]), f'quote a value that begins with a template: "{template}"'
            self.problems.append(Problem(place, "a template stands here without quotes", hint))
            return Scalar(template, place, template), 1, 0
        key = id(source)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            return self._refused(source, "an alias stands inside the very value it names")
        if len(self._open) >= MAXIMUM_DEPTH:
            return self._refused(source, f"nested deeper than {MAXIMUM_DEPTH} levels")
        self._open.add(key)
        node, count, depth = self._collection(source)
        self._open.discard(key)
        if depth > MAXIMUM_DEPTH:
            node, count, depth = self._refused(source, f"nested deeper than {MAXIMUM_DEPTH} levels")
        elif count > MAXIMUM_NODES:
            node, count, depth = self._refused(
                source, f"aliases make more than {MAXIMUM_NODES} values of this", "write less by alias"
            )
        self._done[key] = node, count, depth
        return node, count, depth

    def _refused(self, source: yaml.Node, message: str, hint: str | None = None) -> tuple[Node, int, int]:
        place = self._place(source)
        self.problems.append(Problem(place, message, hint))
        return Scalar(None, place, ""), 1, 0

    def _place(self, source: yaml.Node) -> Place:
        return _mark_place(source.start_mark, self.file)

    def _scalar(self, source: yaml.ScalarNode) -> Scalar:
        text: str = source.value
        place = self._place(source)
        if source.tag == _TEXT:
            return Scalar(text, place, text)
        value = resolve(text)
        if source.tag != _PLAIN:
            wanted = _TAGS.get(source.tag.removeprefix("tag:yaml.org,2002:"))
            if wanted is float and type(value) is int:
                value = float(value)
            if wanted is None or type(value) is not wanted:
                name = source.tag.replace("tag:yaml.org,2002:", "!!")
                self.problems.append(Problem(place, f"cannot read '{text}' as {name}", "leave the tag out"))
        return Scalar(value, place, text)

    def _collection(self, source: yaml.Node) -> tuple[Node, int, int]:
        if source.tag not in (_TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self.problems.append(Problem(self._place(source), f"unknown tag {source.tag}", "leave the tag out"))
        if isinstance(source, yaml.MappingNode):
            return self._mapping(source)
        parts = [self._sized(child) for child in source.value]
        node = Sequence(tuple(part[0] for part in parts), self._place(source))
        return node, 1 + sum(part[1] for part in parts), 1 + max((part[2] for part in parts), default=0)

    def _mapping(self, source: yaml.MappingNode) -> tuple[Node, int, int]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        count, depth = 1, 0
        for key_source, value_source in source.value:
            node, size, levels = self._sized(value_source)
            count, depth = count + size, max(depth, levels)
            if isinstance(key_source, yaml.ScalarNode) and key_source.tag == _PLAIN and key_source.value == "<<":
                self._merge(merged, node)
                continue
            key = self._key(key_source)
            if key is None:
                continue
            place = self._place(key_source)
            if key in own:
                message = f"the key '{key}' is here twice; the first is at {own[key].key_place}"
                self.problems.append(Problem(place, message, "keep one of them"))
            else:
                own[key] = Entry(place, node)
        entries = own | {key: entry for key, entry in merged.items() if key not in own}
        return Mapping(entries, self._place(source)), count, depth + 1

    def _merge(self, merged: dict[str, Entry], node: Node) -> None:
        """YAML 1.1 merge key: a mapping or a list of them, of which the earlier wins."""
        for each in node.items if isinstance(node, Sequence) else (node,):
            if isinstance(each, Mapping):
                for key, entry in each.entries.items():
                    merged.setdefault(key, entry)
            else:
                self.problems.append(Problem(each.place, "'<<' merges mappings only", "write an alias: <<: *name"))

    def _key(self, source: yaml.Node) -> str | None:
        if isinstance(source, yaml.ScalarNode):
            value = self._scalar(source).value
            if isinstance(value, str):
                return value
            hint = f'write it in quotes: "{source.value}"'
        else:
            hint = 'quote a value that begins with a template: "{{ … }}"'
        self.problems.append(Problem(self._place(source), "a key must be text", hint))
        return None


def _mark_place(mark: Any, file: str) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _too_deep(text: str) -> bool:
    """Whether composing would recurse too far. Only a text with very many openings is looked into."""
    if sum(text.count(opening) for opening in ("[", "{", "- ", "-\t", "? ", "?\t")) < 10_000:
        return False
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAXIMUM_DEPTH:
                return True
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return False


def _bare_template(source: yaml.Node) -> str | None:
    """What was meant by `{{ name }}` without quotes, which is a mapping with a mapping for its key."""
    match source:
        case yaml.MappingNode(value=[(yaml.MappingNode(value=[(yaml.ScalarNode(value=inner), _)]), _)]):
            return f"{{{{ {inner} }}}}"
    return None


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    context, message = error.context or "", error.problem or ""
    begin = _mark_place(error.context_mark, file) if error.context_mark else None
    if begin and "quoted scalar" in context and "end of stream" in message:  # the parser took all the rest for text
        return Problem(begin, "not YAML: this quote is never closed", "write the same quote where the text ends")
    if begin and "could not find expected ':'" in message:  # noticed only at the end of its line, or below
        return Problem(begin, f"not YAML: {message} {context}", "a key ends with ': '")
    place = _mark_place(error.problem_mark, file) if error.problem_mark else begin or Place(file, 1, 1)
    if "maximum nesting depth" in message:  # a bound that newer versions of libyaml have of their own
        return Problem(place, f"nested deeper than {MAXIMUM_DEPTH} levels")
    lines = text.splitlines()[: place.line]
    lines += [""] * (place.line - len(lines))
    hint = _syntax_hint(context, message, begin, place, lines)
    if message.startswith("but "):
        message = f"{context}, {message}"
    elif context and message and begin:
        message += f" {context} that begins at line {begin.line}"
    return Problem(place, f"not YAML: {message or context}", hint)


def _syntax_hint(context: str, message: str, begin: Place | None, place: Place, lines: Lines[str]) -> str | None:
    """What would cure it. `lines` end with the one where it was noticed; the mistake may be above."""
    line = lines[-1]
    before, after = line[: place.column - 1], line[place.column - 1 :]
    if re.search(r"(:|-)\s+\{[{%]", line):
        return 'quote a value that begins with a template: "{{ … }}"'
    if (before + after[:1]).lstrip(" ").startswith("\t"):
        return "YAML indents with spaces, never with tabs"
    if "another document" in message or "document start" in message:
        return "leave out what ends a document, '---' or '...': a file is one"
    if "undefined alias" in message:
        name = after[1:].partition(" ")[0].rstrip(",]}")
        near = did_you_mean(name, re.findall(r"&([^\s,\]}]+)", "\n".join(lines)))
        return near or f"the value that it stands for is marked &{name}, further up"
    if before.endswith(("'", '"')):
        return "the quoted text ends before this: a quote is missing above, or one inside '…' must be doubled: ''"
    if "flow" in context and begin:
        return f"the '{'[' if 'sequence' in context else '{'}' at {begin} is not closed, or a ',' is missing"
    if "cannot start any token" in message:
        return f"a value that begins with '{after[:1]}' needs quotes"
    return _layout_hint(before, lines[:-1]) if "mapping values" in message or "block" in context else None


def _layout_hint(before: str, above: Lines[str]) -> str:
    """Why a key cannot stand where it does, after `before` on its line."""
    previous = next((line for line in reversed(above) if line.strip()), "")
    if re.match(r"\s*-[^\s-]", before):
        return "put a blank after the '-' of an item"
    if ": " in before:
        return "a value that holds ': ' needs quotes"
    if re.search(r"\w:\S", previous) and not re.search(r":(\s|$)", previous):
        return f"put a blank after the ':' in the line above: {previous.strip().replace(':', ': ', 1)}"
    return "what belongs together, the keys of a mapping or the items of a list, begins in the same column"


def _character_problem(error: yaml.reader.ReaderError, text: str, file: str) -> Problem:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found is None:
        return Problem(Place(file, 1, 1), f"not YAML: {error.reason}")
    before = text[: found.start()]
    place = Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    message = f"not YAML: the character U+{ord(found[0]):04X} cannot stand in it"
    return Problem(place, message, 'in double quotes it can be written as an escape, such as "\\x07"')
