"""What an export holds, and what it says of what it cannot hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from banger.cli import export as command
from banger.core import recipe
from banger.core.export import Export, export
from banger.core.selection import Selection
from banger.errors import UsageError
from banger.guestconfig import GuestConfig
from banger.scalars import HostPath
from banger.types import ImageSpec, Place, Size
from tests.simulated.world import World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here"


def exported(world: World, *names: str) -> str:
    found = export(world.session(), names)
    assert found.lacking == ()
    return found.text


def changes(world: World, text: str) -> int:
    path = world.directory / "export.yml"
    path.write_text(text)
    outcomes = world.apply(path, restart=True, recreate=True).values()
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return sum(outcome.changed + outcome.pending for outcome in outcomes)


def test_export_reads_as_a_person_would_write_it(world: World) -> None:
    world.apply(world.write("all", "stopped"))
    assert exported(world).partition("\n\n")[2] == (
        "- images:\n"
        "    - {name: tiny, source: tiny, work_seed: 32MiB}\n"
        "  tasks:\n"
        '    - file: {dest: /etc/motd, content: "tiny\\n"}\n'
        "\n"
        "- defaults: {image: tiny, root_disk: 1GiB, network: user, storage: overlay, vmm: qemu}\n"
        "  vms:\n"
        "    - {name: db, state: stopped}\n"
        "    - {name: web, work_disk: 64MiB}\n"
        "  tasks:\n"
        '    - file: {dest: /etc/greeting, content: "hello all from db\\n"}\n'
        "      when: vm.name == 'db'\n"
        '    - file: {dest: /etc/greeting, content: "hello all from web\\n"}\n'
        "      when: vm.name == 'web'\n"
        '    - file: {dest: /root/.greeting, content: "hello home\\n"}\n'
    )


def test_export_has_the_work_disk_there_is_where_a_smaller_one_was_asked_for(world: World) -> None:
    world.apply(world.write())
    world.apply(world.write("all", "running", ("work_disk: 64MiB", "work_disk: 48MiB")), restart=True, recreate=True)
    assert "work_disk: 64MiB" in exported(world)
    assert changes(world, exported(world)) == 0


def test_export_of_nothing_is_an_empty_playbook(world: World) -> None:
    assert exported(world).endswith("\n\n[]\n")
    assert changes(world, exported(world)) == 0


def test_export_by_name_has_no_other_vm(world: World) -> None:
    world.apply(world.write())
    assert "web" not in exported(world, "db")
    with pytest.raises(UsageError):
        exported(world, "nobody")


def test_export_of_bytes_and_keys_is_applied_again_to_the_same(world: World) -> None:
    (world.directory / "blob").write_bytes(bytes(range(256)))
    more = f"    - copy: {{src: blob, dest: /srv/blob, mode: 0400}}\n    - authorized_key: {{key: {KEY}}}\n"
    world.apply(
        world.write(
            "all",
            "stopped",
            ("  tasks:\n    - file: {dest: /etc/greeting", f"  tasks:\n{more}    - file: {{dest: /etc/greeting"),
        )
    )
    text = exported(world)
    assert "encoding: base64" in text
    assert f"authorized_keys: [{KEY}]" in text
    assert "/root/.ssh" not in text, "the file has this home's own key in it"
    assert changes(world, text) == 0
    assert exported(world) == text


def test_export_names_apart_two_images_of_one_name(world: World) -> None:
    world.apply(world.write())
    first = world.record("web").image_digest
    other = world.directory / "other.yml"
    other.write_text("- images: [{name: tiny, source: tiny}]\n  vms: [{name: extra, image: tiny}]\n")
    world.apply(other)
    text = exported(world)
    assert f"{{name: tiny-{first[:8]}, source: tiny, work_seed: 32MiB}}" in text
    assert changes(world, text) == 0


def test_export_of_old_records_says_what_is_not_known_and_the_cure(world: World) -> None:
    world.apply(world.write())
    record = world.record("web")
    world.host.files.remove(world.home.image_directory(record.image_digest) / recipe.FILE)
    path = record.directory / "guest.json"
    document = json.loads(world.host.files.read(path))
    del document["tasks"], document["authorized_keys"]
    world.host.files.write(path, json.dumps(document).encode())
    found = export(world.session(), [])
    assert len(found.lacking) == 2
    assert all("apply its playbook once" in each and f"# Not in it: {each}\n" in found.text for each in found.lacking)
    assert "name: web" not in found.text, "without its tasks an apply would take its files away"
    world.apply(world.write())
    assert changes(world, exported(world)) == 0


@dataclass(frozen=True)
class PathOptions:
    path: HostPath
    others: tuple[HostPath, ...] = ()
    kernel: HostPath | None = None
    size: Size | None = None
    word: str = "x"


def test_recipe_has_absolute_paths_and_sizes_with_their_unit(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "p.yml"), 1, 1)
    options = PathOptions("a.ext4", ("b", "/c"), size=Size(2**30))
    made = recipe.Recipe.of(ImageSpec("a", "import", options, None, place), GuestConfig())
    wanted = {
        "path": f"{tmp_path}/a.ext4",
        "others": [f"{tmp_path}/b", "/c"],
        "kernel": None,
        "size": "1GiB",
        "word": "x",
    }
    assert made.options == wanted


def test_command_writes_a_file_that_nobody_else_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_session", lambda report: None)
    monkeypatch.setattr(command, "exported", lambda session, names: Export("[]\n", ("it; do this",)))
    path = tmp_path / "export.yml"
    path.touch(0o644)
    done = CliRunner().invoke(command.export, ["-o", str(path)])
    assert (done.exit_code, path.read_text(), path.stat().st_mode & 0o777) == (1, "[]\n", 0o600)
    assert "not in it: it; do this" in done.output
    assert CliRunner().invoke(command.export, []).output.startswith("[]\n")


def test_export_after_a_run_of_some_tags_has_the_keys_of_all_tasks(world: World) -> None:
    change = (
        "  tasks:\n    - file: {dest: /etc/greeting",
        f"  tasks:\n    - authorized_key: {{key: {KEY}}}\n      tags: [keys]\n"
        "    - file: {dest: /etc/x, content: y}\n      tags: [x]\n    - file: {dest: /etc/greeting",
    )
    world.apply(world.write("all", "running", change))
    whole = exported(world)
    path = world.write("all", "running", change)
    world.apply(path, selection=Selection(tags=("x",)))
    assert exported(world) == whole
