"""Loop devices, real and simulated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from banger.errors import BangerError, Busy
from banger.host import Host, LoopDevice
from banger.linux.run import run
from banger.testing import SimulatedHost
from tests.capabilities import loop_devices, require
from tests.loops import gone

SIZE_BYTES = 2**20


@pytest.fixture
def file(host: Host, tmp_path: Path) -> Iterator[Path]:
    if not isinstance(host, SimulatedHost):
        require(loop_devices())
    host.files.allocate(tmp_path / "file", SIZE_BYTES)
    yield tmp_path / "file"
    assert gone(host, tmp_path / "file"), "a loop device was left behind"


def test_attached_file_is_a_device_for_the_length_of_the_block(host: Host, file: Path) -> None:
    assert host.loops.of(file) == []
    with host.loops.attached(file) as device:
        assert host.loops.of(file) == host.loops.of(file, number=device.number) == [device]
        assert device.path.parent == Path("/dev") and device.path.name.startswith("loop")
        assert device.number.startswith("7:")
        assert (device.backing, device.size_bytes) == (file, SIZE_BYTES)
        assert (device.read_only, device.autoclear) == (False, True)
    assert gone(host, file)
    assert host.loops.of(file, number=device.number) == []


def test_attached_read_only_says_so(host: Host, file: Path) -> None:
    with host.loops.attached(file, read_only=True) as device:
        assert device.read_only
        assert host.loops.of(file) == [device]


def test_of_another_file_of_the_same_content_is_none(host: Host, file: Path, tmp_path: Path) -> None:
    host.files.allocate(tmp_path / "other", SIZE_BYTES)
    with host.loops.attached(file) as device:
        assert host.loops.of(tmp_path / "other") == []
        assert host.loops.of(tmp_path / "other", number=device.number) == []
        assert host.loops.of(tmp_path / "none") == []
        assert host.loops.of(file, number="7:9999") == []


def test_of_a_file_that_took_the_name_of_the_attached_one_is_none(host: Host, file: Path, tmp_path: Path) -> None:
    with host.loops.attached(file):
        host.files.allocate(tmp_path / "new", SIZE_BYTES)
        host.files.rename(tmp_path / "new", file)
        assert host.loops.of(file) == []


def test_shared_device_is_one_and_stays_until_its_last_user_hasgone(host: Host, file: Path) -> None:
    with ExitStack() as first, ExitStack() as second:
        one = first.enter_context(host.loops.attached(file, read_only=True, share=True))
        two = second.enter_context(host.loops.attached(file, read_only=True, share=True))
        assert one == two
        first.close()
        assert host.loops.of(file) == [two]
    assert gone(host, file)


def test_shared_device_is_never_a_writable_one(host: Host, file: Path) -> None:
    with (
        host.loops.attached(file) as writable,
        host.loops.attached(file, read_only=True, share=True) as shared,
    ):
        assert writable.number != shared.number
        assert sorted(device.number for device in host.loops.of(file)) == sorted([writable.number, shared.number])


def test_not_shared_devices_are_two(host: Host, file: Path) -> None:
    with (
        host.loops.attached(file, read_only=True) as one,
        host.loops.attached(file, read_only=True) as two,
    ):
        assert one.number != two.number


def test_many_at_once_each_get_one_of_their_own(host: Host, file: Path, tmp_path: Path) -> None:
    """Free numbers are asked for and taken in two steps, so another may be quicker."""
    numbers: list[str] = []
    together = threading.Barrier(6)

    def attach(path: Path) -> None:
        together.wait()
        for _ in range(5):
            with host.loops.attached(path) as device:
                assert device in host.loops.of(path)  # the one before may be somebody's for a moment yet
                numbers.append(device.number)

    files = [tmp_path / f"file-{number}" for number in range(6)]
    for path in files:
        host.files.allocate(path, SIZE_BYTES)
    threads = [threading.Thread(target=attach, args=[path]) for path in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 30
    assert all(gone(host, path) for path in files)


def test_many_at_once_share_while_any_holds_it(host: Host, file: Path) -> None:
    """Joining a device races with its last user letting it go: what is joined is attached to this file all the time."""
    wrong: list[str] = []
    together = threading.Barrier(4)

    def join() -> None:
        together.wait()
        for _ in range(10):
            with host.loops.attached(file, read_only=True, share=True) as device:
                if host.loops.of(file, number=device.number) != [device]:
                    wrong.append(device.number)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_attached_error_in_the_block_lets_it_go(host: Host, file: Path) -> None:
    with pytest.raises(KeyboardInterrupt), host.loops.attached(file):
        raise KeyboardInterrupt
    assert gone(host, file)


def test_attached_nothing_is_an_error_that_names_it(host: Host, file: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(BangerError, match=r"cannot attach .*/none to a loop device"),
        host.loops.attached(tmp_path / "none"),
    ):
        pass


def attached_by_hand(host: Host, file: Path) -> LoopDevice:
    if isinstance(host, SimulatedHost):
        return host.loops.add(file)
    run(["losetup", "--find", file], timeout_s=10)
    (device,) = host.loops.of(file)
    return device


def test_detach_takes_away_what_would_stay_by_itself(host: Host, file: Path) -> None:
    device = attached_by_hand(host, file)
    assert not device.autoclear
    host.loops.detach(device)
    assert gone(host, file)


def test_detach_of_a_used_device_is_busy_and_it_goes_with_its_user(host: Host, file: Path) -> None:
    with host.loops.attached(file) as device:
        with pytest.raises(Busy, match="in use"):
            host.loops.detach(device)
        assert host.loops.of(file) == [device]


def test_detach_of_what_is_gone_is_success(host: Host, file: Path, tmp_path: Path) -> None:
    with host.loops.attached(file) as device:
        pass
    host.loops.detach(device)
    host.files.allocate(tmp_path / "other", SIZE_BYTES)
    with host.loops.attached(tmp_path / "other") as another:
        host.loops.detach(device)
        assert host.loops.of(tmp_path / "other") == [another], "the number is another's by now"


def test_devices_are_all_there_are_and_tell_of_files_that_aregone(host: Host, file: Path) -> None:
    with host.loops.attached(file) as device:
        assert device in host.loops.devices()
        host.files.remove(file)
        (now,) = [each for each in host.loops.devices() if each.number == device.number]
        assert str(now.backing) == f"{file} (deleted)"
