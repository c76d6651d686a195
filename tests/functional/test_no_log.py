"""A secret on a real host, by the command line: where it lies, and that nothing says it."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.capabilities import programs, require
from tests.functional.tiny import Tiny

SECRET = "hunter2secret"
PLAYBOOK = f"""\
- images: [{{name: tiny, source: import, path: root.img, kernel: kernel, initrd: initrd}}]
  tasks:
    - file: {{dest: /etc/of-image, content: {SECRET}}}
      no_log: true
- vars: {{word: {SECRET}}}
  vms:
    - {{name: web, image: tiny, network: user, vmm: qemu, storage: file, root_disk: 16MiB, state: stopped}}
  tasks:
    - file: {{dest: /etc/secret, content: "{{{{ word }}}}"}}
      no_log: true
    - mount: {{source: //server/share, target: /srv, fstype: cifs, options: [password={SECRET}]}}
      no_log: true
"""


def test_secret_is_on_the_disk_and_in_no_word(tmp_path: Path) -> None:
    require(programs("mke2fs", "debugfs", "ssh-keygen"))
    tiny = Tiny.make(tmp_path, PLAYBOOK)
    playbook, plan, events, exported = tiny.playbook, tmp_path / "a.plan", tmp_path / "events", tmp_path / "out.yml"
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(PLAYBOOK.replace("{{ word }}", "{{ word.encode(word) }}"))
    changed = tmp_path / "changed.yml"
    changed.write_text(PLAYBOOK[: PLAYBOOK.index("- vars")] + PLAYBOOK[PLAYBOOK.index("- vars") :].split("  tasks:")[0])
    commands: list[tuple[str | Path, ...]] = [
        ("validate", playbook),
        ("plan", playbook, "--diff", "-o", plan),
        ("-v", "apply", playbook, "--diff", "--json-into", events),
        ("apply", playbook, "--check", "--diff", "--format", "json"),
        ("explain", playbook, "vm.web:/etc/secret"),
        ("explain", playbook, "vm.web:/etc/fstab", "--format", "json"),
        ("explain", playbook, "image.tiny:/etc/of-image"),
        ("graph", playbook),
        ("vm", "show", "web"),
        ("vm", "list", "--format", "json"),
        ("inventory", "--list"),
        ("export", "-o", exported),
        ("recover",),
        ("gc",),
        ("-v", "apply", changed, "--diff"),
        ("apply", exported, "--diff"),
        ("-v", "destroy", playbook),
    ]
    kept = {}
    for command in commands:
        done = tiny.run(*command)
        assert done.code == 0, (command, done.said)
        assert SECRET not in done.said, command
        for directory in (tiny.home / "vms").glob("*/guest.json"):
            kept[command] = (directory.stat().st_mode & 0o777, directory.read_text())
    for name in ("validate", "apply", "plan", "graph"):
        done = tiny.run(name, wrong)
        assert done.code == 2
        assert SECRET not in done.said
        assert "wrong.yml:9:42: " in done.said
    quiet = [plan, events, *tiny.home.glob("*.json*"), *tiny.home.glob("vms/handles.json")]
    assert [path for path in quiet if SECRET in path.read_text()] == []
    mode, text = kept["-v", "apply", playbook, "--diff", "--json-into", events]
    assert mode == 0o600
    assert base64.b64encode(SECRET.encode()).decode() in text
    assert {path.stat().st_mode & 0o777 for path in (plan, exported)} == {0o600}
    assert exported.read_text().count("no_log: true") == 3
    assert tiny.home.stat().st_mode & 0o777 == 0o700
