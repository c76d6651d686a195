"""The variables of one play: who gives each of them a value, and which of these wins. Pure but for `vars_files`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from banger.core import variables, yaml_source
from banger.core.tasks import nearest_file
from banger.core.variables import Setting, Unrendered
from banger.core.yaml_source import Node, Scalar
from banger.errors import Place, Problem


@dataclass(frozen=True, slots=True)
class Scope:
    """Variables by name: what each is, and every place where it is given a value, of which the last wins.

    `fixed` are those that were there before all others, whatever these use.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    fixed: Collection[str] = ()

    def setting(self, name: str, seen_by: Setting | None = None) -> Setting | None:
        """The one that counts, or that counted for a template in another; None for what is no variable."""
        found = self.settings.get(name, ())
        if seen_by and name not in self.fixed:
            found = tuple(each for each in found if each.order < seen_by.order)
        return found[-1] if found else None


class ScopeBuilder:
    """Adds variables to those that are `fixed`, which win over all; each may use those before it."""

    def __init__(self, fixed: Scope, problems: list[Problem]) -> None:
        self._fixed = fixed
        self._problems = problems
        self._values = dict(fixed.values)
        self._settings: dict[str, tuple[Setting, ...]] = {}
        self._count = 0

    def add(self, node: Node | None, source: str) -> None:
        """The variables of a mapping; later ones win. `source` is what people call where it stands."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return
        self._problems += variables.mapping_problems(node, node.place)
        if isinstance(node, yaml_source.Mapping):
            for name, entry in node.entries.items():
                value = None
                if name not in self._fixed.values:
                    value = yaml_source.plain(variables.render(entry.node, self._values, self._problems))
                    self._values[name] = value
                self._count += 1
                setting = Setting(source, entry.node, entry.node.place, value, self._count)
                self._settings[name] = (*self._settings.get(name, ()), setting)

    def add_files(self, nodes: tuple[Node, ...], directory: Path) -> None:
        """The variables of files that are named relative to the directory."""
        for node in nodes:
            file = variables.render(node, self._values, self._problems)
            if not isinstance(file, Scalar) or not isinstance(file.value, str):
                self._problems.append(Problem(file.place, "'vars_files' is a list of file names"))
            elif not isinstance(file.value, Unrendered):
                self.add(self._file(file.value, file.place, directory), "vars_files")

    def scope(self) -> Scope:
        """All of them."""
        fixed = self._fixed.settings
        names = {**self._settings, **fixed}
        settings = {name: (*self._settings.get(name, ()), *fixed.get(name, ())) for name in names}
        return Scope(self._values, settings, self._fixed.values.keys())

    def _file(self, name: str, place: Place, directory: Path) -> Node | None:
        path = directory / name
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reasons = {UnicodeDecodeError: "it is not UTF-8 text", ValueError: "that is no file name"}
            reason = error.strerror if isinstance(error, OSError) else reasons[type(error)]
            self._problems.append(Problem(place, f"cannot read '{name}': {reason}", nearest_file(name, directory)))
            return None
        node, problems = yaml_source.load(text, str(path))
        self._problems += problems
        return node
