"""Tasks: read from a play, and later let loose on the builder of each guest they apply to. Pure but for source files.

A task is `name`, `when`, `tags`, `loop`, `no_log` and exactly one module with its options. All that can be known
without the facts of a guest is checked when the playbook is read; the rest when the task contributes, before anything
is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from banger.core import options, variables, yaml_source
from banger.core.suggest import did_you_mean
from banger.core.yaml_source import Node, Scalar
from banger.errors import BangerError, Place, PlaybookError, Problem
from banger.guestconfig import GuestConfig
from banger.types import GuestModule, Image, ModuleContext, Vm

KEYWORDS = ("name", "when", "tags", "loop", "no_log")


@dataclass(frozen=True, slots=True)
class Task:
    """One task as written: nothing in it is rendered yet. `when` is a list of expressions that must all be true."""

    name: str
    module: str
    options: yaml_source.Mapping
    place: Place
    tags: tuple[str, ...] = ()
    when: tuple[Scalar, ...] = ()
    loop: Node | None = None
    no_log: bool = False
    """What it writes is shown nowhere, and what is wrong with it only by its place."""

    @property
    def directory(self) -> Path:
        """What the files named in it are relative to: where the file is that it stands in."""
        return Path(self.place.file).parent


@dataclass(frozen=True, slots=True)
class Round:
    """One time that a task has contributed: what its templates could use, the files it read, and those it rendered."""

    context: Mapping[str, Any]
    files: Mapping[str, Path]
    templates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class VmFacts:
    """`vm`, as templates see it. `ip` is without its prefix length."""

    name: str
    ip: str
    id: str
    vcpus: int
    memory_bytes: int

    @classmethod
    def of(cls, vm: Vm) -> VmFacts:
        return cls(vm.name, vm.nic.ip, vm.id, vm.vcpus, vm.memory_bytes)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """`image`, as templates see it."""

    name: str
    digest: str

    @classmethod
    def of(cls, image: Image) -> ImageFacts:
        return cls(image.name, image.digest)


@dataclass(frozen=True, slots=True)
class Keywords:
    """What a task takes besides its module, `when` and `loop`."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    no_log: bool = False
    """What the task writes is shown nowhere: for secrets."""


# --- reading ---------------------------------------------------------------------------------------------------------


def parse(nodes: Iterable[Node], modules: Mapping[str, GuestModule], problems: list[Problem]) -> tuple[Task, ...]:
    """The tasks of a play; what is wrong with any of them is added to `problems`."""
    return tuple(task for node in nodes if (task := _parse_quietly(node, modules, problems)))


def _parse_quietly(node: Node, modules: Mapping[str, GuestModule], problems: list[Problem]) -> Task | None:
    """Nothing that a task of `no_log` says is quoted, but what it says of `no_log` itself."""
    asked = node.get("no_log") if isinstance(node, yaml_source.Mapping) else None
    if asked is None or (isinstance(asked, Scalar) and asked.value is False):
        return _parse(node, modules, problems)
    found: list[Problem] = []
    task = _parse(node, modules, found)
    problems += [problem if problem.place == asked.place else _unsaid(problem, node.place) for problem in found]
    return task


def _unsaid(problem: Problem, task: Place) -> Problem:
    """The same, by its place alone."""
    return Problem(problem.place or task, "something is wrong here; the task is no_log, so it is not said what", _LOUD)


_LOUD = "with 'no_log: false' it is said"


def _parse(node: Node, modules: Mapping[str, GuestModule], problems: list[Problem]) -> Task | None:
    if not isinstance(node, yaml_source.Mapping):
        problems.append(Problem(node.place, "a task is a mapping", "- file: {dest: /etc/motd, content: hello}"))
        return None
    named = [key for key in node.entries if key in modules]
    if not _one_module(node, named, modules, problems):
        return None
    module = named[0]
    keywords = options.check(options.without(node, {module, "when", "loop"}), Keywords, "a task", problems)
    given = _module_options(node, module, modules, problems)
    when = _when(node.get("when"), problems)
    if given is not None:
        what = f"the module '{module}'"
        options.check(given, modules[module].options, what, problems, rendered=False)
        variables.check_syntax(given, problems)
    if keywords is None or given is None:
        return None
    name, loop = keywords.name or module, node.get("loop")
    return Task(name, module, given, node.place, keywords.tags, when, loop, keywords.no_log)


