"""The same cases for the real and the simulated host: what holds for one holds for the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from banger.host import Host
from banger.linux.host import LinuxHost
from banger.testing import SimulatedHost


@pytest.fixture(params=["linux", "simulated"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A host with a directory at `tmp_path`."""
    if request.param == "linux":
        if shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip("needs e2fsprogs")
        return LinuxHost(tmp_path / "cache")
    simulated = SimulatedHost()
    simulated.files.make_directory(tmp_path)
    return simulated
