"""A secret in tasks of `no_log`: in no output, event, error or record, whatever is done and whatever is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.cli.explain import document, lines
from banger.core import lifecycle
from banger.core.converge import ApplyOptions, keep_plan
from banger.core.explain import explain
from banger.core.export import export
from banger.core.selection import Selection
from banger.errors import BangerError
from banger.guestconfig import GuestConfig
from tests.simulated.world import World

SECRET = "hunter2secret"
KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB {SECRET}"

PLAYBOOK = f"""\
- vars: {{word: {SECRET}}}
  images: [{{name: tiny, source: tiny, work_seed: 32MiB}}]
  networks: [{{name: user, plugin: user}}]
- vars: {{word: {SECRET}, words: [{SECRET}]}}
  vms: [{{name: web, image: tiny, storage: file, network: user, vmm: qemu, work_disk: 64MiB}}]
  tasks:
    - file: {{dest: /etc/plain, content: {SECRET}}}
      no_log: true
    - file: {{dest: /etc/rendered, content: "x {{{{ word }}}}"}}
      no_log: true
    - file: {{dest: "/etc/{{{{ words.index(item) }}}}", content: "{{{{ item }}}}"}}
      loop: "{{{{ words }}}}"
      no_log: true
    - template: {{src: secret.j2, dest: /root/below}}
      no_log: true
    - copy: {{src: secret.txt, dest: /etc/copied}}
      no_log: true
    - mount: {{source: //server/share, target: /srv, fstype: cifs, options: [password={SECRET}]}}
      no_log: true
    - authorized_key: {{key: {KEY}}}
      no_log: true
    - file: {{dest: /etc/motd, content: hello}}
"""
PATHS = (
    "/etc/plain",
    "/etc/rendered",
    "/etc/0",
    "/root/below",
    "/etc/copied",
    "/etc/fstab",
    "/root/.ssh/authorized_keys",
)


def write(world: World, text: str = PLAYBOOK) -> Path:
    (world.directory / "secret.j2").write_text(f"{SECRET}\n{{{{ word }}}} of {{{{ vm.name }}}}\n")
    (world.directory / "secret.txt").write_text(SECRET)
    path = world.directory / "playbook.yml"
    path.write_text(text)
    return path


def told(world: World, act: Callable[[], Any]) -> str:
    """All that is said while doing it: results, errors with what they came of, and events."""
    try:
        said = [str(act())]
    except BangerError as error:
        said = [str(error), repr(error), str(error.hint), repr(getattr(error, "problems", ""))]
    return "\n".join([*said, json.dumps(world.events, default=str)])


def records(world: World) -> str:
    """What lies in the home, but what must hold it: `guest.json`, and the disks."""
    files = world.host.files
    kept = [*world.home.root.glob("*.json*")]
    text = "".join(path.read_text() for path in kept)
    for directory in files.list(world.home.root / "vms"):
        if directory.name != "handles.json":
            names = [p for p in files.list(directory) if p.suffix in (".json", ".sh") and p.name != "guest.json"]
            text += "".join(files.read(path).decode() for path in names)
    return text


def assert_hidden(world: World, path: Path) -> None:
    def explained(subject: str) -> Callable[[], str]:
        return lambda: _of_cause(explain(world.session(), path, subject, {}))

    acts: list[Callable[[], Any]] = [
        lambda: world.apply(path, check=True, diff=True),
        lambda: keep_plan(world.session(), path, ApplyOptions(forks=1, diff=True))[1].text(),
        lambda: world.apply(path, diff=True),
        lambda: world.apply(path, check=True, diff=True),
        lambda: world.apply(path, restart=True, recreate=True, diff=True),
        explained("vm.web"),
        *(explained(f"vm.web:{each}") for each in PATHS),
    ]
    for number, act in enumerate(acts):
        assert SECRET not in told(world, act), f"act {number}"
    assert SECRET not in records(world)


def _of_cause(cause: Any) -> str:
    return "\n".join(lines(cause)) + json.dumps(document(cause))


def test_secret_is_written_and_never_told(world: World) -> None:
    path = write(world)
    assert_hidden(world, path)
    for each in ("/etc/plain", "/etc/rendered", "/etc/0", "/etc/fstab"):
        assert SECRET.encode() in (world.content("web", "root.ext4", each) or b""), each
    shown = explain(world.session(), path, "vm.web:/etc/motd", {})
    assert "hello" in _of_cause(shown), "others are shown as ever"


def test_secret_that_changes_or_goes_is_not_told_either(world: World) -> None:
    path = write(world)
    world.apply(path)
    changed = (
        PLAYBOOK.replace("no_log: true", "no_log: false").replace(SECRET, "other"),
        PLAYBOOK[: PLAYBOOK.index("  tasks:")],
        PLAYBOOK.replace(SECRET, f"{SECRET}-2"),
    )
    hidden = [told(world, partial(world.apply, write(world, text), check=True, diff=True)) for text in changed]
    assert all("etc/plain" in text for text in hidden), "that it differs is told"
    assert [SECRET in text for text in hidden] == [False, False, False]


def test_mark_survives_a_run_that_is_not_about_the_task(world: World) -> None:
    path = write(world, PLAYBOOK + "      tags: [motd]\n")
    world.apply(path)
    world.apply(path, selection=Selection(tags=("motd",)))
    lifecycle.stop(world.session(), ["web"], 1)
    lifecycle.start(world.session(), ["web"], 1)
    assert_hidden(world, path)


def test_export_has_it_and_marks_it_again(world: World) -> None:
    world.apply(write(world))
    made = export(world.session(), [])
    assert made.lacking == ()
    assert made.text.count(SECRET) == 8, "the template has it twice"
    assert made.text.count("no_log: true") == 7
    again = world.directory / "export.yml"
    again.write_text(made.text)
    assert all((o.changed, o.pending) == (0, 0) for o in world.apply(again).values())
    assert_hidden(world, again)
    assert made.text == export(world.session(), []).text


WRONG = {
    "undefined": ("x {{ word }}", "x {{ word.nothing }} hunter2secret"),
    "syntax": ("x {{ word }}", "x {{ word hunter2secret"),
    "fails": ("x {{ word }}", "{{ (word ~ '').encode('hunter2secret') }}"),
    "gives no value": ("x {{ word }}", "{{ {1: word} }}"),
    "unknown key": ("dest: /etc/plain", "dest: /etc/plain, hunter2secret: 1"),
    "wrong mode": ("dest: /etc/plain", "mode: hunter2secret, dest: /etc/plain"),
    "wrong path": ("dest: /etc/plain", "dest: hunter2secret"),
    "rendered path": ("dest: /etc/plain", "dest: '{{ word }}'"),
    "rendered mode": ("dest: /etc/plain", "mode: '{{ word }}', dest: /etc/plain"),
    "source": ("src: secret.txt", "src: hunter2secret.txt"),
    "rendered source": ("src: secret.txt", "src: '{{ word }}'"),
    "key": ("key: ssh-ed25519", "key: no-ssh-ed25519"),
    "options": ("options: [password=hunter2secret]", "options: hunter2secret"),
    "loop": ('loop: "{{ words }}"', 'loop: "{{ word }}"'),
    "loop fails": ('loop: "{{ words }}"', 'loop: "{{ words[hunter2secret] }}"'),
    "two modules": ("    - copy:", "    - file: {dest: hunter2secret}\n      copy:"),
    "unknown module": ("    - copy:", "    - hunter2secret: 1\n      copi:"),
    "when": ("      no_log: true\n    - copy", "      no_log: true\n      when: word == hunter2secret\n    - copy"),
    "tags": ("      no_log: true\n    - copy", "      no_log: true\n      tags: hunter2secret\n    - copy"),
    "no_log": ("      no_log: true\n    - copy", "      no_log: maybe\n      tags: hunter2secret\n    - copy"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_by_its_place(world: World, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = WRONG[wrong]
    assert PLAYBOOK.count(old) == 1
    path = write(world, PLAYBOOK.replace(old, new))
    acts: list[Callable[[], Any]] = [
        lambda: world.apply(path),
        lambda: world.apply(path, check=True, diff=True),
        lambda: explain(world.session(), path, "vm.web:/etc/plain", {}),
    ]
    for act in acts:
        said = told(world, act)
        assert SECRET not in said
        assert re.search(r"playbook\.yml:\d+:\d+: ", said), said
        assert "no_log" in said
    monkeypatch.setenv("BANGER_HOME", str(world.directory / "other"))
    for command in (["validate", str(path)], ["validate", "--format", "json", str(path)], ["graph", str(path)]):
        done = CliRunner().invoke(cli, command)
        assert SECRET not in done.output + str(done.exception) + repr(done.exception), command


def test_kernel_arguments_cannot_be_hidden() -> None:
    config = GuestConfig()
    with config.contributed_by("a task", overriding=True, no_log=True), pytest.raises(ValueError, match="everybody"):
        config.add_kernel_argument("quiet")
