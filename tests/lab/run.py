"""`python -m tests.lab.run --shell`: a shell in the lab. `python -m tests.lab.run COMMAND…`: one command, its output.

The lab has this checkout as it is now. Nothing that is done in it lasts.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from tests.lab.build import lab
from tests.lab.machine import Machine, prepared

_SHELL = "setsid -c -w bash -l < /dev/ttyS0 > /dev/ttyS0 2>&1\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.run", description=__doc__)
    parser.add_argument("--shell", action="store_true", help="an interactive shell; leaving it powers off")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="runs in /lab/run/checkout")
    given = parser.parse_args()
    if not given.shell and not given.command:
        parser.error("give --shell or a command")
    job = f"{shlex.join(given.command)}\n" if given.command else _SHELL
    built = lab(lambda text: print(f"lab: {text}", file=sys.stderr))
    with prepared(built, job, {}) as run, Machine(run, interactive=True) as machine:
        while not machine.ended(3600.0):
            pass


if __name__ == "__main__":
    main()
