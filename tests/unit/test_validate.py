"""A playbook judged without a host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.core.plugins import Plugins
from banger.core.validate import validate
from banger.errors import PlaybookError

PLAYBOOK = """
- images:
    - {name: debian, source: debootstrap, suite: bookworm}
  tasks:
    - file: {dest: /etc/motd, content: "{{ image.name }}"}
- defaults: {image: debian}
  vms:
    - {name: web}
    - {name: db, state: stopped}
  tasks:
    - file: {dest: /etc/name, content: "{{ vm.NAME }}"}
      when: vm.name == 'db'
"""


def written(directory: Path, name: str) -> Path:
    path = directory / "p.yml"
    path.write_text(PLAYBOOK.replace("NAME", name))
    return path


def test_good_playbook_has_what_it_has(tmp_path: Path) -> None:
    found = validate(written(tmp_path, "name"), Plugins.load(third_party=False).declared(), {})
    assert [vm.name for vm in found.vms] == ["web", "db"]


def test_mistake_that_only_one_guest_would_meet_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "nmae")
    with pytest.raises(PlaybookError) as refused:
        validate(path, Plugins.load(third_party=False).declared(), {})
    (problem,) = refused.value.problems
    assert str(problem.place) == f"{path}:11:40"
    assert "nmae" in problem.message


def test_command_says_so_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(cli, ["validate", str(written(tmp_path, "name")), "--format", "json"])
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True)
    path = written(tmp_path, "nmae")
    done = CliRunner().invoke(cli, ["validate", str(path), "--format", "json"])
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == (str(path), 11, 40)
    assert not (tmp_path / "home").exists()
