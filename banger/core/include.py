"""A playbook and the playbooks it includes: which file is read when, with what variables, and why one cannot be.

    - include: web.yml
      vars: {team: web}

What an include sets wins over all that the included playbook sets itself, and whoever includes it wins over that; the
command line wins over all. Files are named relative to the playbook that names them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from banger.core import variables, yaml_source
from banger.core.request import KEPT_PLAN, PLAY_KEYS
from banger.core.scope import Scope, ScopeBuilder
from banger.core.suggest import did_you_mean
from banger.core.tasks import nearest_file
from banger.core.variables import Unrendered
from banger.core.yaml_source import Node, Scalar
from banger.errors import Place, PlaybookError, Problem

STDIN = Path("-")
"""Where a playbook is read that has no file; what it names is then relative to the working directory."""
KEYS = ("name", "include", "vars")
MAXIMUM_DEPTH = 20
MAXIMUM_FILES = 1000
"""Read for one playbook, each time it is included; a few files that include each other twice can stand for millions."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A file that is being read, with the variables that win over its own; `at` is where `by` includes it."""

    path: Path
    scope: Scope = field(default_factory=Scope)
    by: Reading | None = None
    at: Place | None = None

    @property
    def lineage(self) -> tuple[Reading, ...]:
        """This one, the one that includes it, and so on up to the first."""
        return (self, *self.by.lineage) if self.by else (self,)

    @property
    def trail(self) -> tuple[Place, ...]:
        """Where each is included on the way here, from the first."""
        return tuple(each.at for each in reversed(self.lineage) if each.at)


def twice(first: Reading, second: Reading) -> tuple[Place, Place] | None:
    """Where the ways of two readings of one file part; None when they are one."""
    return next(((a, b) for a, b in zip(first.trail, second.trail, strict=False) if a != b), None)


class Files:
    """Reads a playbook and what it includes; what is wrong is added to `problems`."""

    def __init__(self, extra: Scope, problems: list[Problem], read_play: Callable[[Node, Reading], None]) -> None:
        """`extra`: the variables of the command line. `read_play` is given each play, in order."""
        self._extra = extra
        self._problems = problems
        self._read_play = read_play
        self._count = 0
        self.whole = True
        """Whether every file was read."""

    def read(self, path: Path) -> None:
        """Raises PlaybookError when the file itself cannot be read."""
        try:
            text = _decoded(sys.stdin.buffer.read(), path) if path == STDIN else text_of(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "that is no file name"
            near = nearest_file(str(path), Path(), otherwise=None) or ""
            hint = None if near.startswith("known") else near  # of what else lies there nothing may be a playbook
            raise PlaybookError([Problem(None, f"cannot read the playbook {path}: {reason}", hint or None)]) from error
        self.read_text(text, Reading(path, self._extra))

    def read_text(self, text: str, reading: Reading) -> None:
        """The plays of a playbook with this text."""
        root, problems = yaml_source.load(text, str(reading.path))
        self._problems += problems
        if root is None and problems:
            self.whole = False
        elif root is None or (isinstance(root, Scalar) and root.value is None):
            where = root.place if root else Place(str(reading.path), 1, 1)
            self._problem(where, "the playbook is empty", "begin with a play: - name: …")
        elif isinstance(root, yaml_source.Mapping) and KEPT_PLAN in root.entries:
            self._problem(root.place, "this is a plan that was kept, not a playbook", f"banger apply {reading.path}")
        elif not isinstance(root, yaml_source.Sequence):
            self._problem(root.place, "a playbook is a list of plays", "begin each play with '- '")
        else:
            for item in root.items:
                if isinstance(item, yaml_source.Mapping) and "include" in item.entries:
                    self._include(item, reading)
                else:
                    self._read_play(item, reading)

    def _include(self, item: yaml_source.Mapping, reading: Reading) -> None:
        for key, entry in item.entries.items():
            if key not in KEYS:
                self.whole &= key not in PLAY_KEYS
                hint = "begin a play of its own for it, with '- '" if key in PLAY_KEYS else did_you_mean(key, KEYS)
                self._problem(entry.key_place, f"unknown key '{key}' in an include", hint)
        name = item.get("name")
        if name is not None and not (isinstance(name, Scalar) and isinstance(name.value, str)):
            self._problem(name.place, "the name of an include is text", "write it in quotes")
        builder = ScopeBuilder(reading.scope, self._problems)
        builder.add(item.get("vars"), "vars of the include")
        found = self._file(item.entries["include"].node, reading)
        if found is None:
            self.whole = False
            return
        text, path, place = found
        self.read_text(text, Reading(path, builder.scope(), reading, place))

    def _file(self, node: Node, reading: Reading) -> tuple[str, Path, Place] | None:
        """The text and path of what an include names, and where it does."""
        name = self._name(node)
        if name is None:
            return None
        place, directory = node.place, reading.path.parent
        path = directory / name
        try:
            text = text_of(path)
        except PlaybookError as error:
            self._problems += error.problems
            return None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "that is no file name"
            self._problem(place, f"cannot read '{name}': {reason}", nearest_file(name, directory))
            return None
        files = [each for each in reading.lineage if each.path != STDIN]
        if again := next((each for each in files if each.path.samefile(path)), None):
            between = [str(each.path) for each in reversed(reading.lineage[: reading.lineage.index(again)])]
            way = f", by way of {' and '.join(between)}" if between else ""
            hint = "leave this include out, or move what both need into a third playbook"
            self._problem(place, f"{again.path} includes itself{way}", hint)
            return None
        self._count += 1
        if len(reading.lineage) >= MAXIMUM_DEPTH:
            self._problem(place, f"includes more than {MAXIMUM_DEPTH} deep", "include it from further up")
            return None
        if self._count > MAXIMUM_FILES:
            if self._count == MAXIMUM_FILES + 1:
                self._problem(place, f"more than {MAXIMUM_FILES} includes in all", "a loop in a VM makes many of it")
            return None
        return text, path, place

    def _name(self, node: Node) -> str | None:
        told = len(self._problems)
        rendered = variables.render(node, self._extra.values, self._problems)
        for index, problem in enumerate(self._problems[told:], told):
            hint = problem.hint or "only variables given with -e are known here"
            self._problems[index] = Problem(problem.place, problem.message, hint)
        if not isinstance(rendered, Scalar) or not isinstance(rendered.value, str) or not rendered.value:
            self._problem(node.place, "'include' is the name of a playbook's file", "- include: web.yml")
            return None
        return None if isinstance(rendered.value, Unrendered) else rendered.value

    def _problem(self, place: Place, message: str, hint: str | None) -> None:
        self._problems.append(Problem(place, message, hint))


def text_of(path: Path) -> str:
    """A playbook's text. Raises OSError, and PlaybookError when it is no text."""
    return _decoded(path.read_bytes(), path)


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        place = Place(str(path), error.object[: error.start].count(b"\n") + 1, 1)
        raise PlaybookError([Problem(place, "not UTF-8 text", "save the file as UTF-8")]) from error
