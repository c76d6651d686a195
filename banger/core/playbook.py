"""A playbook, from its file to what should exist: images, networks, VMs and the tasks for their guests.

Knows no host and no plugin manager: what plugins declare is given. All mistakes of a playbook are told at once, each
at its place. Tasks of a play apply to its VMs when it declares any, otherwise to its images (baked in once).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from banger.core import judgement, tasks
from banger.core.include import Files, Reading
from banger.core.play import PlayReader
from banger.core.request import AsWritten, Declared, ImageRequest, VmRequest
from banger.core.scope import Scope
from banger.core.variables import Setting
from banger.errors import Place, PlaybookError, Problem, UsageError
from banger.guestconfig import GuestConfig
from banger.types import Network

__all__ = ["ImageRequest", "Playbook", "VmRequest", "load"]


@dataclass(frozen=True, slots=True)
class Playbook:
    """All that a playbook asks for, with what it includes, in the order it was written.

    `written` is how each image, network and VM stands there, by kind and name; `scopes` the plays' variables.
    """

    path: Path
    images: tuple[ImageRequest, ...]
    networks: tuple[Network, ...]
    vms: tuple[VmRequest, ...]
    written: Mapping[tuple[str, str], AsWritten] = field(default_factory=dict, compare=False, repr=False)
    scopes: tuple[tuple[Place, Scope], ...] = field(default=(), compare=False, repr=False)


def load(
    path: Path,
    declared: Declared,
    extra_vars: Mapping[str, Any] = MappingProxyType({}),
    settings: Mapping[str, tuple[Setting, ...]] = MappingProxyType({}),
) -> Playbook:
    """Read and check a playbook; `extra_vars` win over all others. Raises PlaybookError with every problem found.

    `settings`: where the extra variables stand, for those who ask.
    """
    reader = PlayReader(path, declared)
    files = Files(Scope(extra_vars, settings), reader.problems, reader.read)
    files.read(path)
    if files.whole:
        reader.check_references()
    if reader.problems:
        raise PlaybookError(reader.problems + _what_else_is_wrong(reader, declared))
    return _playbook(path, reader, reader.networks)


def adhoc(name: str, wish: Mapping[str, Any], declared: Declared, networks: Mapping[str, Network]) -> Playbook:
    """A playbook of one VM that was asked for on the command line, checked as one that somebody wrote.

    `wish`: its keys, sizes as text. The image and `networks` are known from elsewhere. Raises UsageError.
    """
    path = Path("command line")
    reader = PlayReader(path, declared)
    text = json.dumps([{"vms": [{"name": name, **wish}]}])
    Files(Scope(), reader.problems, reader.read).read_text(text, Reading(path))
    reader.check_references(images=[str(wish.get("image"))], networks=networks)
    if problems := reader.problems:
        raise UsageError("; ".join(problem.message for problem in problems), hint=problems[0].hint)
    used = {vm.network for vm in reader.vms} - {network.name for network in reader.networks}
    return _playbook(path, reader, [*reader.networks, *(networks[name] for name in used if name in networks)])


def _playbook(path: Path, reader: PlayReader, networks: Sequence[Network]) -> Playbook:
    images, vms = tuple(reader.images), tuple(reader.vms)
    return Playbook(path, images, tuple(networks), vms, reader.written, tuple(reader.scopes))


def _what_else_is_wrong(reader: PlayReader, declared: Declared) -> list[Problem]:
    """Found by letting plugins and each play's tasks loose on guests that stand for real ones, or those not read.

    Only for a playbook that is refused anyway, so that the user hears of all mistakes in one go. What stands where
    something else is wrong may follow from that, and is not told.
    """
    told = {problem.place for problem in reader.problems}
    facts = {"vm": tasks.VmFacts("vm", "10.0.2.15", "0", 1, 0), "image": tasks.ImageFacts("image", "0")}
    read = {*(id(image.tasks) for image in reader.images), *(id(vm.tasks) for vm in reader.vms)}
    problems = [
        problem
        for todo, context in reader.todos
        if id(todo) not in read
        for problem in tasks.contribute(GuestConfig(), todo, facts, context, declared.modules)
    ]
    problems += judgement.problems_of(reader.images, reader.vms, reader.networks, declared)
    return [problem for problem in problems if problem.place not in told]
