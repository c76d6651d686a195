"""The way into a guest: known hosts only, our key only, and the words of a command unchanged."""

from __future__ import annotations

import shlex
from pathlib import Path

from banger.core.access import ssh_command
from banger.core.home import Home
from tests.unit.test_state import record


def options(argv: list[str]) -> dict[str, str]:
    pairs = [argv[index + 1] for index, word in enumerate(argv) if word == "-o"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_ssh_command_trusts_only_the_guests_own_key() -> None:
    argv = ssh_command(Home(Path("/home/a b")).ssh_key, record("web"), [])
    wanted = {
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": "/h/known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "web",
        "IdentitiesOnly": "yes",
        "IdentityFile": '"/home/a b/ssh/id_ed25519"',
        "BatchMode": "yes",
    }
    assert wanted.items() <= options(argv).items()
    assert argv[:3] == ["ssh", "-F", "none"]
    assert argv[-3:] == ["-p", str(record("web").nic.ssh.port), "root@127.0.0.1"]


def test_ssh_command_quotes_for_the_shell_on_the_far_side() -> None:
    words = ["sh", "-c", "exit 42", "it's", "$HOME", "a b", ""]
    argv = ssh_command(Home(Path("/h")).ssh_key, record("web"), words)
    assert argv[-2] == "--"
    assert shlex.split(argv[-1]) == words
