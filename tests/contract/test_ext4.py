"""ext4 images, real and simulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from banger.errors import DiskError
from banger.host import Host, Inode, Node
from banger.types import GuestFile

SIZE_BYTES = 16 * 2**20
UUID = "6b6e6f77-0000-4000-8000-00000000feed"
MERGED_USR = (Node("/usr/bin", "directory"), Node("/bin", "symlink", target="usr/bin"))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk.ext4"


def summary(inode: Inode | None) -> tuple[str, int, int, int] | None:
    return (inode.type, inode.mode, inode.uid, inode.gid) if inode else None


def contents(host: Host, disk: Path, *paths: str) -> list[bytes | None]:
    found = host.ext4.read(disk, paths)
    return [file.content if (file := found[path]) else None for path in paths]


# --- making and looking ------------------------------------------------------------------------------------------


def test_make_empty_image_has_only_a_root_of_root(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    assert summary(host.ext4.lookup(disk, ["/"])["/"]) == ("directory", 0o755, 0, 0)
    status = host.files.status(disk)
    assert status is not None and status.size_bytes == SIZE_BYTES
    assert status.allocated_bytes < SIZE_BYTES / 2


def test_make_nodes_have_exact_type_mode_and_owner(host: Host, disk: Path) -> None:
    nodes = [
        Node("/", "directory", 0o750, 7, 8),
        Node("/etc/sudo", "file", 0o4440, 100000, 4_000_000_000, b"text"),
        Node("/secret", "file", 0o000, 0, 0, b"x"),
        Node("/tmp", "directory", 0o1777),
        Node("/link", "symlink", uid=3, gid=4, target="etc/sudo"),
    ]
    host.ext4.make(disk, SIZE_BYTES, nodes, label="root", uuid=UUID)
    found = host.ext4.lookup(disk, ["/", "/etc", "/etc/sudo", "/secret", "/tmp", "/link"])
    assert [summary(inode) for inode in found.values()] == [
        ("directory", 0o750, 7, 8),
        ("directory", 0o755, 0, 0),
        ("file", 0o4440, 100000, 4_000_000_000),
        ("file", 0o000, 0, 0),
        ("directory", 0o1777, 0, 0),
        ("symlink", 0o777, 3, 4),
    ]
    assert contents(host, disk, "/etc/sudo", "/secret") == [b"text", b"x"]


@pytest.mark.parametrize(
    "name", ["a b", 'quo"te', "ünïcödé", "'", "back\\slash", "<2>", "#x", "x" * 255, "-w", "tab\there"]
)
def test_names_that_need_care_are_found_again(host: Host, disk: Path, name: str) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node(f"/d/{name}", "file", content=b"made")])
    host.ext4.patch(disk, [GuestFile(f"/e/{name}", b"patched")])
    assert contents(host, disk, f"/d/{name}", f"/e/{name}") == [b"made", b"patched"]


@pytest.mark.parametrize("length", [1, 59, 60, 200, 1000])
def test_symlink_text_of_any_length_is_read(host: Host, disk: Path, length: int) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/link", "symlink", target="t" * length)])
    inode = host.ext4.lookup(disk, ["/link"])["/link"]
    assert inode is not None and inode.target == "t" * length


def test_make_over_an_existing_image_replaces_it(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/old", "file")])
    host.ext4.make(disk, SIZE_BYTES, [Node("/new", "file")])
    assert contents(host, disk, "/old", "/new") == [None, b""]


def test_make_too_small_for_its_content_leaves_what_was_there(host: Host, disk: Path, tmp_path: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/old", "file")])
    with pytest.raises(DiskError):
        host.ext4.make(disk, SIZE_BYTES, [Node("/big", "file", content=b"x" * (SIZE_BYTES + 1))])
    assert contents(host, disk, "/old") == [b""]
    assert host.files.list(tmp_path) == [disk]


def test_make_without_its_directory_is_a_disk_error(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        host.ext4.make(tmp_path / "nowhere" / "disk", SIZE_BYTES)


def test_lookup_of_many_paths_follows_directories_but_not_the_last(host: Host, disk: Path) -> None:
    nodes = [*MERGED_USR, Node("/usr/bin/sh", "file", content=b"sh"), Node("/usr/bin/l", "symlink", target="sh")]
    host.ext4.make(disk, SIZE_BYTES, nodes)
    found = host.ext4.lookup(disk, ["/bin", "/bin/sh", "/bin/l", "/bin/none", "/none/none", "/bin/sh/x"])
    assert {path: inode.type if inode else None for path, inode in found.items()} == {
        "/bin": "symlink",
        "/bin/sh": "file",
        "/bin/l": "symlink",
        "/bin/none": None,
        "/none/none": None,
        "/bin/sh/x": None,
    }


def test_read_answers_only_regular_files(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/d", "directory"), Node("/l", "symlink", target="f"), Node("/f", "file")])
    assert host.ext4.read(disk, ["/d", "/l", "/f", "/none"]) == {
        "/d": None,
        "/l": None,
        "/f": GuestFile("/f", b"", 0o755),
        "/none": None,
    }


def test_read_takes_no_more_into_memory_than_it_is_allowed(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"x" * 6), Node("/g", "file", content=b"y" * 5)])
    assert contents(host, disk, "/f", "/g") == [b"x" * 6, b"y" * 5]
    assert host.ext4.read(disk, ["/f", "/g"], most_bytes=11).keys() == {"/f", "/g"}
    with pytest.raises(DiskError, match=r"/f in .* has 6 bytes, and at most 10 are read at once"):
        host.ext4.read(disk, ["/f", "/g"], most_bytes=10)


def test_differing_are_the_files_that_are_not_there_so(host: Host, disk: Path) -> None:
    there = [GuestFile(f"/{name}", name.encode(), 0o640, 5, 6) for name in ("same", "size", "content", "mode", "user")]
    nodes = [Node(f.path, "file", f.mode, f.uid, f.gid, f.content) for f in there]
    host.ext4.make(disk, SIZE_BYTES, [*nodes, Node("/dir", "directory", 0o640, 5, 6)])
    wanted = [
        there[0],
        replace(there[1], content=b"sizes"),
        replace(there[2], content=b"CONTENT"),
        replace(there[3], mode=0o600),
        replace(there[4], uid=0),
        GuestFile("/dir", b"", 0o640, 5, 6),
        GuestFile("/none", b""),
    ]
    assert host.ext4.differing(disk, wanted) == wanted[1:]
    assert host.ext4.differing(disk, there) == []


def test_differing_over_a_base_are_not_those_that_only_it_has(host: Host, disk: Path, base: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    files = [GuestFile("/bin/tool", b"t"), GuestFile("/etc/hostname", b"h")]
    host.ext4.patch(disk, files[:1], base=base, prefix="/upper")
    assert host.ext4.differing(disk, files, base=base, prefix="/upper") == files[1:]


@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ("usr/lib", "/usr/lib/x"),
        ("/usr/lib", "/usr/lib/x"),
        ("../../../usr/lib", "/usr/lib/x"),
        ("other", "/usr/lib/x"),
    ],
)
def test_resolve_follows_directories_and_never_escapes(host: Host, disk: Path, target: str, resolved: str) -> None:
    nodes = [
        Node("/usr/lib", "directory"),
        Node("/other", "symlink", target="/usr/./lib/../lib"),
        Node("/lib", "symlink", target=target),
    ]
    host.ext4.make(disk, SIZE_BYTES, nodes)
    assert host.ext4.resolve(disk, "/lib/x") == resolved
    assert host.ext4.resolve(disk, "/lib") == "/lib"


def test_resolve_a_loop_is_a_disk_error(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/a", "symlink", target="b"), Node("/b", "symlink", target="a")])
    with pytest.raises(DiskError, match="loop"):
        host.ext4.resolve(disk, "/a/x")
    with pytest.raises(DiskError, match="loop"):
        host.ext4.patch(disk, [GuestFile("/a/x", b"")])


def test_what_is_no_disk_is_a_disk_error(host: Host, disk: Path) -> None:
    with pytest.raises(DiskError):
        host.ext4.lookup(disk, ["/"])
    host.files.write(disk, b"text" * 10000)
    with pytest.raises(DiskError):
        host.ext4.lookup(disk, ["/"])
    with pytest.raises(DiskError):
        host.ext4.patch(disk, [GuestFile("/x", b"")])


# --- patching ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(range(256)) * 17, bytes(300_000) + b"end", b"\0" * 8192])
def test_patch_writes_content_exactly(host: Host, disk: Path, content: bytes) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    host.ext4.patch(disk, [GuestFile("/f", content, 0o640, 5, 6)])
    assert host.ext4.read(disk, ["/f"]) == {"/f": GuestFile("/f", content, 0o640, 5, 6)}


def test_patch_replaces_content_mode_and_owner(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", 0o4755, 9, 9, b"long old content")])
    host.ext4.patch(disk, [GuestFile("/f", b"new", 0o600)])
    assert host.ext4.read(disk, ["/f"]) == {"/f": GuestFile("/f", b"new", 0o600)}


def test_patch_removes_files_and_links_and_what_is_gone_already(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/d/f", "file"), Node("/d/l", "symlink", target="f")])
    host.ext4.patch(disk, [], ["/d/f", "/d/l", "/d/none", "/none/none"])
    assert set(host.ext4.lookup(disk, ["/d/f", "/d/l"]).values()) == {None}
    assert summary(host.ext4.lookup(disk, ["/d"])["/d"]) == ("directory", 0o755, 0, 0)


def test_patch_a_directory_away_or_over_is_refused(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/d", "directory"), Node("/f", "file", content=b"f")])
    for writes, removals in (([GuestFile("/d", b"")], []), ([], ["/d"]), ([GuestFile("/f/x", b"")], [])):
        with pytest.raises(DiskError):
            host.ext4.patch(disk, [GuestFile("/first", b""), *writes], removals)
    assert contents(host, disk, "/first", "/f") == [None, b"f"]


def test_patch_over_a_symlink_makes_a_regular_file_and_keeps_its_target(host: Host, disk: Path) -> None:
    nodes = [Node("/run/stub", "file", content=b"stub"), Node("/etc/resolv.conf", "symlink", target="../run/stub")]
    host.ext4.make(disk, SIZE_BYTES, nodes)
    host.ext4.patch(disk, [GuestFile("/etc/resolv.conf", b"nameserver\n")])
    assert contents(host, disk, "/etc/resolv.conf", "/run/stub") == [b"nameserver\n", b"stub"]


def test_patch_through_a_symlinked_directory_writes_behind_it(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, MERGED_USR)
    host.ext4.patch(disk, [GuestFile("/bin/tool", b"1", 0o755), GuestFile("/bin/deep/er", b"2")])
    assert contents(host, disk, "/usr/bin/tool", "/usr/bin/deep/er") == [b"1", b"2"]
    assert summary(host.ext4.lookup(disk, ["/bin"])["/bin"]) == ("symlink", 0o777, 0, 0)


def test_patch_missing_parents_without_base_are_roots(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    host.ext4.patch(disk, [GuestFile("/a/b/c", b"", uid=5)])
    assert [summary(inode) for inode in host.ext4.lookup(disk, ["/a", "/a/b"]).values()] == [
        ("directory", 0o755, 0, 0),
        ("directory", 0o755, 0, 0),
    ]


def test_patch_directories_are_made_and_corrected(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/root", "directory", 0o777, 1, 1), Node("/root/keep", "file")])
    wanted = [Node("/root", "directory", 0o700), Node("/root/.ssh", "directory", 0o700, 2, 3)]
    host.ext4.patch(disk, [GuestFile("/root/.ssh/key", b"k", 0o600)], directories=wanted)
    found = host.ext4.lookup(disk, ["/root", "/root/.ssh", "/root/keep"])
    assert [summary(inode) for inode in found.values()] == [
        ("directory", 0o700, 0, 0),
        ("directory", 0o700, 2, 3),
        ("file", 0o755, 0, 0),
    ]


def test_patch_the_root_directory_itself_is_corrected(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    host.ext4.patch(disk, [], directories=[Node("/", "directory", 0o700, 5, 5)])
    assert summary(host.ext4.lookup(disk, ["/"])["/"]) == ("directory", 0o700, 5, 5)


def test_patch_without_room_is_refused_before_anything_is_written(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"old")])
    with pytest.raises(DiskError, match="no room"):
        host.ext4.patch(disk, [GuestFile("/f", b"new"), GuestFile("/big", b"x" * SIZE_BYTES)])
    assert contents(host, disk, "/f", "/big") == [b"old", None]


def test_patch_changes_what_stat_says_of_the_disk(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    before = host.files.status(disk)
    host.ext4.patch(disk, [GuestFile("/f", b"x")])
    after = host.files.status(disk)
    assert before is not None and after is not None
    assert (before.inode, before.size_bytes) == (after.inode, after.size_bytes)
    assert before.mtime_ns != after.mtime_ns


def test_recover_of_a_clean_disk_changes_nothing(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"f")])
    host.ext4.recover(disk)
    assert contents(host, disk, "/f") == [b"f"]


# --- over a base -------------------------------------------------------------------------------------------------


@pytest.fixture
def base(host: Host, tmp_path: Path) -> Path:
    nodes = [
        *MERGED_USR,
        Node("/etc", "directory", 0o751, 1, 2),
        Node("/etc/ssh", "directory", 0o710, 3, 4),
        Node("/etc/hostname", "file", content=b"image\n"),
        Node("/var/run", "symlink", target="/run"),
        Node("/run", "directory"),
        Node("/file", "file"),
    ]
    host.ext4.make(tmp_path / "base.ext4", SIZE_BYTES, nodes)
    return tmp_path / "base.ext4"


@pytest.mark.parametrize("prefix", ["", "/upper"])
def test_patch_over_a_base_takes_parents_from_it(host: Host, disk: Path, base: Path, prefix: str) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    host.ext4.patch(disk, [GuestFile("/etc/ssh/new/key", b"k")], base=base, prefix=prefix)
    paths = [f"{prefix}/etc", f"{prefix}/etc/ssh", f"{prefix}/etc/ssh/new"]
    assert [summary(inode) for inode in host.ext4.lookup(disk, paths).values()] == [
        ("directory", 0o751, 1, 2),
        ("directory", 0o710, 3, 4),
        ("directory", 0o755, 0, 0),
    ]
    assert contents(host, disk, f"{prefix}/etc/ssh/new/key") == [b"k"]


@pytest.mark.parametrize("prefix", ["", "/upper"])
def test_patch_over_a_base_follows_its_symlinked_directories(host: Host, disk: Path, base: Path, prefix: str) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    files = [GuestFile("/bin/tool", b"t"), GuestFile("/var/run/me", b"r")]
    host.ext4.patch(disk, files, base=base, prefix=prefix)
    assert contents(host, disk, f"{prefix}/usr/bin/tool", f"{prefix}/run/me") == [b"t", b"r"]
    assert set(host.ext4.lookup(disk, [f"{prefix}/bin", f"{prefix}/var/run"]).values()) == {None}
    found = host.ext4.read(disk, ["/bin/tool", "/var/run/me", "/etc/hostname"], prefix=prefix, base=base)
    assert found == {"/bin/tool": files[0], "/var/run/me": files[1], "/etc/hostname": None}
    assert host.ext4.lookup(disk, ["/bin/none", "/etc"], prefix=prefix, base=base) == {"/bin/none": None, "/etc": None}


def test_patch_twice_over_a_base_replaces(host: Host, disk: Path, base: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/upper", "directory"), Node("/work", "directory")])
    for content in (b"one", b"two"):
        host.ext4.patch(disk, [GuestFile("/bin/tool", content)], base=base, prefix="/upper")
    host.ext4.patch(disk, [], ["/bin/none", "/bin/tool"], base=base, prefix="/upper")
    assert host.ext4.read(disk, ["/bin/tool"], prefix="/upper", base=base) == {"/bin/tool": None}


def test_patch_below_a_file_of_the_base_is_refused(host: Host, disk: Path, base: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    with pytest.raises(DiskError, match="/file"):
        host.ext4.patch(disk, [GuestFile("/file/x", b"")], base=base, prefix="/upper")


# --- whole images ------------------------------------------------------------------------------------------------


def test_clone_of_a_disk_is_independent(host: Host, disk: Path, tmp_path: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"old")])
    host.files.clone(disk, tmp_path / "copy")
    host.ext4.patch(disk, [GuestFile("/f", b"new")])
    assert contents(host, tmp_path / "copy", "/f") == [b"old"]


def test_grow_keeps_contents_and_sets_the_size(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"f")])
    host.ext4.grow(disk, 4 * SIZE_BYTES)
    host.ext4.grow(disk, 4 * SIZE_BYTES)
    host.ext4.patch(disk, [GuestFile("/big", b"x" * 2 * SIZE_BYTES)])
    status = host.files.status(disk)
    assert status is not None and status.size_bytes == 4 * SIZE_BYTES
    assert contents(host, disk, "/f") == [b"f"]


def test_grow_that_was_interrupted_is_done_again(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"f")])
    for _ in range(2):
        host.ext4.recover(disk, thoroughly=True)
        host.ext4.grow(disk, 4 * SIZE_BYTES, interrupted=True)
    assert contents(host, disk, "/f") == [b"f"]


def test_grow_to_less_is_refused(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES)
    with pytest.raises(DiskError, match="smaller"):
        host.ext4.grow(disk, SIZE_BYTES // 2)


def test_set_identity_keeps_contents(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file", content=b"f")])
    host.ext4.set_identity(disk, label="work", uuid=UUID)
    assert contents(host, disk, "/f") == [b"f"]


def test_copy_tree_keeps_contents_modes_and_owners(host: Host, disk: Path, tmp_path: Path) -> None:  # seed S12
    nodes = [
        Node("/root", "directory", 0o700, 5, 6),
        Node("/root/.bashrc", "file", 0o644, 5, 6, b"rc"),
        Node("/root/.ssh", "directory", 0o700),
        Node("/root/.ssh/id", "file", 0o600, 100000, 100001, b"key"),
        Node("/root/sub/deep/er", "file", 0o4711, content=b"er"),
        Node("/root/link", "symlink", uid=7, gid=8, target=".ssh/id"),
        Node("/root/long", "symlink", target="t" * 100),
        Node('/root/odd "name" é', "file", content=b"odd"),
        Node("/etc/passwd", "file"),
        Node("/home", "symlink", target="root"),
    ]
    host.ext4.make(disk, SIZE_BYTES, nodes)
    for directory in ("/root", "/home"):
        copy = tmp_path / "copy.ext4"
        host.ext4.copy_tree(disk, directory, copy, SIZE_BYTES, label="work", uuid=UUID)
        paths = ["", *(node.path.removeprefix("/root") for node in nodes if node.path.startswith("/root/"))]
        here = host.ext4.lookup(disk, ["/root" + path for path in paths])
        there = host.ext4.lookup(copy, [path or "/" for path in paths])
        assert [summary(inode) for inode in there.values()] == [summary(inode) for inode in here.values()]
        assert [i.target for i in there.values() if i] == [i.target for i in here.values() if i]
        assert contents(host, copy, "/.bashrc", "/.ssh/id", "/sub/deep/er") == [b"rc", b"key", b"er"]
        assert host.ext4.lookup(copy, ["/etc"])["/etc"] is None


def test_copy_tree_of_what_is_no_directory_makes_nothing(host: Host, disk: Path, tmp_path: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/f", "file")])
    for directory in ("/f", "/none"):
        with pytest.raises(DiskError, match="not a directory"):
            host.ext4.copy_tree(disk, directory, tmp_path / "copy", SIZE_BYTES, label="", uuid=UUID)
    assert host.files.list(tmp_path) == [disk]


# --- a nested home -----------------------------------------------------------------------------------------------


def test_flatten_moves_everything_up_hidden_files_too(host: Host, disk: Path) -> None:  # seed S13
    nodes = [
        Node("/root", "directory", 0o700, 5, 6),
        Node("/root/.bashrc", "file", 0o640, 1, 2, b"rc"),
        Node("/root/.config/deep/x", "file", content=b"x"),
        Node("/root/link", "symlink", target=".bashrc"),
        Node("/root/root", "file", content=b"same name"),
        Node("/beside", "file", content=b"beside"),
    ]
    host.ext4.make(disk, SIZE_BYTES, nodes)
    assert host.ext4.flatten(disk, "/root") == 4
    found = host.ext4.lookup(disk, ["/", "/.bashrc", "/.config/deep", "/link", "/root"])
    assert [summary(inode) for inode in found.values()] == [
        ("directory", 0o700, 5, 6),
        ("file", 0o640, 1, 2),
        ("directory", 0o755, 0, 0),
        ("symlink", 0o777, 0, 0),
        ("file", 0o755, 0, 0),
    ]
    assert contents(host, disk, "/.config/deep/x", "/root", "/beside") == [b"x", b"same name", b"beside"]
    assert host.ext4.flatten(disk, "/root") == 0


def test_flatten_with_names_at_both_levels_loses_nothing(host: Host, disk: Path) -> None:  # seed S13
    nodes = [
        Node("/root/f", "file", content=b"nested"),
        Node("/f", "file", content=b"top"),
        Node("/f.before-flatten", "file", content=b"older"),
        Node("/root/d", "directory", 0o700, 3, 3),
        Node("/root/d/same", "file", content=b"nested same"),
        Node("/root/d/n", "file", content=b"n"),
        Node("/d/same", "file", content=b"top same"),
        Node("/d/t", "file", content=b"t"),
        Node("/root/mixed", "file", content=b"nested file"),
        Node("/mixed/in", "file", content=b"in top directory"),
        Node("/root/other/in", "file", content=b"in nested directory"),
        Node("/other", "file", content=b"top file"),
    ]
    host.ext4.make(disk, SIZE_BYTES, nodes)
    assert host.ext4.flatten(disk, "/root") == 4
    expected = {
        "/f": b"nested",
        "/f.before-flatten": b"older",
        "/f.before-flatten.2": b"top",
        "/d/same": b"nested same",
        "/d/same.before-flatten": b"top same",
        "/d/n": b"n",
        "/d/t": b"t",
        "/mixed": b"nested file",
        "/mixed.before-flatten/in": b"in top directory",
        "/other/in": b"in nested directory",
        "/other.before-flatten": b"top file",
    }
    assert dict(zip(expected, contents(host, disk, *expected), strict=True)) == expected
    assert summary(host.ext4.lookup(disk, ["/d"])["/d"]) == ("directory", 0o700, 3, 3)
    assert host.ext4.lookup(disk, ["/root"])["/root"] is None


def test_flatten_when_the_name_is_no_directory_does_nothing(host: Host, disk: Path) -> None:
    host.ext4.make(disk, SIZE_BYTES, [Node("/root", "file", content=b"r"), Node("/l", "symlink", target="d")])
    assert host.ext4.flatten(disk, "/root") == host.ext4.flatten(disk, "/l") == host.ext4.flatten(disk, "/none") == 0
    assert contents(host, disk, "/root") == [b"r"]
