"""The table in docs/crash-safety.md is one that the tests make: every row that they count, and no other."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.simulated.test_every_effect import CASES
from tests.tally import BEGIN, END, PAGE, Rows, added_up, page_with, read_page, table, tally

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
LAB = TESTS / "lab/inside"


def patterns() -> tuple[set[str], set[str]]:
    """The rows of all calls of `tally` in the tests, `*` for what a row's name has from elsewhere; and the lab's."""
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__) and path.name != "test_replay.py"]
    inside = [path for path in files if LAB in path.parents]
    here, there = ([p for path in each for p in patterns_of(path)] for each in (set(files) - set(inside), inside))
    return set(here), set(there)


def patterns_of(path: Path) -> Iterator[str]:
    text = path.read_text()
    if "tally(" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tally":
            match node.args[0]:
                case ast.Constant(value=str(name)):
                    yield name
                case ast.Name(id=constant):
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    yield getattr(importlib.import_module(module), constant)
                case ast.JoinedStr(values=parts):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)


def test_the_committed_table_has_every_row_that_tests_count() -> None:
    """The lab's may be in it: they come with the next run that has the lab."""
    committed, (counted, of_lab) = read_page(PAGE.read_text()), patterns()
    again = "BANGER_TEST_TALLY=FILE pytest …, then python -m tests.tally FILE --write"
    assert [pattern for pattern in counted if not any(fnmatch(row, pattern) for row in committed)] == [], again
    assert [row for row in committed if not any(fnmatch(row, pattern) for pattern in counted | of_lab)] == [], (
        "none counts it"
    )
    for how in ("killed", "refused"):
        assert {f"{how} at each effect: {case.name}" for case in CASES} <= committed.keys(), again


def test_in_the_committed_table_nothing_is_lost_and_nothing_left() -> None:
    rows = read_page(PAGE.read_text())
    assert {(row["residue"], row["lost"]) for row in rows.values()} == {(0, 0)}
    assert all(row["tried"] > 0 for row in rows.values())
    killed = {name: row for name, row in rows.items() if name.startswith("killed at each effect")}
    assert all(row["tried"] > row["effects"] > 0 for row in killed.values()), "before each, and after the last"


def test_the_page_is_linked() -> None:
    assert all("crash-safety.md" in (ROOT / page).read_text() for page in ("README.md", "docs/commands.md"))


# --- how it is made


def test_counts_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_TEST_TALLY", str(tmp_path / "tally"))
    tally("b", tried=2)
    tally("a", effects=3, tried=4, residue=0, lost=0)
    tally("b", tried=3, residue=0, lost=1)
    rows = added_up((tmp_path / "tally").read_text().splitlines())
    assert rows == {
        "b": {"tried": 5, "residue": 0, "lost": 1},
        "a": {"effects": 3, "tried": 4, "residue": 0, "lost": 0},
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.tally", str(tmp_path / "tally")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[2:] == ["| a | 3 | 4 | 0 | 0 |", "| b |  | 5 | 0 | 1 |"]


def test_a_column_that_the_table_lacks_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="'leaked' is no column"):
        added_up(['{"row": "a", "leaked": 0}'])


def test_rows_not_counted_this_time_stay() -> None:
    old: Rows = {"lab": {"tried": 9, "residue": 0, "lost": 0}, "a": {"tried": 1, "residue": 0, "lost": 0}}
    page = page_with(f"prose\n{BEGIN}\n{table(old)}{END}\nmore\n", {"a": {"effects": 7, "tried": 8}})
    assert read_page(page) == {"a": {"effects": 7, "tried": 8}, "lab": old["lab"]}
    assert page.startswith(f"prose\n{BEGIN}\n|") and page.endswith(f"|\n{END}\nmore\n")
    assert read_page(page_with(f"{BEGIN}\n{END}", old)) == old
    with pytest.raises(ValueError, match="lacks"):
        page_with("prose\n", old)
