"""Images are data: whatever is in a file that is imported, nothing is written but the image, or it is refused.

Beside each image lies a canary with a name that the image tries to reach; no case may change it, or hang, or raise
what is no error of ours.
"""

from __future__ import annotations

import io
import os
import random
import resource
import stat
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from banger_image_import import ImportedImage
from banger_image_import.options import ImportOptions

from banger.errors import BangerError, DiskError
from banger.host import Node
from banger.linux.host import LinuxHost
from banger.types import GuestFile
from tests.capabilities import programs, require
from tests.ext4 import Ext4Image
from tests.tally import tally

pytestmark = pytest.mark.beside

ROW = "hostile images"
SIZE_BYTES = 4 * 2**20
BOUND_S = 60.0
MOST_BYTES = 2**29


@pytest.fixture(autouse=True)
def _tools() -> None:
    require(programs("mke2fs", "debugfs", "e2fsck"))


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """No file of ours, or of a program we start, grows larger than this, whatever an image claims (setrlimit(2))."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory outside the image; it is as it was when the test ends."""
    directory = tmp_path / "canary"
    (directory / "inner").mkdir(parents=True)
    (directory / "file").write_text("untouched")
    before = told(directory)
    yield directory
    assert told(directory) == before


def told(directory: Path) -> list[tuple[str, int, int, int, int]]:
    found = [(str(path), path.lstat()) for path in sorted([directory, *directory.rglob("*")])]
    return [(name, s.st_mode, s.st_uid, s.st_nlink, s.st_mtime_ns) for name, s in found]


def imported(tmp_path: Path, source: Path) -> Path | None:
    """The image's directory; None when it was refused in words of ours. Nothing else may come of it."""
    host, directory = LinuxHost(tmp_path / "cache"), tmp_path / "images" / "0123"
    directory.parent.mkdir(exist_ok=True)
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_text(name)
    options = ImportOptions(str(source), kernel=str(tmp_path / "kernel"), initrd=str(tmp_path / "initrd"))
    before, begun = source.read_bytes(), time.monotonic()
    try:
        ImportedImage("image/0123/rootfs", directory, options).create(host, {}, lambda _: None)
    except BangerError as error:
        assert error.message
        assert list(directory.parent.iterdir()) == []
        return None
    finally:
        assert source.read_bytes() == before
        assert time.monotonic() - begun < BOUND_S
        tally(ROW, tried=1, residue=0, lost=0)
    assert sorted(each.name for each in directory.iterdir()) == ["facts.json", "initrd.img", "rootfs.ext4", "vmlinuz"]
    done = subprocess.run(["/sbin/e2fsck", "-fn", directory / "rootfs.ext4"], check=False, capture_output=True)
    assert done.returncode == 0, done.stdout
    return directory


# --- archives ----------------------------------------------------------------------------------------------------


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"evil", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    return member, content


def archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


