"""Variables and the templates that use them: Jinja2, sandboxed, where an undefined name is an error.

Jinja2 is imported only when a text holds `{{`, `{%` or `{#`. A value that is exactly one `{{ expression }}` becomes
what the expression gives (a number stays a number); any other template becomes text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import GeneratorType
from typing import Any

from banger.core import yaml_source
from banger.core.suggest import did_you_mean
from banger.core.yaml_source import Entry, Node, Scalar
from banger.errors import Place, Problem, UsageError

Context = Mapping[str, Any]

_MARKS = ("{{", "{%", "{#")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAXIMUM_LENGTH = 10_000_000
"""Of what one operator in a template makes, in characters, items or bits."""
RESERVED = frozenset({"vm", "image", "item"})
"""Names that tasks and loops set."""
_SET_ELSEWHERE = {
    "item": "only what has a loop knows it",
    "vm": "only the tasks of VMs know it",
    "image": "only tasks know it",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value given to a variable, as it is written; `source` says by what, `place` is None for a command line.

    `value` is what came of it, None for one that was never needed. `order`: which were there before it in its play.
    """

    source: str
    node: Node
    place: Place | None
    value: Any
    order: int = 0


class Unrendered(str):
    """The text of a template that failed. Its problem is already told, so nothing more is said about its value."""

    __slots__ = ()


