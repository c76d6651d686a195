"""Templates and variables: values keep their kind, and what is undefined is told with its place and a suggestion."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from banger.core import variables, yaml_source
from banger.core.variables import TemplateError, Unrendered, lines_of, names_in
from banger.errors import Place, Problem, UsageError


@dataclass(frozen=True, slots=True)
class Facts:
    name: str = "web-1"
    vcpus: int = 2


CONTEXT: dict[str, Any] = {"team": "web", "n": 3, "list": [1, 2], "map": {"alpha": 1}, "vm": Facts(), "result": 7}


def rendered(template: str) -> tuple[Any, list[Problem]]:
    problems: list[Problem] = []
    node = yaml_source.Scalar(template, Place("p.yml", 4, 9), template)
    return yaml_source.plain(variables.render(node, CONTEXT, problems)), problems


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ n }}", 3),
        ("{{- n -}}", 3),
        ("{{ -n }}", -3),
        ("{{ list }}", [1, 2]),
        ("{{ map }}", {"alpha": 1}),
        ("{{ n > 2 }}", True),
        ("{{ none }}", None),
        ("{{ range(2) }}", [0, 1]),
        ("{{ list | map('string') }}", ["1", "2"]),
        ("{{ nope | default('x') }}", "x"),
        ("{{ nope is defined }}", False),
        ("{{ result }}", 7),
        ("{{ vm.vcpus }}", 2),
        ("{{ '}}' }}", "}}"),
        ("{{ '{{ n }}' }}", "{{ n }}"),
        ("{{ n }}{{ n }}", "33"),
        ("{{ n }} ", "3 "),
        ("{{ n }}\n", "3\n"),
        ("{{ '1_000' }}", "1_000"),
        ("{% if n %}yes{% endif %}", "yes"),
        ("{# nothing #}", ""),
        ("no template { at } all", "no template { at } all"),
    ],
)
def test_template_gives_the_value_of_its_kind(template: str, value: object) -> None:
    found, problems = rendered(template)
    assert problems == []
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("template", "message", "hint"),
    [
        ("{{ taem }}", "'taem' is undefined, in '{{ taem }}'", "did you mean 'team'?"),
        ("x {{ vm.nmae }}", "'vm' has no 'nmae', in 'x {{ vm.nmae }}'", "did you mean 'name'?"),
        ("{{ map.alhpa }}", "'map' has no 'alhpa', in '{{ map.alhpa }}'", "did you mean 'alpha'?"),
        ("{{ [n, taem] }}", "'taem' is undefined, in '{{ [n, taem] }}'", "did you mean 'team'?"),
        ("{{ taem.x }}", "'taem' is undefined, in '{{ taem.x }}'", "did you mean 'team'?"),
    ],
)
def test_template_with_an_undefined_name_is_a_problem_at_its_place(template: str, message: str, hint: str) -> None:
    value, problems = rendered(template)
    assert problems == [Problem(Place("p.yml", 4, 9), message, hint)]
    assert isinstance(value, Unrendered)


@pytest.mark.parametrize("template", ["{{ n + }}", "{% for %}", "{{ n | nofilter }}", "{{ n", "{{}}"])
def test_template_that_cannot_be_read_is_a_problem(template: str) -> None:
    (problem,) = rendered(template)[1]
    assert problem.place == Place("p.yml", 4, 9) and problem.message.startswith("not a template: ")


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ list.append(1) }}", "{{ 1 / 0 }}", "{{ vm }}"])
def test_template_that_may_not_or_cannot_is_a_problem(template: str) -> None:
    assert len(rendered(template)[1]) == 1
    assert CONTEXT["list"] == [1, 2]


def test_render_tells_every_problem_of_a_tree_and_keeps_places() -> None:
    node, _ = yaml_source.load('- {a: "{{ n }}", b: "{{ x1 }}"}\n- ["{{ x2 }}"]\n- same: 1\n', "p.yml")
    assert node is not None
    problems: list[Problem] = []
    out = variables.render(node, CONTEXT, problems)
    assert [str(problem.place) for problem in problems] == ["p.yml:1:21", "p.yml:2:4"]
    assert isinstance(out, yaml_source.Sequence) and isinstance(node, yaml_source.Sequence)
    assert out.items[2] is node.items[2]
    first = out.items[0]
    assert isinstance(first, yaml_source.Mapping)
    assert first.entries["a"].node == yaml_source.Scalar(3, Place("p.yml", 1, 7), "{{ n }}")


def test_template_file_tells_the_line_of_an_undefined_name() -> None:
    with pytest.raises(TemplateError) as caught:
        variables.render_text("a\n{% if n %}\nb {{ vm.nmae }}\n{% endif %}\n", "templates/motd.j2", CONTEXT)
    assert (caught.value.line, caught.value.hint) == (3, "did you mean 'name'?")


def test_template_file_tells_the_line_of_a_syntax_error() -> None:
    with pytest.raises(TemplateError) as caught:
        variables.render_text("a\nb\n{% endfor %}\n", "templates/motd.j2", CONTEXT)
    assert caught.value.line == 3


def test_template_file_keeps_its_last_newline() -> None:
    assert variables.render_text("{{ n }}\n", "x.j2", CONTEXT) == "3\n"


@pytest.mark.parametrize(("text", "truth"), [("vm.name.startswith(team)", True), ("n == 4", False), ("false", False)])
def test_when_is_the_truth_of_its_expression(text: str, truth: bool) -> None:
    assert variables.evaluate(text, CONTEXT) is truth


@pytest.mark.parametrize("text", ["taem", "{{ n }}", "n ==", "vm.nope == 1", "not taem"])
def test_when_that_cannot_be_told_is_an_error(text: str) -> None:
    with pytest.raises(TemplateError):
        variables.evaluate(text, CONTEXT)


def test_check_syntax_finds_what_could_never_be_rendered_and_nothing_else() -> None:
    node, _ = yaml_source.load('["{{ later }}", "{{ n + }}", "{% if %}"]', "p.yml")
    assert node is not None
    problems: list[Problem] = []
    variables.check_syntax(node, problems)
    assert [str(problem.place) for problem in problems] == ["p.yml:1:17", "p.yml:1:30"]


def test_extra_variables_mean_what_they_would_in_a_playbook(tmp_path: Path) -> None:
    file = tmp_path / "vars.yml"
    file.write_text("a: 5\nmode: 0644\n")
    arguments = [f"@{file}", "a=6", "b=no", "c=[1, x]", "d=", "e=k: v", "f=x=y"]
    expected = {"a": 6, "mode": "0644", "b": "no", "c": [1, "x"], "d": "", "e": "k: v", "f": "x=y"}
    assert variables.parse_extra(arguments) == expected


@pytest.mark.parametrize("argument", ["novalue", "1x=2", "vm=3", "a-b=1", "x=[1", "@/nonexistent/file"])
def test_extra_variable_that_is_none_is_a_usage_error(argument: str) -> None:
    with pytest.raises(UsageError):
        variables.parse_extra([argument])


def test_extra_file_that_is_no_mapping_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "vars.yml"
    file.write_text("- a\n")
    with pytest.raises(UsageError, match="written as a mapping"):
        variables.parse_extra([f"@{file}"])


def test_texts_without_templates_never_import_jinja2() -> None:
    program = (
        "import sys; from banger.core import variables, yaml_source\n"
        "node, _ = yaml_source.load('{a: [x, 1, {b: c}], d: \"{ }\"}', 'p')\n"
        "assert variables.render(node, {}, []) is node; variables.render_text('x', 'y', {})\n"
        "sys.exit('jinja2' in sys.modules or 'pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_names_in_a_template_have_their_lines() -> None:
    text = "{{ a }}\n{% set b = 1 %}{{ b }} {{ vm.name }}\n{% for c in d if a %}{{ c }}{% endfor %}"
    assert names_in(text) == {"a": (1, 3), "vm.name": (2,), "d": (3,)}
    assert names_in("a") == {}
    assert set(names_in("vm.name == a", expression=True)) == {"vm.name", "a"}


def test_lines_of_a_template_have_the_lines_they_come_from() -> None:
    text = "one\n{% for x in many -%}\n  {{ x }}\n{% endfor %}\n{{ block }}\nend"
    rendered = [("one", 1), ("p", 3), ("q", 3), ("", 4), ("1", 5), ("2", 5), ("end", 6)]
    assert lines_of(text, "t", {"many": ["p", "q"], "block": "1\n2"}) == rendered
    for looks_at_itself in ("{{ x | length }}", "{{ 1 // (4 - x | length) }}"):
        assert lines_of(f"{{% set x %}}\n{{% endset %}}{looks_at_itself}", "t", {}) is None
