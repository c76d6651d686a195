"""YAML for people: what is written is read back, rendered, as the very same; and a person would have written it so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from banger.core import variables, yaml_source, yaml_text
from banger.errors import Problem


def read(text: str) -> Any:
    """As a playbook is: read, then rendered without any variable."""
    node, problems = yaml_source.load(text, "p.yml")
    assert (problems, node is None) == ([], False), text
    told: list[Problem] = []
    assert node
    rendered = yaml_source.plain(variables.render(node, {}, told))
    assert told == [], text
    return rendered


PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{% raw %}",
    "{% endraw %}",
    "{%- endraw -%}",
    "-",
    "#",
    ": ",
    " #",
    "'",
    '"',
]
PIECES += [
    "\n",
    "\n\n",
    " ",
    "  ",
    "\t",
    "\r\n",
    "\r",
    "\\",
    "\x85",
    "\u2028",
    "\ufeff",
    "\x00",
    "\x7f",
    "é",
    "😀",
    "|",
    ">",
]
PIECES += [
    "a",
    "b",
    "no",
    "null",
    "~",
    "0644",
    "1.5",
    "1.0e5",
    "---",
    "...",
    "? ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a",
    "*a",
    "!x",
    "<<",
    "=",
]
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
VALUES = st.recursive(
    st.one_of(TEXT, st.none(), st.booleans(), st.integers(-(10**6), 10**6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXT.filter(lambda key: key != "<<"), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(st.lists(VALUES, min_size=1, max_size=3))
@example(["\n", "\n\n", "", " ", "a\n \n", "\ta\n\tb\n", " a\nb", "a\n\n\n", "\n a\nb\n", "a \nb\t\n"])
def test_written_values_are_read_back(values: list[Any]) -> None:
    assert read(yaml_text.sequence(values)) == values


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(TEXT)
@example("a {{ b }} {% endraw %}\r\n")
def test_text_is_taken_literally_by_templates(text: str) -> None:
    assert variables.render_text(yaml_text.literally(text), "text", {}) == text
    assert read(yaml_text.mapping({"content": text})) == {"content": text}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"content": "one\ntwo\n"}, "content: |\n  one\n  two\n"),
        ({"content": "one\n\n\ttwo"}, "content: |-\n  one\n\n  \ttwo\n"),
        ({"content": "a\nb\n\n"}, "content: |+\n  a\n  b\n\n"),
        ({"content": " a\nb\n"}, "content: |2\n   a\n  b\n"),
        ({"content": "one\n"}, 'content: "one\\n"\n'),
        ({"content": "{{ a }}\nb\n"}, "content: |-\n  {% raw %}{{ a }}\n  b\n  {% endraw %}\n"),
        ({"mode": "0644", "mac": "52:54:00:12:34:56"}, "mode: 0644\nmac: 52:54:00:12:34:56\n"),
        ({"n": "1", "none": "null"}, 'n: "1"\nnone: "null"\n'),
        ({"when": "vm.name == 'web-1'"}, "when: vm.name == 'web-1'\n"),
        ({"tags": ["a", "b"], "none": []}, "tags: [a, b]\nnone: []\n"),
        ({"vms": [{"name": "web", "tags": ["a"]}]}, "vms:\n  - {name: web, tags: [a]}\n"),
        ({"file": {"dest": "/a", "content": "b\nc\n"}}, "file:\n  dest: /a\n  content: |\n    b\n    c\n"),
        ([{"file": {"dest": "/a"}, "when": "b"}], "- file: {dest: /a}\n  when: b\n"),
    ],
)  # fmt: skip
def test_value_looks_as_a_person_would_write_it(value: Any, text: str) -> None:
    assert (yaml_text.sequence(value) if isinstance(value, list) else yaml_text.mapping(value)) == text


def test_value_that_is_too_long_for_a_line_stands_on_several() -> None:
    keys = {"name": "web", **{f"key{number}": "x" * 20 for number in range(5)}}
    assert yaml_text.sequence([keys]).splitlines() == ["- name: web", *(f"  key{n}: {'x' * 20}" for n in range(5))]