D, L, H = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
ARCHIVES: dict[str, tuple[bool, Callable[[str], list[tuple[tarfile.TarInfo, bytes]]]]] = {
    # by what it tries: whether it is refused, and its entries, which may name the canary
    "absolute": (True, lambda c: [entry(f"{c}/file")]),
    "dot dot": (True, lambda c: [entry("../../../canary/file")]),
    "dot dot within": (True, lambda c: [entry("a", D), entry("a/../../../../canary/new")]),
    "dot dot directory": (True, lambda c: [entry("../../../canary/inner", D, mode=0o777)]),
    "dot dot symlink": (True, lambda c: [entry("../../../canary/link", L, "/")]),
    "absolute hard link": (True, lambda c: [entry("x", H, f"{c}/file"), entry("x")]),
    "relative hard link": (True, lambda c: [entry("x", H, "../../../canary/file"), entry("x")]),
    "hard link to a symlink": (True, lambda c: [entry("s", L, f"{c}/file"), entry("x", H, "s"), entry("x")]),
    "hard link through a symlink": (True, lambda c: [entry("s", L, c), entry("x", H, "s/file"), entry("x")]),
    "hard link to a directory": (True, lambda c: [entry("d", D), entry("x", H, "d")]),
    "hard link to itself": (True, lambda c: [entry("x", H, "x")]),
    "through an absolute symlink": (False, lambda c: [entry("s", L, c), entry("s/file"), entry("s/new")]),
    "through a relative symlink": (False, lambda c: [entry("s", L, "../../../canary"), entry("s/file")]),
    "through two symlinks": (False, lambda c: [entry("a", L, c), entry("b", L, "a"), entry("b/file")]),
    "over a symlink": (False, lambda c: [entry("s", L, f"{c}/file"), entry("s")]),
    "directory over a symlink": (False, lambda c: [entry("s", L, f"{c}/inner"), entry("s", D, mode=0o777),
    entry("s/x")]),
    "root as a symlink": (True, lambda c: [entry(".", L, c), entry("file")]),
    "root as a file": (True, lambda c: [entry(".")]),
    "symlink loop": (True, lambda c: [entry("a", L, "b"), entry("b", L, "a"), entry("a/x")]),
    "symlink to itself": (True, lambda c: [entry("a", L, "a"), entry("a/x")]),
    "empty symlink": (True, lambda c: [entry("a", L, "")]),
    "file as a directory": (True, lambda c: [entry("a"), entry("a/b")]),
    "directory as a file": (True, lambda c: [entry("a", D), entry("a/b"), entry("a")]),
    "socket or other type": (True, lambda c: [entry("a", b"Z")]),
    "sparse of another size": (False, lambda c: [entry("a", content=b"\0" * 70000)]),
    "line break": (True, lambda c: [entry("a\nb"), entry("c", D)]),
    "quotes": (False, lambda c: [entry('a"b'), entry("c'd"), entry("`id`"), entry("$(id)"), entry("-rf")]),
    "no UTF-8": (False, lambda c: [entry("a\udcff"), entry("b\udc80/c")]),
    "name of 255 bytes": (False, lambda c: [entry("n" * 255)]),
    "name of 256 bytes": (True, lambda c: [entry("n" * 256)]),
    "very deep": (True, lambda c: [entry("a/" * 1500 + "x")]),
    "deep": (False, lambda c: [entry("a/" * 150 + "x")]),
    "long symlink": (False, lambda c: [entry("s", L, "t" * 1000)]),
    "too long a symlink": (True, lambda c: [entry("s", L, "t" * 5000)]),
    "setuid": (False, lambda c: [entry("su", mode=0o6755), entry("d", D, mode=0o7777)]),
    "fstab as a symlink": (False, lambda c: [entry("etc", D), entry("etc/fstab", L, f"{c}/file")]),
    "machine-id as a symlink": (False, lambda c: [entry("etc", D), entry("etc/machine-id", L, f"{c}/file")]),
    "etc as a symlink": (False, lambda c: [entry("etc", L, c), entry("etc/machine-id")]),
    "nothing": (True, lambda c: []),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", ARCHIVES)
def test_archive_that_means_harm(what: str, canary: Path, tmp_path: Path) -> None:
    refused, entries = ARCHIVES[what]
    made = imported(tmp_path, archive(tmp_path / "root.tar", *entries(str(canary))))
    assert (made is None) is refused
    if made is not None:
        assert Ext4Image(made / "rootfs.ext4").walk()


def test_archive_with_devices_and_setuid_has_them_in_the_image_alone(canary: Path, tmp_path: Path) -> None:
    device, _ = entry("disk", tarfile.BLKTYPE)
    device.devmajor, device.devminor = 8, 0
    source = archive(
        tmp_path / "root.tar", (device, b""), entry("su", mode=0o6755), entry("p", tarfile.FIFOTYPE), entry("x", mode=0)
    )
    seen: list[int] = []
    host = LinuxHost(tmp_path / "cache")

    def look(stage: str) -> None:
        seen.extend(path.lstat().st_mode for path in tmp_path.rglob("*") if "building" in str(path))

    (tmp_path / "kernel").write_text("k")
    options = ImportOptions(str(source), kernel=str(tmp_path / "kernel"), initrd=str(tmp_path / "kernel"))
    ImportedImage("image/0123/rootfs", tmp_path / "0123", options).create(host, {}, look)
    assert seen
    assert all(not mode & 0o6000 and stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR) for mode in seen)
    found = Ext4Image(tmp_path / "0123" / "rootfs.ext4").walk()
    modes = {name: found[name].mode for name in (b"/disk", b"/su", b"/p", b"/x")}
    assert modes == {b"/disk": 0o060644, b"/su": 0o106755, b"/p": 0o010644, b"/x": 0o100000}
    tally(ROW, tried=1, residue=0, lost=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_archive_with_wrong_bytes(seed: int, canary: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    source = archive(
        tmp_path / "root.tar", entry("a", D), entry("a/b"), entry("c", L, str(canary)), entry("d", H, "a/b")
    )
    data = bytearray(source.read_bytes())
    for _ in range(chance.choice((1, 5, 50))):
        data[chance.randrange(4 * 512)] = chance.randrange(256)
    source.write_bytes(data[: chance.choice((len(data), 700, 1500))])
    imported(tmp_path, source)


# --- file systems ------------------------------------------------------------------------------------------------


@pytest.fixture
def ext4(tmp_path: Path, canary: Path) -> Path:
    nodes = [
        Node("/etc/fstab", "file", content=b"# own\n"),
        Node("/etc/machine-id", "file", content=b"0123\n"),
        Node("/root/deep/er", "file", content=b"x" * 5000),
        Node("/host", "symlink", target=str(canary)),
        Node("/root/out", "symlink", target=f"../../../../..{canary}/file"),
    ]
    LinuxHost(tmp_path / "cache").ext4.make(tmp_path / "root.img", SIZE_BYTES, nodes)
    return tmp_path / "root.img"


def debugfs(image: Path, *commands: str) -> None:
    subprocess.run(["/sbin/debugfs", "-w", "-f", "-", image], input="\n".join(commands).encode(), check=True,
                   capture_output=True)  # fmt: skip


DAMAGES: dict[str, tuple[str, ...]] = {
    "link loop": ("rm /etc/fstab", "symlink /etc/fstab fstab"),
    "fstab outside": ("rm /etc/fstab", "symlink /etc/fstab /host/file"),
    "machine-id outside": ("rm /etc/machine-id", "symlink /etc/machine-id /host/file"),
    "etc outside": ("rm /etc/fstab", "rm /etc/machine-id", "rmdir /etc", "symlink /etc /host"),
    "huge file": ("sif /etc/fstab size 0x7fffffffffff",),
    "huge machine-id": ("sif /etc/machine-id size 0xffffffffff",),
    "negative size": ("sif /etc/fstab size 0xffffffffffffffff",),
    "strange type": ("sif /etc/fstab mode 0170644",),
    "no type": ("sif /etc/fstab mode 0",),
    "directory that says it is a file": ("sif /etc mode 0100755",),
    "file that says it is a directory": ("sif /etc/fstab mode 040755",),
    "symlink that is a file": ("sif /etc/fstab mode 0120777",),
    "device": ("sif /etc/fstab mode 060644",),
    "directory in itself": ("link /etc /etc/again",),
    "root in itself": ("link / /etc/root",),
    "no links": ("sif /etc/fstab links_count 0",),
    "many links": ("sif /etc/fstab links_count 60000",),
    "block of another": ("sif /etc/fstab block[2] 1", "sif /etc/fstab block[5] 1"),
    "block beyond the end": ("sif /etc/fstab block[5] 0x7fffffff",),
    "free inode in use": ("freei /etc/fstab",),
    "root is no directory": ("sif <2> mode 0100644",),
    "journal gone": ("sif <8> mode 0", "sif <8> size 0"),
    "no blocks": ("ssv blocks_count 0",),
    "too many blocks": ("ssv blocks_count 0xffffffff",),
    "block size": ("ssv log_block_size 31",),
    "inode size": ("ssv inode_size 7",),
    "inodes per group": ("ssv inodes_per_group 0",),
    "blocks per group": ("ssv blocks_per_group 0",),
    "first inode": ("ssv first_ino 0xffffffff",),
    "unknown feature": ("ssv feature_incompat 0xffffffff",),
    "journal elsewhere": ("ssv journal_inum 2",),
    "errors": ("ssv state 2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGES)
def test_file_system_that_was_tampered_with(what: str, ext4: Path, canary: Path, tmp_path: Path) -> None:
    debugfs(ext4, *DAMAGES[what])
    used(tmp_path, imported(tmp_path, ext4), canary)


def used(tmp_path: Path, made: Path | None, canary: Path) -> None:
    """What comes next to an image: a work seed is made of its /root, files are written into a copy."""
    if made is None:
        return
    host = LinuxHost(tmp_path / "cache")
    for work in (
        lambda: host.ext4.copy_tree(made / "rootfs.ext4", "/root", tmp_path / "seed", SIZE_BYTES, label="", uuid=UUID),
        lambda: host.ext4.copy_tree(made / "rootfs.ext4", "/host", tmp_path / "seed", SIZE_BYTES, label="", uuid=UUID),
        lambda: host.ext4.read(made / "rootfs.ext4", ["/host/file", "/root/out", "/etc/fstab"]),
    ):
        try:
            work()
        except BangerError as error:
            assert error.message


UUID = "6b6e6f77-0000-4000-8000-00000000feed"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_file_system_with_wrong_bytes(seed: int, ext4: Path, canary: Path, tmp_path: Path) -> None:
    chance, data = random.Random(seed), bytearray(ext4.read_bytes())
    first, last = ((1024, 2048), (2048, 200_000), (0, len(data)))[seed % 3]
    for _ in range(chance.choice((1, 10, 200))):
        data[chance.randrange(first, last)] = chance.randrange(256)
    data[1024 + 56 : 1024 + 58] = b"\x53\xef"
    ext4.write_bytes(data[: chance.choice((len(data), len(data), len(data) // 2, 4096))])
    used(tmp_path, imported(tmp_path, ext4), canary)


def test_two_entries_of_one_name_cannot_lead_outside(ext4: Path, canary: Path, tmp_path: Path) -> None:
    """In `/root` a directory and a symlink of one name: laid out, files of the one would go where the other leads."""
    debugfs(ext4, "mkdir /root/aa", "mkdir /root/bb", f"symlink /root/cc {canary}", "write /dev/null /root/aa/new")
    subprocess.run(["/sbin/tune2fs", "-O", "^metadata_csum", ext4], check=True, capture_output=True)
    data = ext4.read_bytes()
    for name in (b"aa", b"cc"):
        at = data.index(struct.pack("<BB", 2, {b"aa": 2, b"cc": 7}[name]) + name)
        data = data[: at + 2] + b"zz" + data[at + 4 :]
    ext4.write_bytes(data)
    with pytest.raises(DiskError, match="two entries /zz"):
        LinuxHost(tmp_path / "cache").ext4.copy_tree(ext4, "/root", tmp_path / "s", SIZE_BYTES, label="", uuid=UUID)
    assert not (tmp_path / "s").exists()
    used(tmp_path, imported(tmp_path, ext4), canary)


def test_file_that_claims_more_than_its_disk_holds_is_not_read(ext4: Path, tmp_path: Path) -> None:
    debugfs(ext4, *DAMAGES["huge file"])
    with pytest.raises(DiskError, match="claim 140737488355327 bytes"):
        LinuxHost(tmp_path / "cache").ext4.read(ext4, ["/etc/fstab"], most_bytes=2**63)


def test_file_that_claims_more_than_is_wanted_is_not_read(ext4: Path, tmp_path: Path) -> None:
    host = LinuxHost(tmp_path / "cache")
    debugfs(ext4, f"sif /etc/fstab size {90 * 2**30}")
    wanted = GuestFile("/etc/fstab", b"# own\n", 0o755)
    assert host.ext4.differing(ext4, [wanted]) == [wanted]
    with pytest.raises(DiskError, match=f"/etc/fstab in .* has {90 * 2**30} bytes, and at most 67108864 are read"):
        host.ext4.read(ext4, ["/etc/fstab"])


def test_symlink_that_claims_more_than_any_has_is_not_read(ext4: Path, tmp_path: Path) -> None:
    debugfs(ext4, f"symlink /long {'t' * 100}", "sif /long size 1000000")
    with pytest.raises(DiskError, match=r"the symlink /long in .* has 1000000 bytes"):
        LinuxHost(tmp_path / "cache").ext4.lookup(ext4, ["/long"])


@pytest.mark.parametrize(("path", "size_bytes"), [("/etc/fstab", 2**20 + 1), ("/boot/vmlinuz-6.1", 2001)])
def test_image_with_a_file_too_large_to_be_read_is_refused(
    path: str, size_bytes: int, ext4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file system and as an archive."""
    monkeypatch.setattr("banger.linux.image.MOST_KERNEL_BYTES", 2000)
    host, content = LinuxHost(tmp_path / "cache"), bytes(size_bytes)
    host.ext4.patch(ext4, [GuestFile(path, content), GuestFile("/lib/modules/6.1/modules.dep", b"")])
    entries = entry(path[1:], content=content), entry("lib/modules/6.1/modules.dep", content=b"")
    (tmp_path / "kernel").write_text("k")
    given = str(tmp_path / "kernel") if path == "/etc/fstab" else None
    for source in (ext4, archive(tmp_path / "root.tar", *entries)):
        image = ImportedImage("image/0123/rootfs", tmp_path / "0123", ImportOptions(str(source), "auto", given, given))
        with pytest.raises(DiskError, match=f"{path} in .* has {size_bytes} bytes, and at most .* are read at once"):
            image.create(host, {}, lambda _: None)
        assert not (tmp_path / "0123").exists()


def test_symlinks_of_an_imported_image_are_read_inside_it(ext4: Path, canary: Path, tmp_path: Path) -> None:
    made = imported(tmp_path, ext4)
    assert made is not None
    host = LinuxHost(tmp_path / "cache")
    assert host.ext4.read(made / "rootfs.ext4", ["/host/file"]) == {"/host/file": None}
    used(tmp_path, made, canary)
    assert os.path.lexists(canary / "file")
