"""Reading YAML: places, the traps of YAML 1.1, and texts that want to harm."""

from __future__ import annotations

from typing import Any

import pytest

from banger.core.yaml_source import Mapping, Node, Scalar, Sequence, load, plain
from banger.errors import Place, Problem


def read(text: str) -> Any:
    node, problems = load(text, "p.yml")
    assert problems == []
    return plain(node)


def problems_of(text: str) -> list[Problem]:
    return load(text, "p.yml")[1]


def at(line: int, column: int) -> Place:
    return Place("p.yml", line, column)


def test_yaml_every_value_and_key_has_its_place() -> None:
    node, problems = load("- name: web\n  tags: [a,  'b']\n- {é: 1, memory: 2MiB}\n", "p.yml")
    assert problems == []
    assert isinstance(node, Sequence) and node.place == at(1, 1)
    first, second = node.items
    assert isinstance(first, Mapping) and first.place == at(1, 3)
    assert first.entries["name"].key_place == at(1, 3)
    assert first.entries["name"].node == Scalar("web", at(1, 9), "web")
    tags = first.get("tags")
    assert isinstance(tags, Sequence) and [item.place for item in tags.items] == [at(2, 10), at(2, 14)]
    assert isinstance(second, Mapping) and second.place == at(3, 3)
    assert second.entries["memory"].key_place == at(3, 10)
    assert second.entries["memory"].node.place == at(3, 18)


@pytest.mark.parametrize(
    "text",
    [
        *("52:54:00:12:34:56", "0644", "22:22", "on", "off", "yes", "no", "1_000", "0x1F", "0o17", "1e3", ".inf"),
        *(".nan", "2001-01-01", "Null", "True", "+", ".", "1.", "=", "1.2.3", "9" * 5000),
    ],
)
def test_yaml_what_looks_like_text_stays_text(text: str) -> None:
    assert read(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("~", None), ("null", None), ("", None), ("true", True), ("false", False), ("0", 0), ("-12", -12)),
        *(("+3", 3), ("1.5", 1.5), ("-0.25", -0.25), ("1.5e3", 1500.0), ("'12'", "12"), ('"true"', "true")),
        ("''", ""),
    ],
)
def test_yaml_what_is_a_value_becomes_one(text: str, value: object) -> None:
    found = read(f"a: {text}")["a"]
    assert found == value and type(found) is type(value)


def test_yaml_keys_that_yaml_1_1_takes_for_booleans_stay_text() -> None:
    assert read("on: 1\nno: 2") == {"on": 1, "no": 2}


def test_yaml_anchors_aliases_and_merge_keys_work() -> None:
    text = "base: &b {a: 1, b: 2}\nmore: &m {b: 3, c: 4}\nown: {<<: [*b, *m], a: 9}\nsame: *b\n"
    assert read(text)["own"] == {"a": 9, "b": 2, "c": 4}
    assert read(text)["same"] == {"a": 1, "b": 2}


def test_yaml_merge_of_something_else_is_a_problem() -> None:
    assert [str(p) for p in problems_of("a: {<<: 5}")] == [
        "p.yml:1:9: '<<' merges mappings only (write an alias: <<: *name)"
    ]


def test_yaml_duplicate_keys_are_all_told() -> None:
    problems = problems_of("a: 1\nb: 2\na: 3\nc: {d: 1, d: 2}\n")
    assert [problem.place for problem in problems] == [at(3, 1), at(4, 11)]
    assert "the first is at p.yml:1:1" in problems[0].message


def test_yaml_key_that_is_not_text_is_a_problem_that_says_to_quote_it() -> None:
    assert [str(p) for p in problems_of("80: http\ntrue: 1\n")] == [
        'p.yml:1:1: a key must be text (write it in quotes: "80")',
        'p.yml:2:1: a key must be text (write it in quotes: "true")',
    ]


@pytest.mark.parametrize(("text", "place"), [("a: {{ item }}", at(1, 5)), ("a: 1\nb: {{ item }}-x\n", at(2, 14))])
def test_yaml_unquoted_template_is_a_problem_that_says_to_quote_it(text: str, place: Place) -> None:
    (problem,) = problems_of(text)
    assert problem.place == place and "quote a value that begins with a template" in str(problem.hint)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a:\n\tb: 1", 2, 1, "never with tabs"),
        ("a: b: c", 1, 5, "needs quotes"),
        ("a: [1, 2\nb: 3\n", 2, 2, "that begins at line 1"),
        ("a: *nope", 1, 4, "undefined alias"),
        ("a: 1\n---\nb: 1", 2, 1, "document"),
        ("ok: 1\na: x\x07y", 2, 5, "U+0007"),
    ],
)
def test_yaml_syntax_error_has_place_and_cure(text: str, line: int, column: int, words: str) -> None:
    node, problems = load(text, "p.yml")
    assert node is None and len(problems) == 1
    assert problems[0].place == at(line, column) and words in str(problems[0])


@pytest.mark.parametrize("text", ["a: !vault x", "a: !!int x", "a: !!binary aGk=", "a: !thing {b: 1}"])
def test_yaml_tag_that_means_nothing_here_is_a_problem(text: str) -> None:
    assert len(problems_of(text)) == 1


def test_yaml_tags_that_agree_are_taken() -> None:
    assert read("[!!str 12, !!int 12, !!float 12, !!map {a: 1}]") == ["12", 12, 12.0, {"a": 1}]


def test_yaml_alias_bomb_is_a_problem_and_takes_no_time() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    problems = problems_of("\n".join(lines))
    assert problems and all("aliases make more than" in problem.message for problem in problems)


def test_yaml_alias_inside_itself_is_a_problem() -> None:
    assert ["inside the very value" in problem.message for problem in problems_of("a: &a [*a]")] == [True]


@pytest.mark.parametrize("depth", [150, 5000, 1_000_000])
def test_yaml_nested_too_deep_is_a_problem(depth: int) -> None:
    problems = problems_of("[" * depth + "]" * depth)
    assert any("nested deeper" in problem.message for problem in problems)


def test_yaml_deep_by_aliases_is_a_problem() -> None:
    lines = ["a0: &a0 " + "[" * 60 + "]" * 60, "a1: &a1 " + "[" * 60 + "*a0" + "]" * 60]
    assert "nested deeper" in problems_of("\n".join(lines))[0].message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_yaml_empty_document_is_nothing(text: str) -> None:
    node, problems = load(text, "p.yml")
    assert plain(node) is None and problems == []


def test_yaml_tree_of_an_alias_is_shared() -> None:
    node, _ = load("[&a {x: 1}, *a]", "p.yml")
    assert isinstance(node, Sequence)
    first: Node = node.items[0]
    assert node.items[1] is first