def _one_module(
    node: yaml_source.Mapping, named: list[str], modules: Mapping[str, GuestModule], problems: list[Problem]
) -> bool:
    """Whether the task has one module. A key nobody knows is a misspelt keyword, or else a misspelt module."""
    strangers = [key for key in node.entries if key not in KEYWORDS and key not in modules]
    options_of = {key: name for name in named for key in options.keys_of(modules[name].options)}
    for key in strangers:
        message = f"unknown key '{key}' in a task" if named else f"unknown module '{key}'"
        hint = did_you_mean(key, KEYWORDS if named else [*modules, *KEYWORDS]) or ""
        if key == "include":
            hint = "a playbook is included beside the plays: - include: FILE"
        elif key in options_of:
            hint = f"indent it below '{options_of[key]}'"
        elif not named and hint.startswith("known"):
            hint = did_you_mean("", modules) or ""
        problems.append(Problem(node.entries[key].key_place, message, hint or None))
    if len(named) > 1:
        words = " and ".join(f"'{name}'" for name in named)
        problems.append(
            Problem(node.entries[named[1]].key_place, f"a task has one module, this has {words}", "split it")
        )
    elif not named and not strangers:
        problems.append(Problem(node.place, "a task needs a module", did_you_mean("", modules)))
    return len(named) == 1 and not strangers


def _module_options(
    node: yaml_source.Mapping, module: str, modules: Mapping[str, GuestModule], problems: list[Problem]
) -> yaml_source.Mapping | None:
    value = node.entries[module].node
    if isinstance(value, yaml_source.Mapping):
        return value
    if isinstance(value, Scalar) and value.value is None:
        return yaml_source.Mapping({}, node.entries[module].key_place)
    required = ", ".join(f"{key}: …" for key in options.required_keys_of(modules[module].options))
    message = f"the options of '{module}' are a mapping of keys and values"
    problems.append(Problem(value.place, message, f"{module}: {{{required}}}"))
    return None


def _when(node: Node | None, problems: list[Problem]) -> tuple[Scalar, ...]:
    """An expression, a boolean, or a list of these."""
    conditions = node.items if isinstance(node, yaml_source.Sequence) else (node,) if node else ()
    good = []
    for condition in conditions:
        if isinstance(condition, Scalar) and isinstance(condition.value, str | bool):
            good.append(condition)
        else:
            message = "'when' is an expression, or a list of them"
            problems.append(Problem(condition.place, message, "when: vm.name == 'web-1'"))
    return tuple(good)


# --- contributing ----------------------------------------------------------------------------------------------------


def contribute(
    builder: GuestConfig,
    tasks: Iterable[Task],
    facts: Mapping[str, Any],
    values: Mapping[str, Any],
    modules: Mapping[str, GuestModule],
    watch: Callable[[Round], None] = lambda done: None,
) -> list[Problem]:
    """Let each task fill the builder. `facts` are `vm` and `image`, `values` the play's variables.

    What is wrong with any task is returned, all of it. `watch` is told of each time that a task has contributed.
    """
    problems: list[Problem] = []
    for task in tasks:
        found: list[Problem] = []
        with builder.contributed_by(str(task.place), overriding=True, no_log=task.no_log):
            for context in _rounds(task, {**values, **facts}, found):
                if _applies(task, context, found):
                    _contribute_once(builder, task, facts, context, modules[task.module], found, watch)
                else:
                    builder.skipped += 1
        problems += [_unsaid(problem, task.place) for problem in found] if task.no_log else found
    return list(dict.fromkeys(problems))


