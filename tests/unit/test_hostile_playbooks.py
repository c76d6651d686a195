"""A playbook that means harm: it reads nothing, runs nothing, fills nothing, whatever its templates and names are."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.core import yaml_source
from banger.core.play import NAME
from banger.core.variables import TemplateError, evaluate, render_text
from banger.core.yaml_source import Scalar
from banger.guestconfig import GuestConfig, parse_public_key
from tests.tally import tally

ROW = "hostile names and paths"
BOUND_S = 30.0
ROOM_BYTES = 2 * 2**30

ESCAPES = (
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ ''|attr(['__cla', 'ss__']|join) }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ ['']|groupby('__class__') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__self__ }}",
    "{{ dict.__base__ }}",
    "{{ x.append(1) }}",
    "{{ x.clear() }}",
    "{{ x.__add__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "{{ ('%s'|format).__self__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
    "{% set f = ''.join.__self__ %}{{ f }}",
    "{{ (x|first).__class__ }}",
    "{{ open('/etc/passwd') }}",
    "{{ __import__('os') }}",
    "{% for a in x.__class__.__mro__ %}{{ a }}{% endfor %}",
)
BOMBS = (
    "{{ range(10**12)|list }}",
    "{{ range(999999999) }}",
    "{{ 'a' * 10**9 * 10**3 }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [0] * 10**9 }}",
    "{{ (1, 2) * 10**9 }}",
    "{{ 10 ** (10 ** 9) }}",
    "{{ 9 ** (9 ** (9 ** 9)) }}",
    "{{ '%999999999999d' % 1 }}",
    "{{ '%-99999999999s' % 'a' }}",
    "{% set a = 'aaaaaaaaaa' * 1000000 %}{{ a * 1000 }}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_template_that_would_escape_is_refused_or_says_nothing(template: str) -> None:
    try:
        told = render_text(template, "t", {"x": [1]})
    except TemplateError as error:
        told = error.message
    for secret in ("root:", "<class", "<module", "<function", "uid=", "built-in"):
        assert secret not in told
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.parametrize(
    "expression", ["''.__class__", "cycler.__init__.__globals__", "x.append(1)", "[]|attr('__doc__')"]
)
def test_condition_that_would_escape_is_refused(expression: str) -> None:
    with pytest.raises(TemplateError):
        assert not evaluate(expression, {"x": [1]})
        raise TemplateError("it is nothing")
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.parametrize("template", BOMBS)
def test_template_that_would_take_all_memory_or_time_is_refused(bounded: None, template: str) -> None:
    with pytest.raises(TemplateError):
        render_text(template, "t", {})
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.parametrize(
    ("template", "told"),
    [("{{ '-' * 40 }}", "-" * 40), ("{{ 2 ** 40 }}", str(2**40)), ("{{ '%05d' % 7 }}", "00007"), ("{{ 6 * 7 % 4 }}",
    "2"),
     ("{{ 1.5 * 2 }}", "3.0"), ("{{ 2 ** -1 }}", "0.5"), ("{{ 'a' * -1 }}", "")],
)  # fmt: skip
def test_template_that_takes_little_is_rendered(template: str, told: str) -> None:
    assert render_text(template, "t", {}) == told


# --- YAML


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch FILE']",
        "!!python/object/new:os.system ['touch FILE']",
        "!!python/object/apply:subprocess.check_output [['touch', 'FILE']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:banger.errors.Place {}",
        "!!python/tuple [1]",
        "!!map [1]",
        "!!set {a, b}",
        "!!binary aGk=",
        "!!timestamp 2001-01-01",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch FILE']",
        "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\n!os.system ['touch FILE']",
    ],
)
def test_yaml_that_would_make_objects_makes_none(text: str, tmp_path: Path) -> None:
    node, problems = yaml_source.load(text.replace("FILE", str(tmp_path / "made")), "playbook.yml")
    assert problems or isinstance(yaml_source.plain(node), str | list | dict)
    assert list(tmp_path.iterdir()) == []
    tally(ROW, tried=1, residue=0, lost=0)


def laughs(levels: int, width: int, form: str) -> str:
    lines = ["a0: &a0 [lol]"]
    for level in range(1, levels):
        of = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"[{of}]" if form == "list" else f"{{k: [{of}]}}"))
    return "\n".join(lines)


@pytest.fixture
def bounded() -> Iterator[None]:
    """No more memory than this for the test (setrlimit(2)); and it must end soon."""
    before, begun = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (ROOM_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - begun < BOUND_S


@pytest.mark.parametrize("form", ["list", "mapping"])
@pytest.mark.parametrize(("levels", "width"), [(9, 9), (20, 10), (60, 2), (99, 9)])
def test_yaml_that_stands_for_billions_is_refused_soon(bounded: None, form: str, levels: int, width: int) -> None:
    _, problems = yaml_source.load(laughs(levels, width, form), "playbook.yml")
    assert problems
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.parametrize("text", ["[" * 50_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000, "&a *a", "a: &a [*a]"])
def test_yaml_that_is_nested_without_end_is_refused_soon(bounded: None, text: str) -> None:
    _, problems = yaml_source.load(text, "playbook.yml")
    assert problems
    tally(ROW, tried=1, residue=0, lost=0)


def test_yaml_number_of_many_digits_is_text(bounded: None) -> None:
    node, _ = yaml_source.load("9" * 100_000, "playbook.yml")
    assert isinstance(node, Scalar) and isinstance(node.value, str)


# --- names


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/a", "a\n", "\n", "a b", "a\0", "-a", "a-", "--help", "$(id)", "`id`", "a;b",
        "a'b",
        'a"b', "A", "a" * 64, "é", "\udcff", "a.b", "a_b", "~", "*", "a\u0660", "x,y", "%h",
    ],
)  # fmt: skip
def test_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    assert not NAME.fullmatch(name)
    tally(ROW, tried=1, residue=0, lost=0)


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvLzVgkX1r0g7s0fX7o0m3m3m3m3m3m3m3m3m3m3m3m"


@pytest.mark.parametrize(
    "comment",
    ["\nssh-rsa AAAA other", "\r\nroot", "a\0b", "a\x0bb", "a\x85b", "a\u2028b", "\x1b[2J", "a\nPermitRootLogin yes"],
)
def test_key_whose_comment_would_be_another_line_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse_public_key(f"{KEY} user{comment}")
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.parametrize(
    "comment", ["$(id)", "`id`@host", "'; rm x", '"', "user with blanks", "-oProxyCommand=x", "日本@host"]
)
def test_key_whose_comment_is_strange_is_one_line_as_it_is(comment: str) -> None:
    assert parse_public_key(f"{KEY} {comment}") == f"{KEY} {comment}"
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.parametrize("path", ["../x", "/../x", "/a/../../x", "x", "/a\nb", "/a\0b", "/" + "a" * 256, "/a/" * 300])
def test_mount_target_that_is_no_path_in_the_guest_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        GuestConfig().drop_mount(path)
    tally(ROW, tried=1, residue=0, lost=0)
