"""What commands do while a plugin that is installed cannot be loaded."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Done, banger
from tests.functional.tiny import Tiny

HOOKS = """\
from banger.hooks import hookimpl

@hookimpl
def contribute_guest_config(builder):
    builder.write_file("/etc/extra", "extra")
"""

BROKEN = "raise RuntimeError('broken')\n"


class Extra:
    """A home with VMs, and a plugin of another package whose module can be written."""

    def __init__(self, tiny: Tiny, site: Path) -> None:
        self.tiny, self._site = tiny, site
        info = site / "banger_extra-4.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: banger-extra\nVersion: 4.5\n")
        (info / "entry_points.txt").write_text("[banger]\nextra = banger_extra\n")

    def write(self, body: str) -> None:
        (self._site / "banger_extra.py").write_text(body)

    def run(self, *arguments: str | Path, blocked: str = "") -> Done:
        def before() -> None:
            logging.getLogger().handlers.clear()  # pytest's, which keep warnings for themselves
            sys.path.insert(0, str(self._site))
            sys.dont_write_bytecode = True  # both bodies may be of one second and one size
            os.environ["BANGER_BLOCK_PLUGINS"] = blocked

        return banger(self.tiny.home, *arguments, before=before)


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> Extra:
    made = Extra(Tiny.make(tmp_path_factory.mktemp("b")), tmp_path_factory.mktemp("site"))
    made.write(HOOKS)
    done = made.run("apply", made.tiny.playbook)
    assert done.code == 0, done.said
    made.write(BROKEN)
    return made


REASON = "plugin extra (banger-extra 4.5) is not in use: failed: RuntimeError: broken"


def test_what_makes_things_is_refused(extra: Extra) -> None:
    tiny = extra.tiny
    for arguments in (
        ("apply", tiny.playbook),
        ("plan", tiny.playbook, "-o", tiny.directory / "kept"),
        ("vm", "start", "web"),
        ("vm", "run", "--name", "new", "--", "true"),
    ):
        done = extra.run(*arguments)
        assert done.code == 1
        assert f"error: {REASON}; nothing was changed" in done.stderr
        assert "    mend it, or go on without it: BANGER_BLOCK_PLUGINS=extra\n" in done.stderr
    assert not (tiny.directory / "kept").exists()
    assert "changed=0" in extra.run("vm", "stop", "web").stdout


NOISY = """\
import os
from banger.hooks import hookimpl

print("loading")

@hookimpl
def register_guest_modules():
    print("declaring")
    os.system("echo a program")
    return []

@hookimpl
def contribute_guest_config(builder):
    print("contributing")
"""


@pytest.fixture
def noisy(extra: Extra) -> Iterator[Extra]:
    extra.write(NOISY)
    yield extra
    extra.write(BROKEN)


@pytest.mark.parametrize(
    "arguments",
    [
        ("validate", "PLAYBOOK", "--format", "json"),
        ("explain", "PLAYBOOK", "vm.web", "--format", "json"),
        ("graph", "PLAYBOOK"),
        ("schema",),
        ("export",),
        ("doctor", "--format", "json"),
        ("plugins", "list", "--format", "json"),
        ("gc", "--format", "json"),
        ("recover", "--format", "json"),
        ("vm", "show", "web", "--format", "json"),
        ("vm", "list", "--format", "json"),
        ("inventory",),
        ("plan", "PLAYBOOK", "--format", "json"),
    ],
)
def test_what_a_plugin_prints_is_not_on_stdout(noisy: Extra, arguments: tuple[str, ...]) -> None:
    done = noisy.run(*(str(noisy.tiny.playbook) if word == "PLAYBOOK" else word for word in arguments))
    assert done.stdout, done.stderr
    for word in ("loading", "declaring", "contributing", "a program"):
        assert word not in done.stdout
    if arguments[0] not in ("inventory", "vm"):
        assert "loading" in done.stderr
    if "json" in arguments:
        assert [json.loads(line) for line in done.stdout.splitlines()]


def test_what_only_looks_warns(extra: Extra) -> None:
    done = extra.run("apply", extra.tiny.playbook, "--check", "--format", "json")
    assert done.code == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[1] == {"type": "note", "subject": "", "message": REASON, "level": "warning"}
    assert f"warning: {REASON}\n" in done.stderr
    done = extra.run("plan", extra.tiny.playbook)
    assert REASON in done.stderr
    assert REASON not in done.stdout


def test_one_that_is_blocked_is_not_missed(extra: Extra) -> None:
    done = extra.run("apply", extra.tiny.playbook, "--check", blocked="extra")
    assert "/etc/extra" in done.stdout
    done = extra.run("vm", "start", "web", blocked="extra")
    assert REASON not in done.stderr
