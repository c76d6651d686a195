"""Imports point one way, and start-up imports only what it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

VALUES = {"banger.types", "banger.identity", "banger.scalars", "banger.errors"}
DISKS = {"banger.rootdisk", "banger.diskfile", "banger.imagedirectory"}
DECLARING = (
    VALUES
    | DISKS
    | {"banger.vmmprocess", "banger.hooks", "banger.needs", "banger.guestconfig", "banger.resource", "banger.host"}
)

# What each room may import of ours; the most particular name wins.
MAY_IMPORT: dict[str, set[str]] = {
    "banger.errors": set(),
    "banger.identity": set(),
    "banger.scalars": set(),
    "banger.types": {"banger.errors", "banger.identity", "banger.scalars"},
    "banger.host": VALUES,
    "banger.resource": VALUES | {"banger.host"},
    "banger.guestconfig": VALUES | {"banger.host"},
    "banger.imagedirectory": VALUES | {"banger.host", "banger.resource"},
    "banger.diskfile": VALUES | {"banger.host", "banger.resource"},
    "banger.rootdisk": VALUES | {"banger.host", "banger.resource", "banger.diskfile"},
    "banger.vmmprocess": VALUES | {"banger.host", "banger.resource"},
    "banger.needs": {"banger.host"},
    "banger.hooks": VALUES | {"banger.guestconfig", "banger.host", "banger.needs", "banger.resource"},
    "banger.linux": VALUES | {"banger.linux", "banger.host", "banger.imagedirectory"},
    "banger.simulated": VALUES | {"banger.simulated", "banger.testing", "banger.linux", "banger.host"},
    "banger.testing": VALUES | {"banger.simulated", "banger.linux", "banger.host"},
    "banger.core": DECLARING | {"banger.core"},
    "banger.cli": DECLARING | {"banger.cli", "banger.core", "banger.linux"},
    "banger_": DECLARING | {"banger_", "banger.linux"},
}


def module_name(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = list(relative.parts)
    if parts[0] == "plugins":
        parts = [f"banger_{parts[1]}", *parts[2:]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    fitting = [
        name for name in MAY_IMPORT if module == name or module.startswith(name if name == "banger_" else f"{name}.")
    ]
    return max(fitting, key=len, default="")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module if node.module != "banger" else f"banger.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "banger" or name.startswith("banger_")}


SOURCES = sorted([*(ROOT / "banger").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_module_imports_only_what_its_room_may(path: Path) -> None:
    here = room(module_name(path))
    if not here:
        assert module_name(path) in ("banger", "banger.__main__")
        return
    wrong = {name for name in imported(path) if room(name) not in MAY_IMPORT[here]}
    assert not wrong, f"{here} may not import {sorted(wrong)}"


def test_only_the_linux_room_spawns() -> None:
    for path in SOURCES:
        if room(module_name(path)) != "banger.linux":
            names = {alias.name for node in ast.walk(ast.parse(path.read_text())) for alias in _aliases(node)}
            assert not names & {"subprocess", "pty", "multiprocessing"}, path


def _aliases(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


HEAVY = ("pyroute2", "pydantic", "rich", "jinja2")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["vm", "list"]])
def test_start_up_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['banger', *sys.argv[1:]]\n"
        "from banger.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={"BANGER_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HEAVY []" in done.stderr
