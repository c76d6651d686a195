"""Playbooks that include playbooks: what comes of them. Their mistakes are in `mistakes/include-*.yml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.core.include import MAXIMUM_DEPTH, MAXIMUM_FILES
from banger.core.playbook import Playbook
from banger.core.plugins import Plugins
from banger.core.validate import validate
from banger.errors import PlaybookError

IMAGE = "- images: [{name: debian, source: debootstrap}]\n"
WEB = """
- vars: {team: nobody, of_file: own, both: own}
  vars_files: [values.yml]
  defaults: {image: debian}
  vms:
    - {name: "{{ team }}-{{ item }}", loop: [1, 2], tags: ["{{ of_file }}", "{{ both }}"]}
  tasks:
    - template: {src: motd.j2, dest: /etc/motd}
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two playbooks' worth of files below `web/`, and nothing beside it."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "web.yml").write_text(WEB)
    (tmp_path / "web" / "values.yml").write_text("{of_file: values, both: values}")
    (tmp_path / "web" / "motd.j2").write_text("{{ team }}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, **extra: object) -> Playbook:
    Path("site.yml").write_text(text)
    return validate(Path("site.yml"), Plugins.load(third_party=False).declared(), extra)


def refused(text: str, **extra: object) -> list[str]:
    with pytest.raises(PlaybookError) as caught:
        read(text, **extra)
    return [str(problem) for problem in caught.value.problems]


def test_included_files_name_theirs_beside_themselves(directory: Path) -> None:
    playbook = read(f"{IMAGE}- include: web/web.yml\n")
    assert [vm.name for vm in playbook.vms] == ["nobody-1", "nobody-2"]
    assert [image.spec.name for image in playbook.images] == ["debian"]
    assert str(playbook.vms[0].tasks[0].place) == "web/web.yml:8:7"


def test_variables_of_an_include_win_over_the_included_and_those_of_the_command_line_over_all(directory: Path) -> None:
    text = f"{IMAGE}- include: web/web.yml\n  vars: {{team: front, both: '{{{{ team }}}}x'}}\n"
    front = read(text).vms[0]
    assert (front.name, front.tags) == ("front-1", ("values", "frontx"))
    mine = read(text, team="mine").vms[0]
    assert (mine.name, mine.tags) == ("mine-1", ("values", "minex"))


def test_who_includes_wins_over_who_is_included(directory: Path) -> None:
    Path("web/middle.yml").write_text("- include: web.yml\n  vars: {team: middle, both: middle}\n")
    (web, _) = read(f"{IMAGE}- include: web/middle.yml\n  vars: {{team: outer}}\n").vms
    assert (web.name, web.tags) == ("outer-1", ("values", "middle"))


def test_same_playbook_is_included_twice_with_other_variables(directory: Path) -> None:
    text = "".join(f"- include: web/web.yml\n  vars: {{team: {team}}}\n" for team in ("front", "back"))
    assert [vm.name for vm in read(IMAGE + text).vms] == ["front-1", "front-2", "back-1", "back-2"]


def test_variables_of_an_include_are_not_known_outside_it(directory: Path) -> None:
    text = f"{IMAGE}- include: web/web.yml\n  vars: {{mine: x}}\n- vms: [{{name: '{{{{ mine }}}}', image: debian}}]\n"
    assert refused(text) == ["site.yml:4:16: 'mine' is undefined, in '{{ mine }}'"]


def test_name_of_the_file_may_be_a_variable_of_the_command_line(directory: Path) -> None:
    text = IMAGE + '- include: "{{ which }}/web.yml"\n'
    assert len(read(text, which="web").vms) == 2
    (problem,) = refused(text, which="wbe")
    assert problem.startswith("site.yml:2:12: cannot read 'wbe/web.yml'")


def test_chain_of_includes_ends_somewhere(directory: Path) -> None:
    for number in range(MAXIMUM_DEPTH + 5):
        Path(f"{number}.yml").write_text(f"- include: {number + 1}.yml\n")
    (problem,) = refused("- include: 0.yml\n")
    assert problem == (
        f"{MAXIMUM_DEPTH - 2}.yml:1:12: includes more than {MAXIMUM_DEPTH} deep (include it from further up)"
    )


def test_includes_that_multiply_end_somewhere(directory: Path) -> None:
    for number in range(MAXIMUM_DEPTH - 2):
        Path(f"{number}.yml").write_text(f"- include: {number + 1}.yml\n" * 3)
    Path(f"{MAXIMUM_DEPTH - 2}.yml").write_text("- name: the last\n")
    (problem,) = refused("- include: 0.yml\n")
    assert f"more than {MAXIMUM_FILES} includes in all" in problem


def test_cycle_is_seen_under_another_name(directory: Path) -> None:
    Path("alias.yml").symlink_to("site.yml")
    assert refused("- include: alias.yml\n") == [
        "site.yml:1:12: site.yml includes itself (leave this include out, or move what both need into a third playbook)"
    ]
