"""A playbook with five mistakes, by the command a user types."""

from __future__ import annotations

from pathlib import Path

from tests.functional.machine import Banger

WRONG = """\
- images:
    - {name: debian, source: debootstrap, suit: bookworm}
  vms:
    - {name: web, image: debian, memroy: 1GiB}
    - {name: db, image: debain}
    - {name: cache, image: debian, root_disk: 4 gigs}
  tasks:
    - file: {dest: /etc/motd, content: "{{ nobody }}"}
"""


def test_apply_with_five_mistakes_tells_five_places_and_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(WRONG)
    home = tmp_path / "home"
    done = Banger(home).run("apply", path, check=False)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if ": error: " in line]
    places = [line.partition(": error: ")[0] for line in told]
    assert places == [f"{path}:{at}" for at in ("2:43", "4:34", "5:25", "6:47", "8:40")]
    assert "did you mean 'suite'?" in done.stderr
    assert "5 problems; nothing was changed" in done.stderr
    assert not home.exists()
