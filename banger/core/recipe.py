"""What an image was asked to be, kept beside it: enough to write a playbook that asks for the same image again.

It lies in the image's own directory, and is there as long as the image is: the files in it can be large, and two
playbooks may each have an image of one name, so what the name stands for in `state.json` is not enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from banger.core import saved_guest
from banger.core.shape import shaped
from banger.errors import StateError
from banger.guestconfig import GuestConfig
from banger.host import Host, HostView
from banger.scalars import HostPath
from banger.types import FileMode, ImageSpec, Size

FILE = "recipe.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image without its name. `options`: those of its source as plain data; `guest`: what tasks bake into it."""

    source: str
    options: Mapping[str, Any]
    work_seed_bytes: int | None
    guest: GuestConfig

    @classmethod
    def of(cls, spec: ImageSpec, guest: GuestConfig) -> Recipe:
        base = Path(spec.place.file).absolute().parent if spec.place else Path.cwd()
        return cls(spec.source, plain(spec.options, base), spec.work_seed_bytes, guest)


@dataclass(frozen=True, slots=True)
class _Document:
    """A recipe as it is kept."""

    version: int
    source: str
    options: dict[str, Any]
    work_seed_bytes: int | None
    guest: dict[str, Any]


def save(host: Host, directory: Path, recipe: Recipe) -> None:
    """Keep the recipe of the image in this directory; nothing is written where it is there already."""
    guest = saved_guest.document_of(recipe.guest)
    document = _Document(_VERSION, recipe.source, dict(recipe.options), recipe.work_seed_bytes, guest)
    content = json.dumps(asdict(document), indent=1).encode()
    path = directory / FILE
    if host.files.status(path) is None or host.files.read(path) != content:
        host.files.write(path, content)


def load(host: HostView, directory: Path) -> Recipe | None:
    """The recipe of the image in this directory; None when there is none. Raises StateError for one that is spoilt."""
    path = directory / FILE
    if host.files.status(path) is None:
        return None
    try:
        document = shaped(_Document, json.loads(host.files.read(path)))
        if document.version != _VERSION:
            raise ValueError(f"version {document.version}")
        guest = saved_guest.config_of(document.guest)
        return Recipe(document.source, document.options, document.work_seed_bytes, guest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} is not what banger wrote ({error})", hint="apply the image's playbook") from error


def plain(options: object, base: Path = Path("/")) -> dict[str, Any]:
    """A plugin's options as a playbook has them: sizes with their unit, paths on the host absolute, from `base`."""
    if not is_dataclass(options):
        return {}
    hints = get_type_hints(type(options), include_extras=True)
    named = {each.name: getattr(options, each.name) for each in fields(options) if each.init}
    return {name: plain_value(value, base, is_path=_holds_path(hints[name])) for name, value in named.items()}


def plain_value(value: Any, base: Path = Path("/"), *, is_path: bool = False) -> Any:
    """One value of them."""
    if is_dataclass(value):
        return plain(value, base)
    if isinstance(value, list | tuple):
        return [plain_value(item, base, is_path=is_path) for item in value]
    if isinstance(value, dict):
        return {key: plain_value(item, base, is_path=is_path) for key, item in value.items()}
    if isinstance(value, Size):
        return str(value)
    if isinstance(value, FileMode):
        return f"0{value:03o}"
    return str(base / value) if is_path and isinstance(value, str) else value


def _holds_path(hint: Any) -> bool:
    return hint == HostPath or any(map(_holds_path, get_args(hint)))
