"""Host files, real and simulated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.errors import BangerError
from banger.host import Host


def test_write_a_new_file_is_read_back_whole(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"\0one\n")
    assert host.files.read(tmp_path / "a") == b"\0one\n"
    status = host.files.status(tmp_path / "a")
    assert status is not None
    assert (status.size_bytes, status.is_directory) == (5, False)


def test_write_again_changes_inode_and_mtime_or_size(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"one")
    before = host.files.status(tmp_path / "a")
    host.files.write(tmp_path / "a", b"two, longer")
    after = host.files.status(tmp_path / "a")
    assert before != after
    assert host.files.list(tmp_path) == [tmp_path / "a"]


def test_write_without_its_directory_fails_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    with pytest.raises(BangerError, match="cannot write"):
        host.files.write(tmp_path / "nowhere" / "a", b"")
    assert host.files.list(tmp_path) == []


def test_status_of_nothing_is_none(host: Host, tmp_path: Path) -> None:
    assert host.files.status(tmp_path / "a") is None
    assert host.files.status(tmp_path / "a" / "b") is None
    assert host.files.list(tmp_path / "a") == []
    with pytest.raises(BangerError, match="cannot read"):
        host.files.read(tmp_path / "a")


def test_make_directory_with_parents_twice_is_kept(host: Host, tmp_path: Path) -> None:
    for _ in range(2):
        host.files.make_directory(tmp_path / "a" / "b")
    host.files.write(tmp_path / "a" / "b" / "c", b"")
    status = host.files.status(tmp_path / "a")
    assert status is not None and status.is_directory
    assert host.files.list(tmp_path / "a") == [tmp_path / "a" / "b"]


def test_make_directory_over_a_file_fails(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"")
    with pytest.raises(BangerError, match="cannot make the directory"):
        host.files.make_directory(tmp_path / "a" / "b")


def test_remove_twice_is_success(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"")
    for _ in range(2):
        host.files.remove(tmp_path / "a")
    assert host.files.status(tmp_path / "a") is None


def test_remove_tree_takes_all_and_twice_is_success(host: Host, tmp_path: Path) -> None:
    host.files.make_directory(tmp_path / "a" / "b")
    host.files.write(tmp_path / "a" / "b" / "c", b"")
    for _ in range(2):
        host.files.remove_tree(tmp_path / "a")
    assert host.files.list(tmp_path) == []


@pytest.mark.parametrize("sizes", [(4096, 8192), (8192, 4096)])
def test_allocate_again_sets_the_size(host: Host, tmp_path: Path, sizes: tuple[int, int]) -> None:
    for size_bytes in sizes:
        host.files.allocate(tmp_path / "a", size_bytes)
        assert host.files.read(tmp_path / "a") == bytes(size_bytes)
    status = host.files.status(tmp_path / "a")
    assert status is not None and status.allocated_bytes == 0


def test_clone_of_a_file_is_independent(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"x" * 5000)
    assert host.files.clone(tmp_path / "a", tmp_path / "b") in ("reflink", "sparse")
    host.files.write(tmp_path / "a", b"y")
    assert host.files.read(tmp_path / "b") == b"x" * 5000


def test_clone_keeps_holes(host: Host, tmp_path: Path) -> None:
    host.files.allocate(tmp_path / "a", 2**20)
    host.files.clone(tmp_path / "a", tmp_path / "b")
    status = host.files.status(tmp_path / "b")
    assert status is not None
    assert (status.size_bytes, status.allocated_bytes) == (2**20, 0)


def test_clone_of_nothing_fails_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    with pytest.raises(BangerError, match="cannot copy"):
        host.files.clone(tmp_path / "a", tmp_path / "b")
    assert host.files.list(tmp_path) == []


def test_rename_replaces_the_destination(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"new")
    host.files.write(tmp_path / "b", b"old")
    host.files.rename(tmp_path / "a", tmp_path / "b")
    assert host.files.read(tmp_path / "b") == b"new"
    assert host.files.status(tmp_path / "a") is None


def test_rename_of_a_directory_takes_what_is_in_it(host: Host, tmp_path: Path) -> None:
    host.files.make_directory(tmp_path / "a")
    host.files.write(tmp_path / "a" / "x", b"1")
    host.files.rename(tmp_path / "a", tmp_path / "b")
    assert host.files.read(tmp_path / "b" / "x") == b"1"
    assert host.files.status(tmp_path / "a") is None


def test_link_leads_to_its_target_and_is_replaced(host: Host, tmp_path: Path) -> None:
    for target in ("a", "b"):
        host.files.link(tmp_path / target, tmp_path / "link")
    host.files.remove(tmp_path / "link")
    assert host.files.list(tmp_path) == []


def test_share_is_the_same_file_under_another_name(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"one")
    host.files.make_directory(tmp_path / "jail")
    host.files.share(tmp_path / "a", tmp_path / "jail" / "a", os.getuid())
    assert host.files.status(tmp_path / "jail" / "a") == host.files.status(tmp_path / "a")
    host.files.remove_tree(tmp_path / "jail")
    assert host.files.read(tmp_path / "a") == b"one"


def test_share_of_nothing_or_over_something_fails(host: Host, tmp_path: Path) -> None:
    with pytest.raises(BangerError, match=r"another name for .*: No such file"):
        host.files.share(tmp_path / "a", tmp_path / "b", os.getuid())
    for name in ("a", "b"):
        host.files.write(tmp_path / name, name.encode())
    with pytest.raises(BangerError, match=r"another name for .*: File exists"):
        host.files.share(tmp_path / "a", tmp_path / "b", os.getuid())
    assert host.files.read(tmp_path / "b") == b"b"


def test_give_of_nothing_fails(host: Host, tmp_path: Path) -> None:
    host.files.write(tmp_path / "a", b"")
    host.files.give(tmp_path / "a", os.getuid())
    with pytest.raises(BangerError, match="cannot give"):
        host.files.give(tmp_path / "b", os.getuid())
