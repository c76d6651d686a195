"""In the lab: run the tests named in a file, tell of each on the machine's serial port as it goes.

One JSON object a line: `{"report": …}` for each of pytest's test reports, `{"finished": NODEID, "tally": […]}` after an
item's last with what it has counted (`tests.tally`), `{"alive": SECONDS}` now and then as long as the machine's clock
and its processors go.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

PORT = "reports"
"""The name of the virtio serial port that takes them."""
CHECKOUT = "/lab/run/checkout"
"""Where the checkout's tests are in the lab."""


ALIVE_EVERY_S = 3.0


class Reporter:
    """A pytest plugin that writes what happens to `stream` (unbuffered: what is written has left the machine)."""

    def __init__(self, config: pytest.Config, stream: IO[bytes], tallies: IO[str]) -> None:
        self._config = config
        self._stream = stream
        self._tallies = tallies
        self._one_at_a_time = threading.Lock()

    def pytest_sessionstart(self) -> None:
        threading.Thread(target=self._live, daemon=True).start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write({"report": self._config.hook.pytest_report_to_serializable(config=self._config, report=report)})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write({"finished": nodeid, "tally": [json.loads(line) for line in self._tallies]})

    def _live(self) -> None:
        while True:
            self._write({"alive": time.monotonic()})
            time.sleep(ALIVE_EVERY_S)

    def _write(self, event: dict[str, Any]) -> None:
        left = memoryview(json.dumps(event).encode() + b"\n")
        with self._one_at_a_time:
            while left:
                left = left[self._stream.write(left) :]


class Reporting:
    """Registers a `Reporter` once there is a configuration."""

    def __init__(self, stream: IO[bytes], tallies: IO[str]) -> None:
        self._stream = stream
        self._tallies = tallies

    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.register(Reporter(config, self._stream, self._tallies))


def main(arguments_file: Path, port: Path) -> int:
    """`arguments_file` has pytest's arguments as a JSON list."""
    with port.open("wb", buffering=0) as stream, tempfile.TemporaryFile("r") as tallies:
        # A file without a name: it is gone with us, however we end.
        os.environ["BANGER_TEST_TALLY"] = f"/proc/{os.getpid()}/fd/{tallies.fileno()}"
        return pytest.main(json.loads(arguments_file.read_text()), plugins=[Reporting(stream, tallies)])


def serial_port() -> Path:
    """The device of the port named `PORT`; nobody made a link in /dev/virtio-ports here."""
    (found,) = (Path("/dev") / name.parent.name for name in _names() if name.read_text().strip() == PORT)
    return found


def _names() -> Iterator[Path]:
    return Path("/sys/class/virtio-ports").glob("*/name")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), serial_port() if len(sys.argv) < 3 else Path(sys.argv[2])))
