"""The docs say what the program does: every hook with its signature, every command, every module."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from banger import hooks
from banger.cli import COMMANDS
from banger.core.plugins import Plugins

DOCS = Path(__file__).parents[2] / "docs"
HOOKS = {name: hook for name, hook in vars(hooks).items() if hasattr(hook, "banger_spec")}


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_documented_with_its_signature(name: str) -> None:
    signature = str(inspect.signature(HOOKS[name])).replace("'", "")
    text = (DOCS / "plugins.md").read_text()
    assert f"## {name}\n" in text
    assert f"{name}{signature}\n" in text
    assert (inspect.getdoc(HOOKS[name]) or "missing") in text


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_built_in_that_uses_it(name: str) -> None:
    infos = Plugins.load(third_party=False).infos()
    assert any(name in info.hooks for info in infos)


def test_every_command_is_documented() -> None:
    text = (DOCS / "commands.md").read_text()
    assert all(f"`banger {name}" in text for name in COMMANDS)


def test_every_guest_module_is_documented() -> None:
    text = (DOCS / "playbook.md").read_text()
    modules = Plugins.load(third_party=False).guest_modules()
    assert all(f"| `{name}` |" in text for name in modules)


def test_every_room_of_the_core_is_on_the_map() -> None:
    text = (DOCS.parent / "ARCHITECTURE.md").read_text()
    rooms = [path.stem for path in (DOCS.parent / "banger" / "core").glob("*.py") if path.stem != "__init__"]
    assert [room for room in rooms if f"`{room}`" not in text] == []
