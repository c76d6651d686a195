"""Whatever a playbook names: it comes out under exactly that name, inside, or is refused; and the host is as it was.

The images are read back by a reader of the tests' own.
"""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger.errors import DiskError
from banger.host import Host, Node
from banger.linux.host import LinuxHost
from banger.scalars import GuestFilePath
from banger.types import GuestFile
from tests.capabilities import programs, require
from tests.ext4 import Ext4Image, Found
from tests.tally import tally

pytestmark = pytest.mark.beside

ROW = "hostile names and paths"
SIZE_BYTES = 8 * 2**20
UUID = "6b6e6f77-0000-4000-8000-00000000feed"

NAMES = (
    "a b", " ", "  two  ", "tab\there", "new\nline", "cr\rhere", "nul\0byte", "\x1b[31m", "\x7f", '"', '""',
    '"; rm x; "',
    "'", "`id`", "$(touch /tmp/x)", "${HOME}", "$((1+1))", "a;b", "a|b", "a&b", "a>b", "a<b", "*", "?", "[a]", "{a,b}",
    "~", "~root", "#", "# comment", "!", "!!", "\\", "\\n", "a\\", "-", "--", "-rf", "-w", "--help", "<2>", "<8>",
    "<0>",
    "<999999>", "%s", "%00", "...", "....", ". .", ".x", "x.", "q", "quit", "close -a", "write /etc/passwd x", "\udcff",
    "\udc80\udcfe", "ünïcödé", "日本", "\u202etxt", "\u200b", "e\u0301", "\u00e9", "a" * 255, "a" * 256, "é" * 127,
    "é" * 128, "lost+found", "journal", "=", "a=b", "@", "@file", ",", ":", "a:b",
)  # fmt: skip
PATHS = (
    "", "/", "//", "/.", "/..", "/../etc/passwd", "/a/../../etc/passwd", "/a/./b", "/a//b", "//a", "///a//b", "/a/",
    "/a/..", "a", "./a", "../a", "~/a", "/" + "a/" * 199 + "b", "/" + "a/" * 201 + "b", "/" + "a/" * 2000 + "b",
   "/" + "d234567890/" * 190 + "x", "/" + "a" * 4094, "/\n/x", "/x\0/y",
)  # fmt: skip
WORDS = st.text(st.one_of(st.sampled_from("ab/.\"'\\$`;<> -#%~\n\0\t"), st.characters(codec="utf-8")), max_size=12)
FEW = settings(max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=150)


@pytest.fixture(autouse=True)
def _tools() -> None:
    require(programs("mke2fs", "debugfs", "e2fsck"))


def written(disk: Path) -> dict[bytes, Found]:
    """All that is no directory."""
    return {path: found for path, found in Ext4Image(disk).walk().items() if not stat.S_ISDIR(found.mode)}


def expected(path: str, content: bytes) -> tuple[bytes, bytes]:
    return os.fsencode(posixpath.normpath("/" + path.lstrip("/"))), content


def image_of(path: str, content: bytes, how: str, disk: Path) -> dict[bytes, bytes] | None:
    """What is in an image into which this path was made or patched; None when it was refused."""
    host = LinuxHost(disk.parent / "cache")
    try:
        parsed = str(GuestFilePath.parse(path))
        if how == "make":
            host.ext4.make(disk, SIZE_BYTES, [Node(parsed, "file", 0o640, content=content)])
        else:
            host.ext4.make(disk, SIZE_BYTES)
            host.ext4.patch(disk, [GuestFile(parsed, content, 0o640)])
    except (ValueError, DiskError) as error:
        assert str(error)
        return None
    return {place: found.data for place, found in written(disk).items()}


