"""banger.linux.debugfs and guest_paths: attribution of complaints, refusals, parsing, following links."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.errors import DiskError
from banger.host import Inode, Node
from banger.linux import debugfs
from banger.linux.ext4 import LinuxExt4
from banger.linux.guest_paths import follow, parents

EXT4 = LinuxExt4()
MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    EXT4.make(tmp_path / "disk", 8 * MIB, [Node("/f", "file", content=b"f"), Node("/d", "directory")])
    return tmp_path / "disk"


@pytest.mark.parametrize(
    "command",
    [
        "write /no/such/source /x",
        "mkdir /d",
        "mkdir /no/such/d",
        "rm /none",
        "sif /none mode 0100644",
        "sif /f nonsense 1",
    ],
)
def test_change_a_silent_failure_is_tied_to_its_command(disk: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(DiskError) as caught:
        debugfs.change(disk, ["mkdir /before", command, f"write {tmp_path / 'source'} /after"])
    assert f"`{command}`" in caught.value.message
    assert "/before`" not in caught.value.message and "/after`" not in caught.value.message


def test_change_an_unknown_command_is_a_failure(disk: Path) -> None:
    with pytest.raises(DiskError):
        debugfs.change(disk, ["frobnicate /f"])


def test_change_a_disk_that_cannot_be_opened_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"x" * 100_000)
    for path in (tmp_path / "text", tmp_path / "none"):
        with pytest.raises(DiskError, match="could not use"):
            debugfs.change(path, ["mkdir /d"])


def test_names_that_cannot_be_expressed_are_refused_before_anything_runs(disk: Path) -> None:
    for name in ("new\nline", "carriage\rreturn", "nul\0"):
        with pytest.raises(DiskError, match="cannot express"):
            debugfs.quote(name)
    before = disk.read_bytes()
    with pytest.raises(DiskError, match="5006 bytes"):
        debugfs.change(disk, ["mkdir /x", "mkdir " + "/y" * 2500])
    assert disk.read_bytes() == before


def test_free_space_is_the_superblocks(disk: Path) -> None:
    before = debugfs.free_space(disk)
    debugfs.change(disk, ["mkdir /new"])
    after = debugfs.free_space(disk)
    assert (after.blocks, after.inodes, after.block_bytes) == (before.blocks - 1, before.inodes - 1, 1024)


def test_listing_is_whole_whatever_the_names(tmp_path: Path) -> None:
    names = ["a b", "é", 'q"', ".hidden", "x" * 255]
    EXT4.make(tmp_path / "disk", 8 * MIB, [Node(f"/d/{name}", "file", 0o640, 5, 6, b"12") for name in names])
    number = debugfs.statuses(tmp_path / "disk", ["/d"])["/d"]
    assert number is not None
    entries = debugfs.listings(tmp_path / "disk", [number.number])[number.number]
    assert [entry.name for entry in entries] == sorted(names)
    assert {entry.inode for entry in entries} == {Inode("file", 0o640, 5, 6, 2)}


def test_listing_of_a_directory_with_an_empty_block_is_whole(disk: Path) -> None:
    debugfs.change(disk, ["expand_dir /d", "mkdir /d/in"])
    number = debugfs.statuses(disk, ["/d"])["/d"]
    assert number is not None
    assert [entry.name for entry in debugfs.listings(disk, [number.number])[number.number]] == ["in"]


def test_listing_with_what_is_no_entry_is_refused() -> None:
    with pytest.raises(DiskError, match="cannot list"):
        debugfs._entries(b"/12/100644/0/0/a/b/1/\n", Path("disk"), 2)


def test_device_numbers_are_read(disk: Path) -> None:
    debugfs.change(disk, ["cd /d", "mknod null c 1 3", "mknod pipe p"])
    found = debugfs.statuses(disk, ["/d/null", "/d/pipe"])
    null, pipe = found["/d/null"], found["/d/pipe"]
    assert null is not None and (null.inode.type, null.device) == ("character", (1, 3))
    assert pipe is not None and pipe.inode.type == "fifo"


# --- following links ---------------------------------------------------------------------------------------------

LINK = {
    "/bin": "usr/bin",
    "/abs": "/usr",
    "/up": "../../../usr",
    "/usr/back": "..",
    "/chain": "bin",
    "/self": "self",
    "/dots": "usr/./lib/../bin/",
}


def look(paths: Iterable[str]) -> dict[str, Inode | None]:
    return {path: Inode("symlink", 0o777, 0, 0, 0, LINK[path]) if path in LINK else None for path in paths}


@pytest.mark.parametrize(
    ("path", "followed"),
    [
        ("/", "/"),
        ("/bin", "/bin"),
        ("/bin/sh", "/usr/bin/sh"),
        ("/abs/x", "/usr/x"),
        ("/up/x", "/usr/x"),
        ("/usr/back/bin/x", "/usr/bin/x"),
        ("/chain/x/y", "/usr/bin/x/y"),
        ("/dots/x", "/usr/bin/x"),
        ("/a/../bin/x", "/usr/bin/x"),
        ("/../../x", "/x"),
        ("//a///b/./c", "/a/b/c"),
    ],
)
def test_follow_is_what_the_guest_would_do(path: str, followed: str) -> None:
    assert follow([path], look) == {path: followed}


def test_follow_the_last_only_when_asked() -> None:
    assert follow(["/chain"], look, final=True) == {"/chain": "/usr/bin"}
    with pytest.raises(DiskError, match="loop"):
        follow(["/self"], look, final=True)
    assert follow(["/self"], look) == {"/self": "/self"}


def test_follow_many_plain_paths_looks_once() -> None:
    looks = []

    def counted(paths: Iterable[str]) -> dict[str, Inode | None]:
        looks.append(list(paths))
        return look(looks[-1])

    follow(["/a/b/c", "/a/d", "/e/f"], counted)
    assert looks == [["/a", "/a/b", "/e"]]


@given(st.lists(st.sampled_from(["bin", "abs", "up", "usr", "back", "..", ".", "x"]), max_size=8))
def test_follow_never_leaves_a_symlink_or_dots_in_a_directory(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    followed = follow([path], look)[path]
    assert follow([followed], look) == {followed: followed}
    assert not {"..", "."} & set(followed.split("/"))
    assert not set(parents(followed)) & set(LINK)
