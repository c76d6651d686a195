"""A run about some of a playbook's VMs and tasks; what differs, line by line; what a dry run's exit code tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.core.access import TO_BE_MADE
from banger.core.guest_files import file_diff
from banger.core.selection import Selection, words
from banger.errors import UsageError
from banger.host import Inode
from banger.types import GuestFile
from tests.simulated.world import World

PLAYBOOK = """
- images: [{name: tiny, source: tiny}, {name: other, source: tiny}]
- defaults: {image: tiny, root_disk: 1GiB, state: stopped}
  vms:
    - {name: web-1, tags: [web]}
    - {name: web-2, tags: [web]}
    - {name: db, image: other}
  tasks:
    - file: {dest: /etc/motd, content: "MOTD {{ vm.name }}\\n"}
      tags: [motd]
    - file: {dest: /etc/plain, content: "PLAIN\\n"}
    - mount: {source: tmpfs, target: /SCRATCH, fstype: tmpfs}
      tags: [scratch]
    - file: {dest: /etc/rare, content: "rare\\n"}
      tags: [never, rare]
    - file: {dest: /etc/often, content: "OFTEN\\n"}
      tags: [always]
"""


def write(world: World, motd: str = "one", plain: str = "one", scratch: str = "scratch", often: str = "one") -> Path:
    path = world.directory / "p.yml"
    text = PLAYBOOK.replace("MOTD", motd).replace("PLAIN", plain).replace("SCRATCH", scratch).replace("OFTEN", often)
    path.write_text(text)
    return path


def subjects(world: World) -> list[str]:
    return [event["subject"] for event in world.events if event["type"] == "recap"]


def inside(world: World, name: str, path: str) -> str | None:
    content = world.content(name, "root.ext4", f"/upper{path}")
    return None if content is None else content.decode()


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [
        ("web-*", ["image/tiny", "vm/web-1", "vm/web-2"]),
        ("web-*,!web-2", ["image/tiny", "vm/web-1"]),
        ("db", ["image/other", "vm/db"]),
        ("!web-*", ["image/other", "vm/db"]),
    ],
)
def test_limit_is_about_these_vms_and_their_images(world: World, limit: str, chosen: list[str]) -> None:
    world.apply(write(world), selection=Selection(limit=words(limit, "--limit")))
    assert subjects(world) == chosen
    world.apply(write(world), check=True)
    assert {record.name for record in world.session().store.snapshot().vms()} == {
        name.partition("/")[2] for name in chosen if name.startswith("vm/")
    }


@pytest.mark.parametrize("given", [Selection(limit=("wep-1",)), Selection(tags=("mott",)), Selection(skip_tags=("w",))])
def test_name_or_tag_that_nothing_has_is_told_with_the_nearest(world: World, given: Selection) -> None:
    with pytest.raises(UsageError) as refused:
        world.apply(write(world), selection=given)
    assert refused.value.hint in ("did you mean 'web-1'?", "did you mean 'motd'?", "did you mean 'web'?") or (
        refused.value.hint or ""
    ).startswith("known: ")
    assert world.host.effects == []


def test_tags_of_tasks_leave_the_files_of_others_as_they_are(world: World) -> None:
    world.apply(write(world))
    assert inside(world, "db", "/etc/rare") is None
    changed = write(world, motd="two", plain="two", scratch="other", often="two")
    world.apply(changed, selection=Selection(tags=("motd",)))
    for name in ("web-1", "db"):
        assert inside(world, name, "/etc/motd") == f"two {name}\n"
        assert inside(world, name, "/etc/plain") == "one\n"
        assert inside(world, name, "/etc/often") == "two\n"
        assert "/scratch" in (inside(world, name, "/etc/fstab") or "")
    world.apply(changed, selection=Selection(tags=("motd",)))
    assert world.changed() == 0
    world.apply(changed, selection=Selection(skip_tags=("scratch",)))
    assert inside(world, "db", "/etc/plain") == "two\n"
    assert "/scratch" in (inside(world, "db", "/etc/fstab") or "")
    world.apply(changed)
    assert "/other" in (inside(world, "db", "/etc/fstab") or "")
    world.apply(changed, selection=Selection(tags=("rare",)))
    assert inside(world, "db", "/etc/rare") == "rare\n"


def test_tags_of_vms_take_all_their_tasks(world: World) -> None:
    world.apply(write(world), selection=Selection(tags=("web",)))
    assert subjects(world) == ["image/tiny", "vm/web-1", "vm/web-2"]
    assert inside(world, "web-1", "/etc/plain") == "one\n"
    world.apply(write(world, plain="two"), selection=Selection(skip_tags=("web",)))
    assert subjects(world) == ["image/other", "vm/db"]


def test_diff_is_against_what_is_on_the_disk(world: World) -> None:
    world.apply(write(world))
    disk = world.record("db").directory / "root.ext4"
    world.host.ext4.patch(disk, [GuestFile("/etc/plain", b"by hand\n")], prefix="/upper")
    world.apply(write(world, motd="two"), check=True, diff=True, selection=Selection(limit=("db",)))
    (lines,) = [
        action["diff"]
        for event in world.events
        if event["type"] == "plan"
        for action in event["actions"]
        if "diff" in action
    ]
    assert lines == [
        *("--- a/etc/motd", "+++ b/etc/motd", "@@ -1 +1 @@", "-one db", "+two db"),
        *("--- a/etc/plain", "+++ b/etc/plain", "@@ -1 +1 @@", "-by hand", "+one"),
    ]
    assert inside(world, "db", "/etc/motd") == "one db\n"


def test_diff_of_a_new_vm_says_of_its_keys_that_they_will_be_made(world: World) -> None:
    world.apply(write(world), check=True, diff=True, selection=Selection(limit=("db",)))
    actions = [action for event in world.events if event["type"] == "plan" for action in event["actions"]]
    lines = [line for action in actions for line in action.get("diff", ())]
    hidden = "(not shown: it is private; the apply makes a key for it)"
    for path, said in (
        ("/etc/ssh/ssh_host_ed25519_key", [hidden]),
        ("/etc/ssh/ssh_host_ed25519_key.pub", ["@@ -0,0 +1 @@", f"+{TO_BE_MADE}"]),
        ("/root/.ssh/authorized_keys", [hidden]),
    ):
        start = lines.index(f"+++ b{path}") + 1
        assert lines[start : start + len(said)] == said
    assert "the apply makes this key" in TO_BE_MADE
    world.apply(write(world))
    assert "the apply" not in (inside(world, "db", "/root/.ssh/authorized_keys") or "the apply")


def test_diff_of_one_file() -> None:
    old, new = GuestFile("/a", b"x\n", 0o644), GuestFile("/a", b"x\n", 0o755, 1, 2)
    assert file_diff("/a", old, old) == []
    assert file_diff("/a", old, new) == ["--- a/a", "+++ b/a", "mode and owner 0644 0:0 -> 0755 1:2"]
    assert file_diff("/a", old, None) == ["--- a/a", "+++ /dev/null", "@@ -1 +0,0 @@", "-x"]
    secret = GuestFile("/a", b"hidden", 0o600)
    assert file_diff("/a", None, secret) == ["--- /dev/null", "+++ b/a", "(not shown: it is private)"]
    assert "hidden" not in str(file_diff("/a", secret, old))
    assert file_diff("/a", old, GuestFile("/a", b"\xff"))[2:] == ["(not text: 2 -> 1 bytes)"]
    large = Inode("file", 0o644, 0, 0, 90 * 2**30)
    assert file_diff("/a", large, old) == ["--- a/a", "+++ b/a", "(too large to show: 96636764160 bytes)"]
    assert file_diff("/a", large, None)[1:] == ["+++ /dev/null", "(too large to show: 96636764160 bytes)"]


def test_detailed_exitcode_goes_with_check() -> None:
    done = CliRunner().invoke(cli, ["apply", "p.yml", "--detailed-exitcode"])
    assert isinstance(done.exception, UsageError)