class TemplateError(Exception):
    """A template that failed; `line` counts from 1 inside the template."""

    def __init__(self, message: str, *, hint: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.hint, self.line = message, hint, line


def is_template(text: str) -> bool:
    """Whether Jinja2 would do anything with this text."""
    return "{" in text and any(mark in text for mark in _MARKS)


def render(node: Node, context: Context, problems: list[Problem]) -> Node:
    """The same tree with every template in it rendered. What fails is added to `problems` and left `Unrendered`."""
    if isinstance(node, Scalar):
        return _render_scalar(node, context, problems)
    if isinstance(node, yaml_source.Sequence):
        items = tuple(render(item, context, problems) for item in node.items)
        same = all(new is old for new, old in zip(items, node.items, strict=True))
        return node if same else yaml_source.Sequence(items, node.place)
    entries = {k: Entry(e.key_place, render(e.node, context, problems)) for k, e in node.entries.items()}
    same = all(entries[key].node is entry.node for key, entry in node.entries.items())
    return node if same else yaml_source.Mapping(entries, node.place)


def render_text(text: str, name: str, context: Context) -> str:
    """Render the text of a template file. Raises TemplateError with the line in it."""
    if not is_template(text):
        return text
    with _Failures(context, name):
        return str(_template(text, name).render(dict(context)))


def evaluate(text: str, context: Context) -> bool:
    """The truth of a `when` expression, which is written without braces. Raises TemplateError."""
    if is_template(text):
        raise TemplateError("'when' is an expression already", hint="write it without the braces")
    with _Failures(context):
        return bool(_expression(text)(dict(context)))


def check_syntax(node: Node, problems: list[Problem]) -> None:
    """Report every template in this tree that could never be rendered."""
    for scalar in yaml_source.scalars(node):
        if isinstance(scalar.value, str) and is_template(scalar.value):
            try:
                with _Failures({}):
                    _compiled(scalar.value)
            except TemplateError as error:
                problems.append(_problem(error, scalar))


def names_in(text: str, *, expression: bool = False) -> dict[str, tuple[int, ...]]:
    """What a template (or an `expression`) takes of its context, `vm.name` for what is asked of `vm` or `image`.

    With the lines, from 1, that it is named in. The template is one that can be rendered.
    """
    if not expression and not is_template(text):
        return {}
    from jinja2 import meta, nodes

    tree = _environment().parse(f"{{{{ {text} }}}}" if expression else text)
    free = meta.find_undeclared_variables(tree)
    found: dict[str, dict[int, None]] = {}
    whole = {id(each.node): f"{each.node.name}.{each.attr}" for each in tree.find_all(nodes.Getattr) if _is_fact(each)}
    for each in tree.find_all(nodes.Name):
        if each.ctx == "load" and each.name in free:
            found.setdefault(whole.get(id(each), each.name), {})[each.lineno] = None
    return {name: tuple(lines) for name, lines in found.items()}


def _is_fact(node: Any) -> bool:
    return getattr(node.node, "name", "") in ("vm", "image")


def lines_of(text: str, name: str, context: Context) -> list[tuple[str, int]] | None:
    """Each line of what a template renders to, with the template's line it ends in; None when that cannot be told."""
    from jinja2 import nodes

    environment = _environment()
    tree = environment.parse(text, name)
    for data in tree.find_all(nodes.TemplateData):
        first, *others = data.data.split("\n")
        data.data = first + "".join(f"\0{data.lineno + k}\0\n{other}" for k, other in enumerate(others))
    code = environment.compile(tree, name, name)
    template = environment.template_class.from_code(environment, code, environment.make_globals(None))
    try:
        with _Failures(context, name):
            marked: str = template.render(dict(context))
    except TemplateError:  # what it makes of its own text, it cannot make of a marked one
        return None
    last = text.count("\n") + (not text.endswith("\n"))
    found: list[tuple[str, int]] = []
    for line in reversed(marked.split("\n")):
        bare, *marks = line.split("\0")
        last = int(marks[0]) if marks else last
        found.append((bare, last))
    found.reverse()
    same = "\n".join(line for line, _ in found) == render_text(text, name, context)
    return (found if found[-1][0] else found[:-1]) if same else None


def parse_extra(arguments: Sequence[str]) -> dict[str, Any]:
    """Variables of the command line: `key=value`, or `@file` with a YAML mapping; the last wins.

    A value means what it would mean in a playbook: `n=2` is a number, `[a, b]` a list, `on` text. Raises UsageError.
    """
    return {name: yaml_source.plain(settings[-1].node) for name, settings in extra_settings(arguments).items()}


def extra_settings(arguments: Sequence[str]) -> dict[str, tuple[Setting, ...]]:
    """As `parse_extra`, with where each stands: all that are given for a name, in order. Raises UsageError."""
    settings: dict[str, tuple[Setting, ...]] = {}
    for argument in arguments:
        for name, setting in _extra_file(argument[1:]) if argument.startswith("@") else [_extra_pair(argument)]:
            settings[name] = (*settings.get(name, ()), setting)
    return settings


def check_name(name: str) -> str | None:
    """What is wrong with this name for a variable; None when it will do."""
    if not NAME.fullmatch(name):
        return f"'{name}' cannot name a variable: letters, digits and _ only, and no digit first"
    return f"'{name}' is set by banger itself and cannot be a variable" if name in RESERVED else None


# --- one value -------------------------------------------------------------------------------------------------------


def _render_scalar(node: Scalar, context: Context, problems: list[Problem]) -> Node:
    if not isinstance(node.value, str) or not is_template(node.value) or isinstance(node.value, Unrendered):
        return node
    try:
        with _Failures(context):
            return _node(_compiled(node.value)(context), node)
    except TemplateError as error:
        problems.append(_problem(error, node))
        return Scalar(Unrendered(node.value), node.place, node.text)


def _problem(error: TemplateError, node: Scalar) -> Problem:
    return Problem(node.place, f"{error.message}, in {shorten(node.text)}", error.hint)


def shorten(text: str) -> str:
    """A user's own text as it can stand in a message: one line, not too long."""
    line = " ".join(text.split())
    return f"'{line}'" if len(line) <= 80 else f"'{line[:77]}…'"


def _node(value: Any, source: Scalar) -> Node:
    """What an expression gave, as values that all stand where the template stands."""
    if type(value).__name__ == "Markup":
        value = str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return Scalar(value, source.place, source.text)
    if isinstance(value, list | tuple | range | set | frozenset | GeneratorType | type({}.keys()) | type({}.values())):
        return yaml_source.Sequence(tuple(_node(item, source) for item in value), source.place)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        entries = {key: Entry(source.place, _node(item, source)) for key, item in value.items()}
        return yaml_source.Mapping(entries, source.place)
    str(value)  # an undefined one raises here
    raise TemplateError(f"this gives a {type(value).__name__}, which is no value", hint="name one of its attributes")


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Callable[[Context], Any]:
    """A function from variables to a value. Raises jinja2's TemplateSyntaxError."""
    import jinja2

    if text.startswith("{{") and text.endswith("}}"):
        inner = text[2:-2]
        inner = inner[1:] if inner[:1] in "-+" else inner  # whitespace control, with nothing around to control
        inner = inner[:-1] if inner[-1:] in "-+" else inner
        try:
            expression = _expression(inner)
        except jinja2.TemplateSyntaxError:
            pass  # such as "{{ a }}-{{ b }}"; a true mistake is found again below
        else:
            return lambda context: expression(dict(context))
    template = _template(text, "<template>")
    return lambda context: template.render(dict(context))


@lru_cache(maxsize=4096)
def _expression(text: str) -> Callable[..., Any]:
    return _environment().compile_expression(text, undefined_to_none=False)  # type: ignore[no-any-return]


@lru_cache(maxsize=256)
def _template(text: str, name: str) -> Any:
    environment = _environment()
    code = environment.compile(text, name=name, filename=name)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


# --- jinja2 ----------------------------------------------------------------------------------------------------------


class _UndefinedName(Exception):
    """A template used a name or an attribute that is not there. `subject` is None for a name."""

    def __init__(self, message: str, name: str, subject: object) -> None:
        super().__init__(message)
        self.name, self.subject = name, subject


@cache
def _environment() -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import missing

    class Undefined(jinja2.StrictUndefined):
        """Raises something that knows what was asked of what."""

        __slots__ = ()

        def __init__(self, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = None):
            subject = None if obj is missing else obj

            def undefined(message: str) -> Exception:
                return jinja2.UndefinedError(message) if hint else _UndefinedName(message, str(name), subject)

            super().__init__(hint, obj, name, exc or undefined)  # type: ignore[arg-type]  # it is only called

    class Sandbox(ImmutableSandboxedEnvironment):
        """Also refuses what would take all memory or all time, before it is begun."""

        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _result_length(operator, left, right) > MAXIMUM_LENGTH:
                raise OverflowError(f"'{operator}' would make something longer than {MAXIMUM_LENGTH}")
            return super().call_binop(context, operator, left, right)

    return Sandbox(undefined=Undefined, keep_trailing_newline=True, auto_reload=False)


def _result_length(operator: str, left: Any, right: Any) -> int:
    """At most how many characters, items or bits this makes; 0 where it makes little of whatever it is given."""
    if operator == "%":
        return max(map(int, re.findall(r"\d+", left)), default=0) if isinstance(left, str) else 0
    if operator == "**":
        return left.bit_length() * max(right, 0) if isinstance(left, int) and isinstance(right, int) else 0
    for many, times in ((left, right), (right, left)):
        if isinstance(many, Sized) and isinstance(times, int):
            return len(many) * times
    return 0


class _Failures:
    """Turns what a template raises into a TemplateError with a line, and a suggestion from the context."""

    def __init__(self, context: Context, name: str = "<template>") -> None:
        self.context, self.name = context, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, TemplateError) or not isinstance(error, Exception):
            return
        raise self._translated(error) from error

    def _translated(self, error: Exception) -> TemplateError:
        import jinja2

        if isinstance(error, jinja2.TemplateSyntaxError):
            message = (error.message or "it cannot be read").rstrip(".")
            return TemplateError(f"not a template: {message}", hint=_syntax_hint(message), line=error.lineno)
        line = self._line(error)
        if isinstance(error, _UndefinedName):
            return self._undefined(error, line)
        return TemplateError(f"the template failed: {error}", line=line)

    def _undefined(self, error: _UndefinedName, line: int | None) -> TemplateError:
        if error.subject is None:
            hint = _SET_ELSEWHERE.get(error.name) or did_you_mean(error.name, self.context)
            return TemplateError(f"'{error.name}' is undefined", hint=hint, line=line)
        known = _attributes(error.subject)
        owner = next((name for name, value in self.context.items() if value is error.subject), None)
        what = f"'{owner}'" if owner else f"this {type(error.subject).__name__}"
        return TemplateError(f"{what} has no '{error.name}'", hint=did_you_mean(error.name, known), line=line)

    def _line(self, error: Exception) -> int | None:
        """Jinja2 rewrites tracebacks so that a frame's file is the template's name and its line the template's."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.name:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


def _syntax_hint(message: str) -> str | None:
    """What would be right, for what Jinja2 says of the commonest mistakes."""
    if unknown := re.search(r"No (filter|test) named '(.*)'", message):
        environment = _environment()
        return did_you_mean(unknown[2], environment.filters if unknown[1] == "filter" else environment.tests)
    if message == "chunk after expression":
        return "an expression ends before this does: compare with ==, join with 'and' or 'or'"
    not_closed = message == "unexpected '}'" or message.startswith("unexpected end of template")
    return "a template begins with {{ and ends with }}" if not_closed else None


def _attributes(subject: object) -> list[str]:
    if isinstance(subject, dict):
        return [str(key) for key in subject]
    return [field.name for field in fields(subject)] if is_dataclass(subject) else []


# --- the command line ------------------------------------------------------------------------------------------------


def _extra_pair(argument: str) -> tuple[str, Setting]:
    name, equals, text = argument.partition("=")
    if not equals:
        raise UsageError(f"-e {argument}: neither key=value nor @file", hint=f"-e {name}=VALUE")
    if message := check_name(name):
        raise UsageError(f"-e {argument}: {message}")
    if text[:1] not in ("[", "{"):
        value = yaml_source.resolve(text) if text else ""
        return name, Setting(f"-e {name}", Scalar(value, Place(f"-e {name}", 1, 1), text), None, value)
    node, problems = yaml_source.load(text, f"-e {name}")
    if problems or node is None:
        raise UsageError(str(problems[0]), hint="put text that begins with a bracket in quotes")
    return name, Setting(f"-e {name}", node, None, yaml_source.plain(node))


def _extra_file(name: str) -> list[tuple[str, Setting]]:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"-e @{name} cannot be read: {reason}") from error
    node, problems = yaml_source.load(text, name)
    problems += mapping_problems(node, Place(name, 1, 1))
    if problems:
        raise UsageError("\n".join(str(problem) for problem in problems))
    entries = node.entries if isinstance(node, yaml_source.Mapping) else {}
    return [
        (key, Setting(f"-e @{name}", entry.node, entry.node.place, yaml_source.plain(entry.node)))
        for key, entry in entries.items()
    ]


def mapping_problems(node: Node | None, place: Place) -> list[Problem]:
    """What keeps a tree from being a set of variables."""
    if node is None:
        return []
    if not isinstance(node, yaml_source.Mapping):
        return [Problem(node.place, "variables are written as a mapping", "name: value")]
    found = ((entry.key_place, check_name(name)) for name, entry in node.entries.items())
    return [Problem(where, message) for where, message in found if message]
