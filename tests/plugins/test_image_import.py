"""Importing what is there: each format gives the same image, and the broken or hostile is refused in clear words."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import banger_image_import as plugin
import pytest
from banger_image_import.detect import detect_format, find_ext4_partition
from banger_image_import.options import ImportOptions

from banger.errors import DiskError, Place, PlaybookError
from banger.host import Node
from banger.linux.debugfs import statuses
from banger.linux.host import LinuxHost
from banger.resource import Absent, Present
from banger.types import ImageSpec
from tests.capabilities import programs, require

FILES = {
    "/boot/vmlinuz-6.1": b"the kernel",
    "/usr/lib/modules/6.1/modules.dep": b"kernel/overlay.ko:\n",
    "/usr/lib/modules/6.1/kernel/overlay.ko": b"the module",
    "/etc/fstab": b"# its own\n",
    "/etc/machine-id": b"0123\n",
    "/sbin/init": b"#!/bin/sh\n",
}
START = 2048 * 512


@pytest.fixture
def busybox() -> None:
    require(programs("busybox"))


@pytest.fixture
def qemu_img() -> None:
    require(programs("qemu-img"))


needs_busybox = pytest.mark.usefixtures("busybox")
needs_qemu_img = pytest.mark.usefixtures("qemu_img")


@pytest.fixture
def host(tmp_path: Path) -> LinuxHost:
    return LinuxHost(tmp_path / "cache")


@pytest.fixture
def ext4(tmp_path: Path, host: LinuxHost) -> Path:
    nodes = [Node(path, "file", 0o644, content=content) for path, content in FILES.items()]
    host.ext4.make(tmp_path / "root.img", 2**24, [*nodes, Node("/lib", "symlink", target="usr/lib")])
    return tmp_path / "root.img"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        link = tarfile.TarInfo("lib")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/lib"
        archive.addfile(link)
        for path, content in FILES.items():
            member = tarfile.TarInfo(f".{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tmp_path / "root.tar"


def partitioned(ext4: Path, *, gpt: bool) -> Path:
    """A raw disk with the file system in its second partition, after an empty one."""
    first, second, sectors = 64, START // 512, ext4.stat().st_size // 512
    disk = ext4.with_suffix(".disk")
    with disk.open("wb") as stream:
        mbr = bytearray(512)
        mbr[510:512] = b"\x55\xaa"
        if gpt:
            entries = b"".join(
                struct.pack("<16s16sQQQ72s", b"\1" * 16, b"\2" * 16, start, end, 0, b"")
                for start, end in ((first, second - 1), (second, second + sectors - 1))
            )
            stream.seek(512)
            stream.write(struct.pack("<8s64xQII", b"EFI PART", 2, 2, 128).ljust(512, b"\0") + entries)
        else:
            for index, (start, count) in enumerate(((first, second - first), (second, sectors))):
                mbr[446 + 16 * index + 8 : 446 + 16 * index + 16] = struct.pack("<II", start, count)
        stream.seek(0)
        stream.write(mbr)
        stream.seek(START)
        stream.write(ext4.read_bytes())
        stream.truncate(START + ext4.stat().st_size + 2**20)
    return disk


def qcow2(raw: Path) -> Path:
    made = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, made], check=True)
    return made


def build(host: LinuxHost, directory: Path, path: Path, **options: Any) -> list[str]:
    (resource,) = plugin.prepare_image(ImageSpec("i", "import", ImportOptions(str(path), **options)), directory)
    assert resource.key == f"image/{directory.name}/rootfs"
    assert resource.observe(host, None) == Absent()
    stages: list[str] = []
    resource.create(host, {}, stages.append)
    assert resource.observe(host, None) == Present()
    return stages


@pytest.fixture(params=["ext4", "tar", "tar.gz", "tar.xz", "tar.zst", "mbr", "gpt", "qcow2", "qcow2-gpt"])
def source(request: pytest.FixtureRequest, ext4: Path, tar: Path) -> Iterator[Path]:
    kind: str = request.param
    if "qcow2" in kind or kind in ("mbr", "gpt"):
        require(programs("qemu-img"))
        disk = ext4 if kind == "qcow2" else partitioned(ext4, gpt="gpt" in kind)
        yield qcow2(disk) if "qcow2" in kind else disk
    elif kind.startswith("tar."):
        program = {"gz": "gzip", "xz": "xz", "zst": "zstd"}[kind.removeprefix("tar.")]
        require(programs(program))
        packed = tar.with_suffix(".packed")
        packed.write_bytes(subprocess.run([program, "-c", tar], capture_output=True, check=True).stdout)
        yield packed
    else:
        yield {"ext4": ext4, "tar": tar}[kind]


@needs_busybox
def test_image_of_any_format_is_whole_with_its_kernel_and_an_initrd(
    source: Path, host: LinuxHost, tmp_path: Path
) -> None:
    directory, before = tmp_path / "0123", hashlib.sha256(source.read_bytes()).digest()
    build(host, directory, source)
    assert sorted(path.name for path in directory.iterdir()) == ["facts.json", "initrd.img", "rootfs.ext4", "vmlinuz"]
    assert (directory / "vmlinuz").read_bytes() == b"the kernel"
    assert b"the module" in (directory / "initrd.img").read_bytes()
    facts = json.loads((directory / "facts.json").read_text())
    assert re.fullmatch("[0-9a-f]{16}", facts.pop("build"))
    assert facts == {
        "fstab": "# its own\n",
        "kernel_release": "6.1",
        "rootfs_bytes": (directory / "rootfs.ext4").stat().st_size,
        "work_seed_bytes": None,
    }
    subprocess.run(["/sbin/e2fsck", "-fn", directory / "rootfs.ext4"], check=True, capture_output=True)
    found = statuses(directory / "rootfs.ext4", ["/etc/machine-id", "/sbin/init"])
    assert found["/etc/machine-id"] is not None and found["/etc/machine-id"].inode.size_bytes == 0
    assert found["/sbin/init"] is not None
    assert hashlib.sha256(source.read_bytes()).digest() == before


def test_image_with_a_given_kernel_and_initrd_takes_both(host: LinuxHost, tar: Path, tmp_path: Path) -> None:
    for name in ("k", "i"):
        (tmp_path / name).write_text(name)
    stages = build(host, tmp_path / "0123", tar, kernel=str(tmp_path / "k"), initrd=str(tmp_path / "i"))
    assert (tmp_path / "0123/vmlinuz").read_text() == "k"
    assert (tmp_path / "0123/initrd.img").read_text() == "i"
    assert json.loads((tmp_path / "0123/facts.json").read_text())["kernel_release"] is None
    assert stages[0] == "unpacking root.tar"


def test_image_with_a_kernel_from_outside_alone_asks_for_an_initrd(host: LinuxHost, ext4: Path, tmp_path: Path) -> None:
    (tmp_path / "k").write_text("k")
    with pytest.raises(DiskError) as caught:
        build(host, tmp_path / "0123", ext4, kernel=str(tmp_path / "k"))
    assert "name an initrd" in (caught.value.hint or "")
    assert not list(tmp_path.glob("0123*"))


def test_image_without_a_kernel_says_so(host: LinuxHost, tmp_path: Path) -> None:
    host.ext4.make(tmp_path / "bare.img", 2**23)
    with pytest.raises(DiskError, match="no kernel in /boot"):
        build(host, tmp_path / "0123", tmp_path / "bare.img")


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_recipe_goes_by_content_not_by_name(tar: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copy(tar, copy)
    first, second = (
        plugin.image_recipe(ImageSpec("i", "import", ImportOptions(str(path))), digest_of) for path in (tar, copy)
    )
    assert first == second and json.loads(json.dumps(first)) == first
    copy.write_bytes(b"other")
    assert plugin.image_recipe(ImageSpec("i", "import", ImportOptions(str(copy))), digest_of) != first


def test_recipe_of_a_file_that_may_not_be_read_stands_at_its_key() -> None:
    place, at = Place("/somewhere/playbook.yml", 3, 7), Place("/somewhere/playbook.yml", 5, 15)
    options = ImportOptions("root.tar", kernel="vmlinuz")
    spec = ImageSpec("i", "import", options, place=place, places={"path": place, "kernel": at})

    def digest(path: Path) -> str:
        if path.name == "vmlinuz":
            raise PermissionError(13, "Permission denied")
        return ""

    with pytest.raises(PlaybookError) as error:
        plugin.image_recipe(spec, digest)
    (problem,) = error.value.problems
    assert problem.place == at
    assert problem.hint == "let this user read it: ls -l /somewhere/vmlinuz"


def test_recipe_of_a_missing_file_is_a_problem_of_the_playbook() -> None:
    place, of_path = Place("/somewhere/playbook.yml", 3, 7), Place("/somewhere/playbook.yml", 4, 13)
    spec = ImageSpec("i", "import", ImportOptions("images/root.tar", kernel="vmlinuz"), place=place)
    asked: list[Path] = []

    def asking(path: Path) -> str:
        asked.append(path)
        return digest_of(path)

    with pytest.raises(PlaybookError, match="No such file") as error:
        plugin.image_recipe(replace(spec, places={"path": of_path}), asking)
    assert asked == [Path("/somewhere/images/root.tar"), Path("/somewhere/vmlinuz")], "relative to the playbook"
    assert [(problem.place, problem.message.partition(",")[0]) for problem in error.value.problems] == [
        (place, "'vmlinuz'"),
        (of_path, "'images/root.tar'"),
    ]


@needs_qemu_img
def test_qcow2_that_stands_on_another_file_is_refused(host: LinuxHost, ext4: Path, tmp_path: Path) -> None:
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(ext4), str(tmp_path / "top.qcow2")]
    subprocess.run(create, check=True)
    with pytest.raises(DiskError, match=r"stands on another file, .*root\.img"):
        build(host, tmp_path / "0123", tmp_path / "top.qcow2")


@needs_qemu_img
def test_qcow2_with_its_data_in_another_file_is_refused(host: LinuxHost, tmp_path: Path) -> None:
    data, top = tmp_path / "data.raw", tmp_path / "top.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", str(top), "1M"]
    subprocess.run(create, check=True)
    with pytest.raises(DiskError, match="stands on another file"):
        build(host, tmp_path / "0123", top)


@needs_qemu_img
def test_qcow2_that_is_broken_is_refused(host: LinuxHost, tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"QFI\xfb" + b"\xff" * 5000)
    with pytest.raises(DiskError, match="no qcow2 image that can be read"):
        build(host, tmp_path / "0123", tmp_path / "broken")


@needs_qemu_img
def test_disk_without_one_ext4_partition_is_refused(host: LinuxHost, ext4: Path, tmp_path: Path) -> None:
    disk = partitioned(ext4, gpt=True)
    with disk.open("r+b") as stream:
        stream.seek(START)
        stream.write(bytes(4096))
    with pytest.raises(DiskError, match="has no partitions with an ext4"):
        build(host, tmp_path / "0123", disk)


def test_partition_that_ends_beyond_the_disk_is_refused(ext4: Path) -> None:
    disk = partitioned(ext4, gpt=False)
    with disk.open("r+b") as stream:
        stream.truncate(START + 2**20)
    with pytest.raises(DiskError, match="ends beyond the disk"):
        find_ext4_partition(disk)


HEADER, FIRST, SECOND = 512 + 72, 1024 + 32, 1024 + 128 + 32
"""Where a GPT says at which sector its table begins, and at which its partitions begin and end."""


def point(disk: Path, at: int, sector: int) -> None:
    with disk.open("r+b") as stream:
        stream.seek(at)
        stream.write(struct.pack("<Q", sector) if at == HEADER else struct.pack("<QQ", sector, sector))


@pytest.mark.parametrize("sector", [2**32, 2**54 - 1, 2**54, 2**60, 2**63, 2**64 - 1])
@pytest.mark.parametrize("at", [HEADER, SECOND])
def test_partition_table_that_points_beyond_the_disk_leads_nowhere(ext4: Path, at: int, sector: int) -> None:
    disk = partitioned(ext4, gpt=True)
    point(disk, at, sector)
    with pytest.raises(DiskError, match=r"root\.disk has no partitions with an ext4 file system") as caught:
        find_ext4_partition(disk)
    assert caught.value.hint


def test_partition_that_begins_beyond_the_disk_hides_no_other(ext4: Path) -> None:
    disk = partitioned(ext4, gpt=True)
    point(disk, FIRST, 2**63)
    assert find_ext4_partition(disk) == (START, ext4.stat().st_size)


def test_partition_table_that_is_cut_off_leads_nowhere(ext4: Path) -> None:
    disk = partitioned(ext4, gpt=True)
    with disk.open("r+b") as stream:
        stream.truncate(512 + 80)
    with pytest.raises(DiskError, match="has no partitions with an ext4 file system"):
        find_ext4_partition(disk)


def test_damaged_ext4_is_refused_and_nothing_is_left(host: LinuxHost, ext4: Path, tmp_path: Path) -> None:
    with ext4.open("r+b") as stream:
        stream.seek(1024 + 4)
        stream.write(b"\xff" * 40)
    with pytest.raises(DiskError):
        build(host, tmp_path / "0123", ext4)
    assert not list(tmp_path.glob("0123*"))


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_file_of_no_known_format_is_refused_with_the_formats_there_are(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "what").write_bytes(content)
    with pytest.raises(DiskError, match="neither an ext4") as caught:
        detect_format(tmp_path / "what")
    assert "format: ext4" in (caught.value.hint or "")


def test_file_of_a_named_but_wrong_format_is_refused(host: LinuxHost, tar: Path, tmp_path: Path) -> None:
    for wrong in ("ext4", "qcow2", "disk"):
        with pytest.raises(DiskError):
            build(host, tmp_path / "0123", tar, format=wrong)
    assert not list(tmp_path.glob("0123*"))
