"""The tests in `inside/` run in the lab; from outside each is reported as it went there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.replay import Replay, Session

_INSIDE = Path(__file__).with_name("inside")
_SILENCE_S = float(os.environ.get("BANGER_LAB_SILENCE_S", "1800"))
_JOB = "python3 -m tests.lab.job /lab/run/arguments.json\n"
_ARGUMENTS = (
    *("-p", "no:cacheprovider", "--color=no", "-v"),
    *("-p", "no:hypothesispytest"),  # seconds to import there; @given does without
)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("BANGER_IN_LAB"):
        return

    def say(text: str) -> None:
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:  # a worker of xdist's has none
            reporter.ensure_newline()
            reporter.write_line(f"lab: {text}")

    @contextmanager
    def start(arguments: Sequence[str]) -> Iterator[Session]:
        # Most runs of pytest do without the lab, and inside only this file of them all is needed.
        from tests.capabilities import programs, require
        from tests.lab.build import lab
        from tests.lab.machine import Machine, prepared

        require(programs("qemu-system-x86_64", "mmdebstrap", "mke2fs", "setpriv"))
        built = lab(say)
        say("making the disk of this run, booting")
        with (
            prepared(built, _JOB, {"arguments.json": json.dumps([*_ARGUMENTS, *arguments])}) as run,
            Machine(run) as machine,
        ):
            yield machine

    config.pluginmanager.register(Replay(_INSIDE, start, _SILENCE_S, say))
