"""What the tests have tried, counted: the numbers that the documentation tells come from a run, not from memory.

`python -m tests.tally FILE` prints what a run has counted as a Markdown table; `--write` puts it into
docs/crash-safety.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/crash-safety.md"
BEGIN, END = "<!-- tally: begin -->", "<!-- tally: end -->"
COLUMNS = ("effects", "tried", "residue", "lost")

Counts = dict[str, int]
Rows = dict[str, Counts]


def tally(row: str, **counts: int) -> None:
    """Add to one row of the table, as in `tally("bad state files", tried=3, lost=0)`.

    With the environment's BANGER_TEST_TALLY=FILE a JSON line `{"row": …, "tried": 3, "lost": 0}` is appended to that
    file by one write(2), so that processes may share it; whoever reads adds up the lines of a row. Without, nothing.
    """
    if not (file := os.environ.get("BANGER_TEST_TALLY")):
        return
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, json.dumps({"row": row, **counts}).encode() + b"\n")
    finally:
        os.close(descriptor)


def added_up(lines: Iterable[str]) -> Rows:
    """The lines that `tally` appends, one sum a column for each row."""
    rows: Rows = {}
    for line in lines:
        counts: dict[str, int] = json.loads(line)
        row = rows.setdefault(str(counts.pop("row")), {})
        for column, number in counts.items():
            if column not in COLUMNS:
                raise ValueError(f"{column!r} is no column of the table: {', '.join(COLUMNS)}")
            row[column] = row.get(column, 0) + number
    return rows


def table(rows: Mapping[str, Mapping[str, int]]) -> str:
    """In Markdown, sorted by name; a cell is empty where nobody has counted."""
    head = [f"| what is tried | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    cells = ((name, *(row.get(column, "") for column in COLUMNS)) for name, row in sorted(rows.items()))
    return "".join(f"{line}\n" for line in [*head, *(f"| {' | '.join(map(str, each))} |" for each in cells)])


def read_page(text: str) -> Rows:
    """The rows of the table between the page's marks."""
    rows: Rows = {}
    for line in _parted(text)[1].splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = {column: int(cell) for column, cell in zip(COLUMNS, cells, strict=True) if cell}
    return rows


def page_with(text: str, rows: Mapping[str, Counts]) -> str:
    """The page with these rows; one that was not counted this time, as the lab's without the lab, stays as it was."""
    before, _, after = _parted(text)
    return f"{before}{table({**read_page(text), **rows})}{after}"


def _parted(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(f"(.*{BEGIN}\n)(.*)({END}.*)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"the page lacks {BEGIN} and {END}")
    before, inside, after = found.groups()
    return before, inside, after


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tally", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="what BANGER_TEST_TALLY named in that run")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}, in place of its rows of these names")
    given = parser.parse_args()
    rows = added_up(given.file.read_text().splitlines())
    print(table(rows), end="")
    if given.write:
        PAGE.write_text(page_with(PAGE.read_text(), rows))


if __name__ == "__main__":
    main()
