"""banger.linux.files and copying: what the simulated host cannot show."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from banger.errors import BangerError
from banger.linux import copying
from banger.linux.files import LinuxFiles

FILES = LinuxFiles()
MIB = 2**20


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Hole, data, hole, data that is not a whole block, hole."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(MIB)
        file.write(os.urandom(10_000))
        file.seek(3 * MIB)
        file.write(b"x" * 5000)
        file.truncate(8 * MIB)
    return path


def refuse(number: int) -> object:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("broken", ["nothing", "ioctl", "copy_file_range"])
def test_clone_keeps_content_and_holes_whichever_way(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken != "nothing":
        monkeypatch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))
    if broken == "copy_file_range":
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV))
    copying.clone(sparse, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == sparse.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks <= sparse.stat().st_blocks
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


def test_clone_across_file_systems_keeps_content_and_holes(sparse: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == sparse.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    copy = memory / f"banger-test-{os.getpid()}"
    try:
        assert copying.clone(sparse, copy) == "sparse"
        assert copy.read_bytes() == sparse.read_bytes()
        assert copy.stat().st_blocks * 512 < MIB
    finally:
        copy.unlink(missing_ok=True)


def test_clone_asks_for_shared_extents_first(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *arguments: asked.append(arguments[1]))
    assert copying.clone(sparse, tmp_path / "copy") == "reflink"
    assert asked == [0x40049409]


def test_clone_that_fails_on_the_way_leaves_nothing(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSPC))
    with pytest.raises(BangerError, match="No space") as caught:
        FILES.clone(sparse, tmp_path / "copy")
    assert caught.value.hint is not None and "room" in caught.value.hint
    assert sorted(tmp_path.iterdir()) == [sparse]


def test_write_sets_the_mode_and_is_synced_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        seen.append("fsync")
        fsync(descriptor)

    def seen_replace(path: Path, target: Path) -> Path:
        seen.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    FILES.write(tmp_path / "a", b"x", 0o644)
    assert seen == ["fsync", "replace", "fsync"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_write_that_cannot_be_synced_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FILES.write(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(BangerError, match="cannot write"):
        FILES.write(tmp_path / "a", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    FILES.remove_tree(tmp_path / "tree")
    FILES.remove_tree(tmp_path / "link")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "kept"]
    assert (tmp_path / "kept" / "file").read_text() == "kept"


def test_status_of_a_link_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    status = FILES.status(tmp_path / "link")
    assert status is not None and status.size_bytes == len("nowhere")
