"""banger.diskfile: a disk that was damaged before it was to grow is not taken for one that growing damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger import diskfile
from banger.errors import DiskError
from banger.testing import SimulatedHost

PATH = Path("/vms/web/work.ext4")
GROWING = PATH.with_suffix(".growing")
MIB = 2**20


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    """With a disk whose damage only a thorough check sees, and which grows only after an interrupted growing."""
    host = SimulatedHost()
    host.files.make_directory(PATH.parent)
    host.ext4.make(PATH, 16 * MIB)
    grow, recover = host.ext4.grow, host.ext4.recover

    def only_interrupted(path: Path, size_bytes: int, *, interrupted: bool = False) -> None:
        if not interrupted:
            raise DiskError(f"{path} cannot be used")
        grow(path, size_bytes)

    def only_in_haste(path: Path, *, thoroughly: bool = False) -> None:
        if thoroughly:
            raise DiskError(f"{path} cannot be used")
        recover(path)

    monkeypatch.setattr(host.ext4, "grow", only_interrupted)
    monkeypatch.setattr(host.ext4, "recover", only_in_haste)
    return host


def test_damage_of_before_is_refused_again_and_again(host: SimulatedHost) -> None:
    for _ in range(2):
        with pytest.raises(DiskError):
            diskfile.grow(host, PATH, 64 * MIB)
        assert host.files.status(GROWING) is None


def test_damage_that_an_interrupted_growing_left_is_mended(host: SimulatedHost) -> None:
    host.files.write(GROWING, b"")
    diskfile.grow(host, PATH, 64 * MIB)
    assert host.files.status(GROWING) is None
    status = host.files.status(PATH)
    assert status and status.size_bytes == 64 * MIB
