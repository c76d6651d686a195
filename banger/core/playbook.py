"""A playbook, from its file to what should exist: images, networks, VMs and the tasks for their guests.

Knows no host and no plugin manager: what plugins declare is given. All mistakes of a playbook are told at once, each
at its place. Tasks of a play apply to its VMs when it declares any, otherwise to its images (baked in once).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from banger.core import tasks, yaml_source
from banger.core.play import PlayReader
from banger.core.request import Declared, ImageRequest, VmRequest
from banger.errors import Place, PlaybookError, Problem, UsageError
from banger.guestconfig import GuestConfig
from banger.types import GuestModule, Network

__all__ = ["ImageRequest", "Playbook", "VmRequest", "load"]


@dataclass(frozen=True, slots=True)
class Playbook:
    """All that a playbook asks for, in the order it was written."""

    path: Path
    images: tuple[ImageRequest, ...]
    networks: tuple[Network, ...]
    vms: tuple[VmRequest, ...]

    @property
    def directory(self) -> Path:
        """What the files named in it are relative to."""
        return self.path.parent


def load(path: Path, declared: Declared, extra_vars: Mapping[str, Any] = MappingProxyType({})) -> Playbook:
    """Read and check a playbook; `extra_vars` win over all others. Raises PlaybookError with every problem found."""
    reader = PlayReader(path, declared, extra_vars)
    root, problems = yaml_source.load(_read(path), str(path))
    if root is not None or not problems:
        _read_plays(root, reader)
        reader.check_references()
    problems += reader.problems
    if problems:
        problems += _problems_of_tasks(reader, path.parent, declared.modules)
        raise PlaybookError(problems)
    return Playbook(path, tuple(reader.images), tuple(reader.networks), tuple(reader.vms))


def adhoc(name: str, wish: Mapping[str, Any], declared: Declared, networks: Mapping[str, Network]) -> Playbook:
    """A playbook of one VM that was asked for on the command line, checked as one that somebody wrote.

    `wish`: its keys, sizes as text. The image and `networks` are known from elsewhere. Raises UsageError.
    """
    path = Path("command line")
    reader = PlayReader(path, declared, {})
    root, problems = yaml_source.load(json.dumps([{"vms": [{"name": name, **wish}]}]), str(path))
    _read_plays(root, reader)
    reader.check_references(images=[str(wish.get("image"))], networks=networks)
    if problems := problems + reader.problems:
        raise UsageError("; ".join(problem.message for problem in problems), hint=problems[0].hint)
    used = {vm.network for vm in reader.vms} - {network.name for network in reader.networks}
    all_networks = (*reader.networks, *(networks[name] for name in used if name in networks))
    return Playbook(path, (), all_networks, tuple(reader.vms))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        place = Place(str(path), error.object[: error.start].count(b"\n") + 1, 1)
        raise PlaybookError([Problem(place, "not UTF-8 text", "save the file as UTF-8")]) from error
    except OSError as error:
        problem = Problem(None, f"cannot read the playbook {path}: {error.strerror}", "banger apply PLAYBOOK.yml")
        raise PlaybookError([problem]) from error


def _read_plays(root: yaml_source.Node | None, reader: PlayReader) -> None:
    if root is None or (isinstance(root, yaml_source.Scalar) and root.value is None):
        where = root.place if root else Place(str(reader.path), 1, 1)
        reader.problems.append(Problem(where, "the playbook is empty", "begin with a play: - name: …"))
    elif not isinstance(root, yaml_source.Sequence):
        reader.problems.append(Problem(root.place, "a playbook is a list of plays", "begin each play with '- '"))
    else:
        for play in root.items:
            reader.read(play)


def _problems_of_tasks(reader: PlayReader, directory: Path, modules: Mapping[str, GuestModule]) -> list[Problem]:
    """What else is wrong, found by letting each play's tasks loose on a guest that stands for those that were not read.

    Only for a playbook that is refused anyway, so that the user hears of all mistakes in one go.
    """
    facts = {"vm": tasks.VmFacts("vm", "10.0.2.15", "0", 1, 0), "image": tasks.ImageFacts("image", "0")}
    return [
        problem
        for todo, context in reader.todos
        for problem in tasks.contribute(GuestConfig(), todo, facts, context, modules, directory)
    ]