def _rounds(task: Task, context: Mapping[str, Any], problems: list[Problem]) -> Iterator[Mapping[str, Any]]:
    """The context of each time the task runs."""
    if task.loop is None:
        yield context
    else:
        for item in loop_items(task.loop, context, problems):
            yield {**context, "item": item}


def loop_items(node: Node, context: Mapping[str, Any], problems: list[Problem]) -> list[Any]:
    """The values of a `loop`, which is a list or a template that gives one."""
    told = len(problems)
    rendered = variables.render(node, context, problems)
    if len(problems) > told:
        return []
    if isinstance(rendered, yaml_source.Sequence):
        return [yaml_source.plain(item) for item in rendered.items]
    problems.append(Problem(rendered.place, "'loop' is not a list", "write [1, 2] or '{{ range(2) }}'"))
    return []


def _applies(task: Task, context: Mapping[str, Any], problems: list[Problem]) -> bool:
    for condition in task.when:
        try:
            value = condition.value
            if not (variables.evaluate(value, context) if isinstance(value, str) else value):
                return False
        except variables.TemplateError as error:
            text = variables.shorten(condition.text)
            problems.append(Problem(condition.place, f"{error.message}, in {text}", error.hint))
            return False
    return True


def _contribute_once(
    builder: GuestConfig,
    task: Task,
    facts: Mapping[str, Any],
    context: Mapping[str, Any],
    module: GuestModule,
    problems: list[Problem],
    watch: Callable[[Round], None],
) -> None:
    node = variables.render(task.options, context, problems)
    assert isinstance(node, yaml_source.Mapping), "rendering keeps the options a mapping"
    given = options.check(node, module.options, f"the module '{task.module}'", problems)
    if given is None:
        return
    sources = _Sources(task.directory, node, context)
    try:
        module.contribute(builder, given, ModuleContext(facts, task.place, sources.read, sources.render))
        watch(Round(context, sources.files, sources.templates))
    except PlaybookError as error:
        problems += error.problems
    except BangerError as error:
        problems.append(Problem(task.place, f"the module '{task.module}': {error.message}", error.hint))
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        problems.append(Problem(task.place, f"the module '{task.module}': {message}", hint or None))
    except SystemExit as error:
        problems.append(Problem(task.place, f"the module '{task.module}' failed: it called sys.exit({error.code!r})"))
    except Exception as error:
        if task.no_log:
            fault = f"the module '{task.module}' failed: {type(error).__name__}, in a task that is no_log"
            problems.append(Problem(task.place, fault))
            return
        error.add_note(f"in the module '{task.module}', for the task at {task.place}")
        raise


@dataclass(frozen=True, slots=True)
class _Sources:
    """What one task may read, with errors that stand at the option which named the file."""

    directory: Path
    options: yaml_source.Mapping
    context: Mapping[str, Any]
    files: dict[str, Path] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        self.files[name] = path = self.directory / name
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:
            message = f"cannot read '{name}': {getattr(error, 'strerror', 'that is no file name')}"
            raise PlaybookError([Problem(self._place(name), message, nearest_file(name, self.directory))]) from error

    def render(self, text: str, name: str) -> str:
        self.templates[name] = text
        try:
            return variables.render_text(text, name, self.context)
        except variables.TemplateError as error:
            where = f"{name}:{error.line}" if error.line else name
            raise PlaybookError([Problem(self._place(name), f"{where}: {error.message}", error.hint)]) from error

    def _place(self, name: str) -> Place:
        named = (s.place for s in yaml_source.scalars(self.options) if s.value == name)
        return next(named, self.options.place)


def nearest_file(
    name: str, directory: Path, otherwise: str | None = "it is looked for beside the playbook"
) -> str | None:
    """A hint for a file that cannot be read, of a name that is relative to the directory."""
    path = directory / name
    try:
        if path.is_dir():
            return "name a file in it"
        beside = [str(PurePath(name).with_name(each.name)) for each in path.parent.iterdir()]
    except (OSError, ValueError):  # also a name that holds a null byte
        beside = []
    near = did_you_mean(name, [each for each in beside if each != name])
    return near or (None if PurePath(name).is_absolute() else otherwise)
