"""A root from a tar archive: the image has what the archive says, whoever made it, and nothing gets out of staging."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import tarfile
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.errors import DiskError
from banger.imagedirectory import UNFINISHED
from banger.linux.debugfs import look, statuses
from banger.linux.image import BootFiles, build_image, building_directory, newest_release
from banger.linux.rootfs import make_rootfs
from banger.linux.staging import StagedRoot, read_archive

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep, capabilities(7)
UUID = "0b9f1a54-6c0e-4b4e-9df8-3d1f4b8f6a01"


def entry(name: str, type_: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = type_
    member.mode = 0o755 if type_ == tarfile.DIRTYPE else 0o644
    member.mtime = 1_600_000_000
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            header, content = member if isinstance(member, tuple) else (member, b"")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    stream.seek(0)
    return stream


def debian() -> io.BytesIO:
    """A little of everything that a root file system holds."""
    capability = CAPABILITY.decode("utf-8", "surrogateescape")
    return archive(
        entry("./", tarfile.DIRTYPE, uid=0),
        entry("./usr", tarfile.DIRTYPE),
        entry("./usr/bin", tarfile.DIRTYPE),
        entry("./bin", tarfile.SYMTYPE, linkname="usr/bin"),
        (entry("./bin/su", mode=0o4755), b"su"),
        entry("./usr/bin/su-too", tarfile.LNKTYPE, linkname="./usr/bin/su", mode=0o4755),
        (entry("./usr/bin/mail", mode=0o2755, gid=8), b"mail"),
        (entry("./usr/bin/ping", pax_headers={"SCHILY.xattr.security.capability": capability}), b"ping"),
        entry("./tmp", tarfile.DIRTYPE, mode=0o1777),
        (entry("./tmp/left over"), b"x"),
        entry("./home", tarfile.DIRTYPE),
        entry("./home/ann", tarfile.DIRTYPE, uid=1000, gid=100_000, mode=0o500),
        (entry('./home/ann/a "b" c', uid=1000, gid=1000, mode=0), b"quoted"),
        entry("./home/ann/link", tarfile.SYMTYPE, linkname="/etc/passwd", uid=1000, gid=1000, mode=0o777),
        entry("./dev", tarfile.DIRTYPE),
        entry("./dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("./var", tarfile.DIRTYPE),
        entry("./var/pipe", tarfile.FIFOTYPE, mode=0o620, uid=5),
        entry("./var/zero", tarfile.CHRTYPE, devmajor=1, devminor=5, mode=0o666),
        entry("./etc", tarfile.DIRTYPE),
        (entry("./etc/ssh/ssh_host_rsa_key", mode=0o600), b"secret"),
        (entry("./etc/ssh/sshd_config"), b"config"),
    )


def make(directory: Path) -> None:
    with StagedRoot(directory / "staging") as root:
        read_archive(debian(), root)
        make_rootfs(root, directory / "image", label="here", uuid=UUID)


def as_nobody(directory: Path, action: Callable[[], None]) -> None:
    """Run `action` in a child process that owns `directory` and nothing else."""
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    for parent in directory.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            tempfile.tempdir = str(directory)
            action()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def tree(image: Path) -> dict[str, tuple[str, str, int, int, str]]:
    """Type, mode, owner and link text of what debian() holds, by debugfs."""
    paths = [
        *("/", "/usr/bin/su", "/usr/bin/su-too", "/usr/bin/mail", "/usr/bin/ping", "/tmp", "/bin", "/home/ann"),
        *('/home/ann/a "b" c', "/home/ann/link", "/var/pipe", "/var/zero", "/dev", "/dev/null", "/tmp/left over"),
        *("/etc/ssh", "/etc/ssh/sshd_config", "/etc/ssh/ssh_host_rsa_key"),
    ]
    return {
        path: (found.inode.type, f"{found.inode.mode:04o}", found.inode.uid, found.inode.gid, found.inode.target or "")
        for path, found in statuses(image, paths).items()
        if found is not None
    }


EXPECTED = {
    "/": ("directory", "0755", 0, 0, ""),
    "/usr/bin/su": ("file", "4755", 0, 0, ""),
    "/usr/bin/su-too": ("file", "4755", 0, 0, ""),
    "/usr/bin/mail": ("file", "2755", 0, 8, ""),
    "/usr/bin/ping": ("file", "0644", 0, 0, ""),
    "/tmp": ("directory", "1777", 0, 0, ""),
    "/bin": ("symlink", "0777", 0, 0, "usr/bin"),
    "/home/ann": ("directory", "0500", 1000, 100_000, ""),
    '/home/ann/a "b" c': ("file", "0000", 1000, 1000, ""),
    "/home/ann/link": ("symlink", "0777", 1000, 1000, "/etc/passwd"),
    "/var/pipe": ("fifo", "0620", 5, 0, ""),
    "/var/zero": ("character", "0666", 0, 0, ""),
    "/dev": ("directory", "0755", 0, 0, ""),
    "/etc/ssh": ("directory", "0755", 0, 0, ""),
    "/etc/ssh/sshd_config": ("file", "0644", 0, 0, ""),
}


def test_image_of_an_archive_has_its_types_modes_and_owners(tmp_path: Path) -> None:
    make(tmp_path)
    image = tmp_path / "image"
    assert tree(image) == EXPECTED
    found = statuses(image, ["/usr/bin/su", "/usr/bin/su-too", "/var/zero"])
    first, second, device = (found[path] for path in ("/usr/bin/su", "/usr/bin/su-too", "/var/zero"))
    assert first and second and device
    assert (first.number, first.links) == (second.number, 2)
    assert device.device == (1, 5)
    assert not (tmp_path / "staging").exists()
    assert image.stat().st_blocks * 512 < 32 * 2**20 < image.stat().st_size


def test_image_of_an_archive_keeps_capabilities_and_times(tmp_path: Path) -> None:
    make(tmp_path)
    value, status = look(tmp_path / "image", ["ea_get -x /usr/bin/ping security.capability", "stat /usr/bin"])
    assert value.split(b"=")[1].split() == [b"%02x" % byte for byte in CAPABILITY]
    assert b"mtime: 0x%08x" % 1_600_000_000 in status


@pytest.mark.parametrize(("mtime", "stored"), [(-5.0, 0), (2.0**40, 2**31 - 1), (1.5, 1)])
def test_image_of_impossible_times_has_the_nearest_possible(mtime: float, stored: int, tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        read_archive(archive((entry("f", mtime=mtime), b"x")), root)
        make_rootfs(root, tmp_path / "image")
    assert b"mtime: 0x%08x" % stored in look(tmp_path / "image", ["stat /f"])[0]


def test_image_of_an_archive_is_clean_and_has_its_identity(tmp_path: Path) -> None:
    make(tmp_path)
    subprocess.run(["/sbin/e2fsck", "-fn", tmp_path / "image"], check=True, capture_output=True)
    said = look(tmp_path / "image", ["stats -h"])[0].decode()
    assert UUID in said and "here" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_image_made_by_nobody_is_the_same_as_roots(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    as_nobody(theirs, lambda: make(theirs))
    assert tree(theirs / "image") == EXPECTED
    assert (theirs / "image").stat().st_uid == 65534


def test_image_smaller_than_its_content_is_refused_with_the_size_it_takes(tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        read_archive(archive((entry("big"), b"x" * 2**21)), root)
        with pytest.raises(DiskError, match=r"too small: its files alone take 3MiB"):
            make_rootfs(root, tmp_path / "image", size_bytes=2**20)
        with pytest.raises(DiskError, match="could not be made"):
            make_rootfs(root, tmp_path / "image", size_bytes=2**21 + 2**16)
    assert not list(tmp_path.iterdir())


def test_image_of_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        read_archive(archive((entry("a\nb", uid=7), b"x")), root)
        with pytest.raises(DiskError, match="line break"):
            make_rootfs(root, tmp_path / "image")


# --- hostile archives ---


OUTSIDE = [
    pytest.param([entry("../outside")], id="dot-dot"),
    pytest.param([entry("a/../../outside")], id="dot-dot-inside"),
    pytest.param([entry("/outside")], id="absolute"),
    pytest.param([entry("a", tarfile.LNKTYPE, linkname="../outside")], id="hard-link-dot-dot"),
    pytest.param([entry("a", tarfile.LNKTYPE, linkname="/etc/passwd")], id="hard-link-absolute"),
    pytest.param(
        [entry("a", tarfile.SYMTYPE, linkname="/etc/passwd"), entry("b", tarfile.LNKTYPE, linkname="a")],
        id="hard-link-to-symlink",
    ),
    pytest.param([entry("a", tarfile.LNKTYPE, linkname="missing")], id="hard-link-to-nothing"),
    pytest.param([entry("a"), entry("a/b")], id="below-a-file"),
    pytest.param(
        [entry("a", tarfile.SYMTYPE, linkname="b"), entry("b", tarfile.SYMTYPE, linkname="a"), entry("a/x")],
        id="symlink-loop",
    ),
]


@pytest.mark.parametrize("members", OUTSIDE)
def test_archive_that_reaches_outside_is_refused(members: list[tarfile.TarInfo], tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root, pytest.raises(DiskError):
        read_archive(archive(*members), root)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["/", "../../../..", "/../..", "."])
def test_archive_that_writes_through_a_symlink_stays_inside(target: str, tmp_path: Path) -> None:
    up = "/".join([".."] * len(tmp_path.parts))
    with StagedRoot(tmp_path / "staging") as root:
        link = entry("door", tarfile.SYMTYPE, linkname=target if target != "../../../.." else up)
        read_archive(archive(link, (entry("door/here/file"), b"x")), root)
        assert (tmp_path / "staging/here/file").read_bytes() == b"x"
        assert root.read("/door/here/file") == b"x"


def test_archive_that_writes_through_an_absolute_symlink_starts_at_its_own_root(tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        link = entry("var/run", tarfile.SYMTYPE, linkname="/run")
        read_archive(archive(entry("var", tarfile.DIRTYPE), link, (entry("var/run/kept/file"), b"x")), root)
        assert root.names("/run") == ["kept"]
        assert root.names("/var") == ["run"]


def test_archive_that_replaces_a_symlink_writes_beside_its_target(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    with StagedRoot(tmp_path / "staging") as root:
        link = entry("a", tarfile.SYMTYPE, linkname=str(victim))
        read_archive(archive(link, (entry("a"), b"theirs")), root)
        assert root.read("/a") == b"theirs"
    assert victim.read_bytes() == b"mine"


def test_read_of_a_symlink_to_the_host_stays_inside(tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        read_archive(archive(entry("passwd", tarfile.SYMTYPE, linkname="/etc/passwd"), (entry("x"), b"")), root)
        assert root.read("/passwd") is None


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, debian().getvalue()[:3000]])
def test_archive_that_is_broken_is_a_disk_error(content: bytes, tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root, pytest.raises(DiskError, match="archive"):
        read_archive(io.BytesIO(content), root)


# --- the image's directory ---


def test_building_directory_takes_its_place_only_when_all_went_well(tmp_path: Path) -> None:
    place = tmp_path / "image"
    with pytest.raises(RuntimeError), building_directory(place) as building:
        (building / "half").write_bytes(b"")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with building_directory(place) as building:
        (building / "whole").write_bytes(b"")
    assert [path.name for path in place.iterdir()] == ["whole"]
    assert place.stat().st_mode & 0o777 == 0o700


def test_building_directory_clears_what_dead_builders_left(tmp_path: Path) -> None:
    (tmp_path / "image.building-4711" / "staging").mkdir(parents=True)
    (tmp_path / "other.building-1").mkdir()
    with building_directory(tmp_path / "image"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "other.building-1"]


def test_building_directory_of_one_that_was_killed_is_known_by_its_name(tmp_path: Path) -> None:
    with building_directory(tmp_path / "0123") as building:
        assert UNFINISHED.sub("", building.name) == "0123"


def test_newest_release_goes_by_number_and_needs_modules() -> None:
    boot = ["vmlinuz-6.1.0-9-cloud-amd64", "vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-7.0", "config-8"]
    modules = ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "8"]
    assert newest_release(boot, modules) == "6.1.0-56-cloud-amd64"
    with pytest.raises(DiskError, match="no kernel"):
        newest_release(boot, [])


def test_built_image_has_its_kernel_its_facts_and_an_empty_machine_id(tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        members = [(entry("etc/machine-id"), b"abc\n"), (entry("etc/fstab"), b"# none\n")]
        read_archive(archive(*members), root)
        given = BootFiles(b"kernel", b"initrd")
        stages: list[str] = []
        build_image(root, tmp_path, stages.append, given=given)
    assert (tmp_path / "vmlinuz").read_bytes() == b"kernel"
    assert (tmp_path / "initrd.img").read_bytes() == b"initrd"
    assert '"fstab": "# none\\n"' in (tmp_path / "facts.json").read_text()
    status = statuses(tmp_path / "rootfs.ext4", ["/etc/machine-id"])["/etc/machine-id"]
    assert status is not None and (status.inode.size_bytes, status.inode.mode) == (0, 0o444)
    assert stages == ["copying kernel and initrd", "making the root file system"]


@pytest.mark.parametrize("spoil", [-6, -30])
def test_gzip_archive_with_one_wrong_byte_is_refused(tmp_path: Path, spoil: int) -> None:
    packed = bytearray(gzip.compress(archive((entry("etc/motd"), b"hello\n" * 4000)).getvalue(), compresslevel=0))
    at = spoil if spoil == -6 else packed.index(b"hello") + 7
    packed[at] ^= 1
    with pytest.raises(DiskError, match="the archive cannot be read"), StagedRoot(tmp_path / "s") as root:
        read_archive(io.BytesIO(bytes(packed)), root)


def test_gzip_archive_that_is_whole_is_read(tmp_path: Path) -> None:
    packed = gzip.compress(archive((entry("etc/motd"), b"hello\n")).getvalue())
    with StagedRoot(tmp_path / "s") as root:
        read_archive(io.BytesIO(packed), root)
        assert root.read("/etc/motd") == b"hello\n"
