"""Host files, real and simulated."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.errors import BangerError, HostError
from banger.host import Host
from banger.linux.files import LinuxFiles
from banger.testing import SimulatedHost
from tests.capabilities import require


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
        if isinstance(host, SimulatedHost):
            file = host.files.file(tmp_path / "link")
            assert file is not None and file.target == tmp_path / target
        else:
            assert (tmp_path / "link").readlink() == tmp_path / target
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


@pytest.mark.parametrize(
    "options", [set(), {"nodev"}, {"noexec"}, {"nodev", "noexec"}], ids=lambda options: "-".join(sorted(options))
)
def test_mount_options_are_those_of_the_file_system(host: Host, tmp_path: Path, options: set[str]) -> None:
    if isinstance(host, SimulatedHost):
        host.files.mounted = options
        assert host.files.mount_options(tmp_path) == options
        return
    words = ",".join(["size=1M", "dev", "exec", *options])
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", words, "tmpfs", tmp_path], check=False)
    require(None if mounting.returncode == 0 else "may not mount here")
    try:
        assert host.files.mount_options(tmp_path) == options
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
def of_another() -> Iterator[Path]:
    """A file of another user's, in a directory that all may look into; for as long as it lasts we are not root."""
    ourselves = os.geteuid()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        file = Path(directory, "file") if ourselves == 0 else Path("/etc/passwd")
        if ourselves == 0:
            file.write_bytes(b"")
            os.seteuid(65534)
        try:
            yield file
        finally:
            os.seteuid(ourselves)


def test_give_and_share_by_who_is_not_root_ask_for_root(of_another: Path) -> None:
    with pytest.raises(HostError, match="cannot give") as giving:
        LinuxFiles().give(of_another, 65534)
    with pytest.raises(HostError, match="cannot make") as sharing:
        LinuxFiles().share(of_another, of_another.with_name("second"), 65534)
    assert giving.value.hint == sharing.value.hint == "run as root"
