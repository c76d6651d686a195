"""Wrong playbooks as people write them, each with exactly what `banger validate` says of it.

A case is a playbook in `mistakes/`; what is said stands in its last lines, as a comment, or, where a comment would be
part of the mistake, in a text file beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from banger.cli import fail
from banger.core.plugins import Plugins
from banger.core.request import Declared
from banger.core.validate import validate
from banger.errors import PlaybookError
from banger.types import Size

MISTAKES = Path(__file__).parent / "mistakes"
CASES = sorted(path.stem for path in MISTAKES.glob("*.yml") if path.stem != "no-mistake")
SAYS = "\n# banger validate says:\n"


@pytest.fixture(scope="module")
def declared() -> Declared:
    return Plugins.load(third_party=False).declared()


@pytest.fixture(autouse=True)
def _beside_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MISTAKES)


def expected(case: str) -> str:
    beside = MISTAKES / f"{case}.txt"
    if beside.exists():
        return beside.read_text()
    comment = (MISTAKES / f"{case}.yml").read_text(encoding="utf-8", errors="replace").partition(SAYS)[2]
    return re.sub("(?m)^# ", "", comment)


@pytest.mark.parametrize("case", CASES)
def test_mistake_is_told_in_these_words(case: str, declared: Declared, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PlaybookError) as refused:
        validate(Path(f"{case}.yml"), declared, {})
    with pytest.raises(SystemExit) as ended:
        fail(refused.value)
    assert ended.value.code == 2
    assert capsys.readouterr().err == expected(case)


@pytest.mark.parametrize("case", CASES)
def test_mistake_has_a_place_and_no_word_of_our_own_machinery(case: str) -> None:
    *told, count = expected(case).splitlines()
    problems = [line for line in told if not line.startswith("    ")]
    assert count == f"{len(problems)} problem{'s' if len(problems) != 1 else ''}; nothing was changed"
    assert problems, "a case has a mistake"
    for problem in problems:
        assert re.match(r"[a-z0-9./-]+\.yml:[1-9][0-9]*:[1-9][0-9]*: error: \S", problem), problem
    assert not re.search(r"pydantic|yaml\.|_type\b|<class|Traceback|Unrendered|NoneType", "\n".join(told))


def test_what_yaml_1_1_takes_for_something_else_is_no_mistake(declared: Declared) -> None:
    web, db, no = validate(Path("no-mistake.yml"), declared, {}).vms
    assert web.variables == {
        "on": "no",
        "answer": "yes",
        "forward": "22:22",
        "mode": "0644",
        "mac": "52:54:00:12:34:56",
        "release": "1.10.0",
        "day": "2026-11-23",
        "grouped": "1_000",
        "hexadecimal": "0x1F",
        "empty": None,
        "tilde": None,
        "count": 3,
        "ratio": 0.5,
        "flag": True,
        "quoted": "3",
    }
    assert (web.vcpus, web.memory_bytes, db.memory_bytes) == (3, Size.parse("256MiB"), Size.parse("1GiB"))
    assert (no.name, no.tags) == ("no", ("on", "off"))