def check(path: str, content: bytes = b"wanted\n", ways: tuple[str, ...] = ("make", "patch")) -> bool:
    """Whether the path is taken. It has to come out as it is, and alone, and nothing may be left beside the image."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "canary").write_text("untouched")
        (directory / "work").mkdir()
        found = [image_of(path, content, how, directory / "work" / "disk") for how in ways]
        assert all(there in (None, dict([expected(path, content)])) for there in found)
        assert [each.name for each in (directory / "work").iterdir() if each.name != "disk"] == []
        assert sorted(each.name for each in directory.iterdir()) == ["canary", "work"]
        assert (directory / "canary").read_text() == "untouched"
    tally(ROW, tried=1, residue=0, lost=0)
    return all(there is not None for there in found)


def refused(name: str) -> bool:
    return any(ord(c) < 32 or ord(c) == 127 for c in name) or len(os.fsencode(name)) > 255


def test_names_all_in_one_image_come_out_as_they_are(tmp_path: Path) -> None:
    taken = [f"/d/{name}" for name in NAMES if not refused(name) and name != "lost+found"]
    host, disk = LinuxHost(tmp_path / "cache"), tmp_path / "disk"
    wanted = dict(expected(path, os.fsencode(path)) for path in taken)
    host.ext4.make(disk, SIZE_BYTES, [Node(path, "file", content=os.fsencode(path)) for path in taken])
    assert {path: found.data for path, found in written(disk).items()} == wanted
    host.ext4.make(disk, SIZE_BYTES)
    host.ext4.patch(disk, [GuestFile(path, os.fsencode(path)) for path in taken])
    assert {path: found.data for path, found in written(disk).items()} == wanted
    host.ext4.copy_tree(disk, "/d", tmp_path / "copy", SIZE_BYTES, label="", uuid=UUID)
    assert {b"/d" + path: found.data for path, found in written(tmp_path / "copy").items()} == wanted
    tally(ROW, tried=len(taken), residue=0, lost=0)


@pytest.mark.parametrize("name", [name for name in NAMES if refused(name)], ids=ascii)
def test_name_that_no_guest_file_may_have_is_refused(name: str) -> None:
    assert not check(f"/d/{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not refused(name)], ids=ascii)
def test_name_alone_comes_out_as_it_is(name: str) -> None:
    assert check(f"/d/{name}")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:40])
def test_path_stays_inside_or_is_refused(path: str) -> None:
    check(path)


@pytest.mark.parametrize("target", ["HOST", "/", ".", "..", "../../../../../../HOST", "loop", "nowhere", "etc"])
@pytest.mark.parametrize("how", ["patch", "overlay"])
def test_symlink_in_an_image_leads_nowhere_but_into_the_guest(how: str, target: str, tmp_path: Path) -> None:
    """Both the directory `/loop` and the file `/loop/motd`, through the link, and `/etc/motd`, a link itself."""
    canary = tmp_path / "host"
    canary.mkdir()
    (canary / "motd").write_text("untouched")
    target = target.replace("HOST", str(canary))
    host, disk, upper = LinuxHost(tmp_path / "cache"), tmp_path / "disk", tmp_path / "upper"
    nodes = [Node("/loop", "symlink", target=target), Node("/etc/motd", "symlink", target=f"{target}/motd")]
    host.ext4.make(disk, SIZE_BYTES, [*nodes, Node("/etc/plain", "file", content=b"here")])
    prefix, base = ("/upper", disk) if how == "overlay" else ("", None)
    if how == "overlay":
        host.ext4.make(upper, SIZE_BYTES, [Node("/upper", "directory"), Node("/work", "directory")])
    changed = upper if how == "overlay" else disk
    for path in ("/loop/motd", "/etc/motd"):
        with suppress(DiskError):
            host.ext4.patch(changed, [GuestFile(path, b"wanted")], base=base, prefix=prefix)
            found = host.ext4.read(changed, [path], base=base, prefix=prefix)[path]
            assert found is not None and found.content == b"wanted"
    for place, there in written(changed).items():
        assert stat.S_ISLNK(there.mode) or there.data in (b"wanted", b"here"), place
        assert b".." not in place.split(b"/")
    assert (canary / "motd").read_text() == "untouched"
    assert [each.name for each in canary.iterdir()] == ["motd"]
    tally(ROW, tried=2, residue=0, lost=0)


@pytest.mark.parametrize("target", ["/tmp", "HOST", "../../..", "."])
def test_node_below_a_symlink_is_refused(host: Host, target: str, tmp_path: Path) -> None:
    nodes = [Node("/x", "symlink", target=target.replace("HOST", str(tmp_path))), Node("/x/made", "file", content=b"x")]
    with pytest.raises(DiskError, match="/x is a symlink there"):
        host.ext4.make(tmp_path / "disk", SIZE_BYTES, nodes)
    assert host.files.list(tmp_path) == list(tmp_path.iterdir()) == []
    tally(ROW, tried=1, residue=0, lost=0)


@FEW
@given(WORDS, st.binary(max_size=9000))
def test_any_path_with_any_content_stays_inside_or_is_refused(path: str, content: bytes) -> None:
    check(f"/{path}", content)


@pytest.mark.slow
@MANY
@given(WORDS, st.binary(max_size=9000))
def test_any_path_with_any_content_whatever_it_is(path: str, content: bytes) -> None:
    check(f"/{path}", content)
