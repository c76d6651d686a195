"""banger.linux.loop: what the simulated host cannot show."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.linux.loop import LinuxLoops
from banger.linux.run import run
from tests.capabilities import loop_devices, require

LOOPS = LinuxLoops()
SIZE_BYTES = 2**20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    require(loop_devices())
    (tmp_path / "file").write_bytes(bytes(SIZE_BYTES))
    yield tmp_path / "file"
    for device in LOOPS.of(tmp_path / "file"):
        LOOPS.detach(device)
    assert LOOPS.of(tmp_path / "file") == []


@pytest.mark.parametrize(
    "part", [["--offset", "4096"], ["--sizelimit", str(SIZE_BYTES // 2)]], ids=lambda part: part[0]
)
def test_shared_device_is_never_one_of_a_part_of_the_file(file: Path, part: list[str]) -> None:
    run(["losetup", "--find", "--read-only", *part, file], timeout_s=10)
    (of_a_part,) = LOOPS.of(file)
    with LOOPS.attached(file, read_only=True, share=True) as shared:
        assert shared.number != of_a_part.number
        assert shared.size_bytes == SIZE_BYTES
        with LOOPS.attached(file, read_only=True, share=True) as again:
            assert again == shared


def test_detach_logs_its_command_where_there_is_something_to_detach(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(["losetup", "--find", file], timeout_s=10)
    (device,) = LOOPS.of(file)
    caplog.set_level(logging.DEBUG)
    LOOPS.detach(device)
    LOOPS.detach(device)
    assert caplog.messages == [f"run: losetup --detach {device.path}"]
