"""banger.linux.ext4 on real disks: what the kernel, e2fsck and an ordinary user say of what it made."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from banger.errors import DiskError
from banger.host import Node
from banger.linux import debugfs, ext4_patch, fsck
from banger.linux.ext4 import LinuxExt4
from banger.linux.run import run
from banger.types import GuestFile
from tests.capabilities import programs, require

EXT4 = LinuxExt4()
MIB = 2**20
ROOT = Path(__file__).parents[2]
UUID = "6b6e6f77-0000-4000-8000-00000000feed"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    EXT4.make(tmp_path / "disk", 32 * MIB, [Node("/f", "file", content=b"f")])
    return tmp_path / "disk"


def content(disk: Path, path: str) -> bytes | None:
    file = EXT4.read(disk, [path])[path]
    return file.content if file else None


@functools.cache
def can_mount() -> bool:
    """Whether an image can be mounted in a mount namespace of its own; found out by mounting one."""
    script = "truncate -s 8M /tmp/i && mkfs.ext4 -q /tmp/i && mount -o loop /tmp/i /mnt"
    command = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none /tmp && {script}"]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def in_own_mounts(script: str, *arguments: str | Path) -> str:
    """Run a shell script in a mount namespace of its own: its mounts and loop devices end with it. Its output."""
    require(None if can_mount() else "needs to mount a loop device in a namespace of its own")
    program = f"set -e; mount --make-rprivate /; {script}"
    return run(["unshare", "-m", "sh", "-c", program, "sh", *arguments], timeout_s=60, merge=True).output


# --- looking ---


def test_image_that_nobody_writes_is_looked_into_once(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    statuses = debugfs.statuses

    def watched(disk: Path, paths: Iterable[str]) -> dict[str, debugfs.Status | None]:
        looks.extend([disk] if (paths := list(paths)) else [])
        return statuses(disk, paths)

    monkeypatch.setattr(debugfs, "statuses", watched)
    ext4 = LinuxExt4()
    assert [bool(ext4.lookup(disk, ["/f"])["/f"]) for _ in range(2)] == [True, True]
    assert len(looks) == 2, "it was made just now"
    long_ago = disk.stat().st_mtime_ns - 10**10
    monkeypatch.setattr("time.time_ns", lambda: long_ago + 10**12)
    assert [bool(ext4.lookup(disk, ["/f"])["/f"]) for _ in range(3)] == [True] * 3
    assert len(looks) == 3
    os.utime(disk, ns=(long_ago, long_ago))
    ext4.lookup(disk, ["/f"])
    assert len(looks) == 4, "it is another file now"


# --- new images --------------------------------------------------------------------------------------------------


def test_make_is_clean_small_and_has_its_identity(tmp_path: Path) -> None:
    EXT4.make(tmp_path / "disk", 4 * 2**30, [Node("/f", "file")], label="work", uuid=UUID)
    fsck.verify(tmp_path / "disk", "the test")
    status = (tmp_path / "disk").stat()
    assert (status.st_size, status.st_mode & 0o777) == (4 * 2**30, 0o600)
    assert status.st_blocks * 512 < 4 * MIB
    said = run(["tune2fs", "-l", tmp_path / "disk"], timeout_s=10).output
    assert "volume name:   work\n" in said and UUID in said and "has_journal" in said


def test_make_twice_a_name_or_below_a_file_is_a_disk_error(tmp_path: Path) -> None:
    for nodes in ([Node("/a", "file"), Node("/a", "file")], [Node("/a", "file"), Node("/a/b", "file")]):
        with pytest.raises(DiskError):
            EXT4.make(tmp_path / "disk", 8 * MIB, nodes)
    assert list(tmp_path.iterdir()) == []


def test_make_outside_of_the_image_is_refused(tmp_path: Path) -> None:
    for path in ("../x", "/a/../../x", "x"):
        with pytest.raises(ValueError, match="absolute"):
            EXT4.make(tmp_path / "disk", 8 * MIB, [Node(path, "file")])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_resize2fs_left_is_mended_and_nothing_else_is(disk: Path) -> None:
    """Its resize inode points outside the disk: `e2fsck -p` leaves that to people."""
    debugfs.change(disk, ["sif <7> block[IND] 99999999"])
    with pytest.raises(DiskError, match="e2fsck status 4") as refused:
        EXT4.grow(disk, 64 * MIB)
    assert refused.value.hint == f"mend it: e2fsck -f {disk}"
    EXT4.grow(disk, 64 * MIB, interrupted=True)
    assert content(disk, "/f") == b"f"
    fsck.verify(disk, "growing")


def test_set_identity_and_grow_are_what_the_disk_says(disk: Path) -> None:
    EXT4.set_identity(disk, label="new", uuid=UUID)
    EXT4.grow(disk, 256 * MIB)
    said = run(["tune2fs", "-l", disk], timeout_s=10).output
    assert "volume name:   new\n" in said and UUID in said
    free = debugfs.free_space(disk)
    assert free.blocks * free.block_bytes > 200 * MIB
    assert disk.stat().st_blocks * 512 < 16 * MIB


# --- patching ----------------------------------------------------------------------------------------------------


def test_patch_large_and_sparse_content_is_exact(disk: Path) -> None:
    big = os.urandom(8 * MIB)
    sparse = bytes(6 * MIB) + b"end"
    EXT4.patch(disk, [GuestFile("/big", big), GuestFile("/sparse", sparse)])
    assert content(disk, "/big") == big
    assert content(disk, "/sparse") == sparse
    found = debugfs.statuses(disk, ["/sparse"])["/sparse"]
    assert found is not None and found.allocated_bytes < MIB
    fsck.verify(disk, "the test")


def test_patch_many_files_is_three_looks_and_one_change(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bool] = []
    real = debugfs._run

    def counted(disk: Path, commands: list[str], inherit: list[int], *, writing: bool) -> list[bytes]:
        nonlocal runs
        runs += [writing] if commands else []
        return real(disk, commands, inherit, writing=writing)

    monkeypatch.setattr(debugfs, "_run", counted)
    files = [GuestFile(f"/etc/d{index % 7}/{index}", b"%d" % index, 0o600 + index % 8, index) for index in range(200)]
    EXT4.patch(disk, files)
    assert runs.count(True) == 1 and len([run for run in runs if not run]) <= 3
    monkeypatch.undo()
    assert EXT4.read(disk, [file.path for file in files]) == {file.path: file for file in files}


def test_contents_go_through_memory_in_parts_and_leave_nothing_to_a_kill(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")  # no file can be made there
    monkeypatch.setattr(debugfs, "AT_ONCE", 3)
    monkeypatch.setattr(ext4_patch, "AT_ONCE", 3)
    real, seen = debugfs._run, set[str]()

    def watched(disk: Path, commands: list[str], inherit: list[int], *, writing: bool) -> list[bytes]:
        seen.update(path.name for path in disk.parent.iterdir())
        return real(disk, commands, inherit, writing=writing)

    monkeypatch.setattr(debugfs, "_run", watched)
    files = [GuestFile(f"/etc/{index}", os.urandom(index * 1000)) for index in range(8)]
    EXT4.patch(disk, files, directories=[Node("/srv", "directory")])
    debugfs.change(disk, [f"symlink /{name} /etc/{'x/../' * 20}{name}" for name in range(7)])
    assert EXT4.read(disk, [file.path for file in files]) == {file.path: file for file in files}
    found = EXT4.lookup(disk, [f"/{name}" for name in range(7)])
    assert [inode and inode.target for inode in found.values()] == [f"/etc/{'x/../' * 20}{name}" for name in range(7)]
    assert seen == {disk.name}
    fsck.verify(disk, "the test")


def test_patch_a_hard_linked_file_leaves_its_other_name(disk: Path) -> None:
    debugfs.change(disk, ["ln /f /g", "sif /f links_count 2"])
    EXT4.patch(disk, [GuestFile("/f", b"new")])
    assert (content(disk, "/f"), content(disk, "/g")) == (b"new", b"f")


def test_patch_over_a_device_or_fifo_makes_a_file(disk: Path) -> None:
    debugfs.change(disk, ["cd /", "mknod null c 1 3", "mknod pipe p"])
    EXT4.patch(disk, [GuestFile("/null", b"n"), GuestFile("/pipe", b"p")])
    assert (content(disk, "/null"), content(disk, "/pipe")) == (b"n", b"p")


def test_patch_two_names_of_one_place_must_agree(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    EXT4.make(disk, 8 * MIB, [Node("/usr/bin", "directory"), Node("/bin", "symlink", target="usr/bin")])
    with pytest.raises(DiskError, match="both"):
        EXT4.patch(disk, [GuestFile("/bin/x", b"1"), GuestFile("/usr/bin/x", b"2")])
    EXT4.patch(disk, [GuestFile("/bin/x", b"1"), GuestFile("/usr/bin/x", b"1")])
    assert content(disk, "/usr/bin/x") == b"1"


def test_patch_where_the_guest_removed_the_directory_hides_the_image_s(tmp_path: Path) -> None:
    base, upper = tmp_path / "base", tmp_path / "upper"
    EXT4.make(base, 8 * MIB, [Node("/etc/old", "file"), Node("/etc", "directory", 0o700, 5, 5)])
    EXT4.make(upper, 8 * MIB, [Node("/upper", "directory"), Node("/work", "directory")])
    debugfs.change(upper, ["cd /upper", "mknod etc c 0 0"])
    assert EXT4.lookup(upper, ["/etc/old"], prefix="/upper", base=base) == {"/etc/old": None}
    EXT4.patch(upper, [GuestFile("/etc/new", b"n")], base=base, prefix="/upper")
    assert content(upper, "/upper/etc/new") == b"n"
    opaque = debugfs.look(upper, ["ea_get /upper/etc trusted.overlay.opaque"])[0]
    assert b'"y"' in opaque or b"79" in opaque


def test_patch_that_did_not_come_out_right_is_a_disk_error(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = debugfs.attributes
    monkeypatch.setattr(ext4_patch, "attributes", lambda path, kind, mode, uid, gid: right(path, kind, mode, 1, gid))
    with pytest.raises(DiskError, match="did not come out right"):
        EXT4.patch(disk, [GuestFile("/x", b"")])


def test_patch_a_damaged_disk_is_refused_with_its_cure(disk: Path) -> None:
    debugfs.change(disk, ["sif /f mode 0140644", "sif <2> links_count 77", "ssv state 2"])
    with pytest.raises(DiskError) as caught:
        EXT4.patch(disk, [GuestFile("/x", b"")])
    assert caught.value.hint == f"mend it: e2fsck -f {disk}"


# --- with the kernel ---------------------------------------------------------------------------------------------


def test_kernel_sees_what_was_written(disk: Path) -> None:
    EXT4.patch(disk, [GuestFile('/a b/"q"', b"text", 0o4751, 100000, 4_000_000_000)])
    said = in_own_mounts('mount -o loop,ro "$1" /mnt; stat -c "%a %u %g %F" /mnt/a*/*; cat /mnt/a*/*', disk)
    assert said == "4751 100000 4000000000 regular file\ntext"


def test_mounted_disk_is_busy(disk: Path) -> None:
    program = textwrap.dedent("""
        import sys; from pathlib import Path
        from banger.linux.ext4 import LinuxExt4
        from banger.errors import Busy
        from banger.types import GuestFile
        ext4, disk = LinuxExt4(), Path(sys.argv[1])
        for change in (lambda: ext4.recover(disk), lambda: ext4.patch(disk, [GuestFile("/x", b"")]),
                       lambda: ext4.grow(disk, 2**28), lambda: ext4.flatten(disk, "/root"),
                       lambda: ext4.set_identity(disk, label="x", uuid="clear")):
            try:
                change()
                print("changed")
            except Busy:
                print("busy")
    """)
    script = 'mount -o loop "$1" /mnt; cd "$2"; exec "$3" -c "$4" "$1"'
    assert in_own_mounts(script, disk, ROOT, sys.executable, program).split() == ["busy"] * 5


def test_patch_of_a_disk_whose_guest_was_killed_lasts(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "killed"
    script = 'mount -o loop "$1" /mnt; echo late > /mnt/late; sync -f /mnt; cp --sparse=always "$1" "$2"'
    in_own_mounts(script, disk, copy)
    assert b"needs_recovery" in debugfs.look(copy, ["stats -h"])[0]
    EXT4.patch(copy, [GuestFile("/x", b"patched")])
    assert in_own_mounts('mount -o loop "$1" /mnt; cat /mnt/late /mnt/x', copy) == "late\npatched"


# --- flatten and copy --------------------------------------------------------------------------------------------


def test_flatten_keeps_hard_links_times_and_attributes(tmp_path: Path) -> None:  # seed S13
    disk = tmp_path / "disk"
    EXT4.make(disk, 16 * MIB, [Node("/root/a", "file", content=b"a"), Node("/root/d/x", "file"), Node("/keep", "file")])
    debugfs.change(
        disk,
        ["ln /root/a /root/b", "sif /root/a links_count 2", "sif /root/a mtime @1000000000", "ea_set /root/a user.k v"],
    )
    before = debugfs.statuses(disk, ["/root/a", "/root/d"])
    assert EXT4.flatten(disk, "/root") == 3
    after = debugfs.statuses(disk, ["/a", "/b", "/d", "/keep", "/root"])
    assert after["/a"] == after["/b"] == before["/root/a"]
    assert after["/d"] == before["/root/d"] and after["/keep"] is not None and after["/root"] is None
    said = debugfs.look(disk, ["stat /a", "ea_get /a user.k"])
    assert b"mtime: 0x3b9aca00" in said[0] and b"v" in said[1]


def test_flatten_hundreds_of_entries(tmp_path: Path) -> None:  # seed S13
    disk = tmp_path / "disk"
    names = [f"a rather long name to fill directory blocks with {index}" for index in range(400)]
    nested = [Node(f"/root/{name}", "file", content=name.encode()) for name in names]
    top = [Node(f"/{name}", "file", content=b"top") for name in names[300:]]
    more = [Node(f"/{index}{names[0]}", "file") for index in range(300)]
    EXT4.make(disk, 16 * MIB, [*nested, *top, *more])
    assert EXT4.flatten(disk, "/root") == 400
    found = EXT4.read(disk, [f"/{name}" for name in names])
    assert [file.content for file in found.values() if file] == [name.encode() for name in names]
    aside = EXT4.read(disk, [f"/{name}.before-flatten" for name in names[300:]])
    assert [file.content for file in aside.values() if file] == [b"top"] * 100
    assert None not in EXT4.lookup(disk, [node.path for node in more]).values()


def test_flatten_that_fails_leaves_the_disk_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    EXT4.make(disk, 16 * MIB, [Node("/root/a", "file", content=b"a")])
    before = disk.stat().st_ino

    def fail(disk: Path) -> None:
        raise DiskError("seeded")

    monkeypatch.setattr(fsck, "mend", fail)
    with pytest.raises(DiskError, match="seeded"):
        EXT4.flatten(disk, "/root")
    assert list(tmp_path.iterdir()) == [disk] and disk.stat().st_ino == before
    assert content(disk, "/root/a") == b"a"


def test_copy_tree_keeps_hard_links_devices_and_pipes(tmp_path: Path) -> None:  # seed S12
    source, copy = tmp_path / "source", tmp_path / "copy"
    EXT4.make(source, 16 * MIB, [Node("/root/a", "file", content=b"a"), Node("/root/d", "directory", 0o710, 5, 6)])
    debugfs.change(
        source,
        ["ln /root/a /root/d/b", "sif /root/a links_count 2", "cd /root/d", "mknod null c 1 3", "mknod pipe p"],
    )
    EXT4.copy_tree(source, "/root", copy, 16 * MIB, label="work", uuid=UUID)
    found = debugfs.statuses(copy, ["/a", "/d/b", "/d/null", "/d/pipe"])
    a, null, pipe = found["/a"], found["/d/null"], found["/d/pipe"]
    assert a is not None and a.links == 2 and a == found["/d/b"]
    assert null is not None and null.device == (1, 3)
    assert pipe is not None and pipe.inode.type == "fifo"


def test_copy_tree_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    EXT4.make(source, 32 * MIB, [Node("/root/big", "file", content=os.urandom(8 * MIB))])
    with pytest.raises(DiskError, match="cannot make"):
        EXT4.copy_tree(source, "/root", tmp_path / "copy", 4 * MIB, label="", uuid=UUID)
    assert list(tmp_path.iterdir()) == [source]


# --- an ordinary user --------------------------------------------------------------------------------------------

ORDINARY = """
import os, sys
from pathlib import Path
from banger.host import Node
from banger.linux.ext4 import LinuxExt4
from banger.types import GuestFile

