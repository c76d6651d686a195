"""What pydantic-core is told of a dataclass finds the same mistakes as what pydantic would tell it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, TypeAdapter
from pydantic_core import ValidationError

from banger.core.checker import checker_of
from banger.types import Size


@dataclass(frozen=True, slots=True)
class Inner:
    size: Size
    name: str = "inner"


@dataclass(frozen=True)
class Outer:
    text: str
    word: Literal["a", "b"] = "a"
    number: int | None = None
    either: int | bool | None = None
    ratio: float = 1.0
    flag: bool = False
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()
    words: list[str] = field(default_factory=lambda: ["x"])
    table: dict[str, int] = field(default_factory=dict)
    anything: Any = None
    path: Annotated[str, "a path"] = "/"

    def __post_init__(self) -> None:
        if self.text == "never":
            raise ValueError("not a text")


DOCUMENTS: list[dict[str, Any]] = [
    {"text": "t"},
    {"text": "t", "word": "b", "number": 3, "either": True, "ratio": 2, "flag": True, "path": "/a", "anything": [1]},
    {"text": "t", "inner": {"size": "1MiB"}, "several": [{"size": 3, "name": "n"}], "words": ["y"], "table": {"k": 1}},
    {},
    {"text": 1, "word": "c", "number": "3", "either": "no", "ratio": "2", "flag": "yes", "path": 3},
    {"text": "t", "inner": {"size": "one"}, "several": [{"name": 1}, 3], "words": "y", "table": {"k": "v"}},
    {"text": "t", "text2": "u", "inner": {"size": 1, "colour": "red"}},
    {"text": "never"},
    {"text": None, "flag": None, "several": None, "inner": []},
]


def _said(check: Any, document: dict[str, Any]) -> object:
    try:
        return check(json.dumps([document]))
    except ValidationError as error:
        return [(each["type"], each["loc"], each["msg"]) for each in error.errors(include_url=False)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_same_is_found_as_pydantic_finds(document: dict[str, Any]) -> None:
    strict = TypeAdapter(list[Outer], config=ConfigDict(strict=True, extra="forbid"))
    assert _said(checker_of(Outer), document) == _said(strict.validate_json, document)


def test_types_that_only_pydantic_knows_are_checked_too() -> None:
    @dataclass(frozen=True)
    class Rich:
        names: frozenset[str]

    assert _said(checker_of(Rich), {"names": ["a"]}) == [Rich(frozenset({"a"}))]
    with pytest.raises(ValidationError, match="Input should be a valid array"):
        checker_of(Rich)('[{"names": 3}]')


def test_a_playbook_is_checked_without_what_only_builders_and_schemas_need(tmp_path: Any) -> None:
    path = tmp_path / "playbook.yml"
    (tmp_path / "tiny.ext4").touch()
    path.write_text("- images: [{name: tiny, source: import, path: tiny.ext4}]\n  vms: [{name: web, image: tiny}]\n")
    heavy = ("pydantic", "tarfile", "banger.linux.image", "banger.linux.host")
    script = (
        "import sys; from banger.cli import cli\n"
        f"cli.main(['validate', {str(path)!r}], standalone_mode=False)\n"
        f"print('LOADED', [n for n in {heavy!r} if n in sys.modules])"
    )
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, env={"BANGER_HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
