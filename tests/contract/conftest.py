"""The same cases for the real and the simulated host: what holds for one holds for the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.host import Host
from banger.linux.host import LinuxHost
from banger.testing import SimulatedHost
from tests.capabilities import programs, require


@pytest.fixture(params=["linux", "simulated"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A host with a directory at `tmp_path`."""
    if request.param == "linux":
        require(programs("mke2fs"))
        return LinuxHost(tmp_path / "cache")
    simulated = SimulatedHost()
    simulated.files.make_directory(tmp_path)
    return simulated