assert os.geteuid() != 0
here, ext4 = Path(sys.argv[1]), LinuxExt4()
disk, copy = here / "disk", here / "copy"
nodes = [Node("/root", "directory", 0o700), Node("/root/in", "file", 0o000, 0, 0, b"in"),
         Node("/sudo", "file", 0o4755, 0, 12, b"s"), Node("/bin", "symlink", target="usr/bin", uid=3)]
ext4.make(disk, 2**24, nodes, label="root")
files = [GuestFile("/bin/x", b"x", 0o755), GuestFile("/etc/shadow", b"s", 0o640, 0, 42),
         GuestFile("/sudo", b"n", 0o400)]
ext4.patch(disk, files, ["/none"], directories=[Node("/root/.ssh", "directory", 0o700)])
assert ext4.read(disk, ["/bin/x", "/etc/shadow", "/sudo"]) == {f.path: f for f in files}
assert ext4.read(disk, ["/root/in"])["/root/in"] == GuestFile("/root/in", b"in", 0, 0, 0)
found = ext4.lookup(disk, ["/", "/root", "/root/.ssh", "/usr/bin", "/bin"])
print([(i.mode, i.uid, i.gid) for i in found.values()])
ext4.copy_tree(disk, "/root", copy, 2**24, label="w", uuid="6b6e6f77-0000-4000-8000-00000000feed")
ext4.grow(copy, 2**25)
ext4.flatten(disk, "/root")
print([(i.mode, i.uid, i.gid) for i in ext4.lookup(copy, ["/", "/in", "/.ssh"]).values()], sorted(os.listdir(here)))
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="banger-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def reachable_python(become: list[str]) -> str:
    """An interpreter that the ordinary user can run: ours may lie in a directory that is closed to others."""
    for python in (str(Path(sys.executable).resolve()), "/usr/bin/python3"):
        probe = [*become, python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe, capture_output=True, check=False, cwd="/").returncode == 0:
            return python
    pytest.skip("needs a Python that an ordinary user can run")


def test_ordinary_user_makes_patches_and_copies_disks_of_root(open_directory: Path) -> None:
    code, home = open_directory / "code", open_directory / "home"
    shutil.copytree(ROOT / "banger", code / "banger", ignore=shutil.ignore_patterns("__pycache__"))
    run(["chmod", "-R", "a+rX", code], timeout_s=30)
    home.mkdir()
    become: list[str] = []
    if os.geteuid() == 0:
        require(programs("setpriv"))
        os.chown(home, 65534, 65534)
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = ["env", "-i", "PATH=/usr/bin:/bin", f"PYTHONPATH={code}", "PYTHONDONTWRITEBYTECODE=1"]
    python = reachable_python([*become, *environment])
    command = [*become, *environment, python, "-c", ORDINARY, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == str([(0o755, 0, 0), (0o700, 0, 0), (0o700, 0, 0), (0o755, 0, 0), (0o777, 3, 0)])
    assert second == f"{[(0o700, 0, 0), (0o000, 0, 0), (0o700, 0, 0)]} ['copy', 'disk']"
