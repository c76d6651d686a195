"""The initrd: listed back by busybox's own cpio, its modules in an order that loads, its script understood by ash."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.errors import DiskError, HostError
from banger.linux import initrd
from banger.linux.initrd import CpioEntry, build_initrd, cpio, module_order
from tests.capabilities import programs, require

BASE = "/lib/modules/6.1"
DEP = """\
kernel/virtio/virtio_pci.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko
kernel/virtio/virtio.ko: kernel/virtio/virtio_ring.ko
kernel/virtio/virtio_ring.ko:
kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.gz
kernel/fs/jbd2.ko.gz:
kernel/lib/crc32c-generic.ko:
kernel/fs/overlayfs/overlay.ko:
"""
SOFT = "# comment\nsoftdep ext4 pre: crc32c post: nothing\n"
ALIAS = "alias crc32c crc32c_generic\nalias pci:v00001AF4d* virtio_pci\n"
ELF = Path("/bin/busybox")


@pytest.fixture
def busybox() -> None:
    require(None if ELF.exists() else "needs busybox (apt install busybox-static)")


needs_busybox = pytest.mark.usefixtures("busybox")


def guest(**more: bytes) -> dict[str, bytes]:
    files = {
        f"{BASE}/modules.dep": DEP.encode(),
        f"{BASE}/modules.softdep": SOFT.encode(),
        f"{BASE}/modules.alias": ALIAS.encode(),
        f"{BASE}/kernel/virtio/virtio_pci.ko": b"pci",
        f"{BASE}/kernel/virtio/virtio.ko": b"virtio",
        f"{BASE}/kernel/virtio/virtio_ring.ko": b"ring",
        f"{BASE}/kernel/fs/ext4.ko.xz": lzma.compress(b"ext4"),
        f"{BASE}/kernel/fs/jbd2.ko.gz": gzip.compress(b"jbd2"),
        f"{BASE}/kernel/lib/crc32c-generic.ko": b"crc",
        f"{BASE}/kernel/fs/overlayfs/overlay.ko": b"overlay",
    }
    return {**files, **more}


def unpack(archive: bytes, directory: Path) -> None:
    subprocess.run(["busybox", "cpio", "-idm"], input=archive, cwd=directory, check=True, capture_output=True)


@needs_busybox
def test_cpio_of_every_type_is_listed_by_busybox_as_it_was_given() -> None:
    entries = [
        CpioEntry("etc", 0o040755),
        CpioEntry("etc/odd", 0o100640, b"abc"),
        CpioEntry("etc/empty", 0o100600),
        CpioEntry("etc/link", 0o120777, b"odd"),
        CpioEntry("console", 0o020600, device=(5, 1)),
    ]
    listed = subprocess.run(["busybox", "cpio", "-tv"], input=cpio(entries), capture_output=True, check=True)
    words = [line.split() for line in listed.stdout.decode().splitlines() if "blocks" not in line]
    assert [(line[0], line[1], line[-1]) for line in words] == [
        ("drwxr-xr-x", "0/0", "etc"),
        ("-rw-r-----", "0/0", "etc/odd"),
        ("-rw-------", "0/0", "etc/empty"),
        ("lrwxrwxrwx", "0/0", "odd"),
        ("crw-------", "0/0", "console"),
    ]
    assert words[1][2] == "3"


def test_cpio_of_the_same_entries_is_the_same_bytes_in_whole_words() -> None:
    entries = [CpioEntry("a", 0o100644, b"12345")]
    assert cpio(entries) == cpio(entries)
    assert len(cpio(entries)) % 4 == 0


def test_modules_are_ordered_after_what_they_need_hard_and_soft() -> None:
    order = module_order(guest().get, BASE, ("virtio_pci", "ext4", "virtio_blk"))
    assert [Path(path).name for path in order] == [
        "virtio_ring.ko",
        "virtio.ko",
        "virtio_pci.ko",
        "crc32c-generic.ko",
        "jbd2.ko.gz",
        "ext4.ko.xz",
    ]


def test_modules_of_a_kernel_without_modules_dep_are_a_disk_error() -> None:
    with pytest.raises(DiskError, match=r"no /lib/modules/6.1/modules.dep"):
        module_order(dict[str, bytes]().get, BASE, ("ext4",))


def test_modules_that_need_each_other_do_not_loop() -> None:
    files = {f"{BASE}/modules.dep": b"a.ko:\nb.ko:\n", f"{BASE}/modules.softdep": b"softdep a b\nsoftdep b a\n"}
    assert sorted(module_order(files.get, BASE, ("a",))) == ["a.ko", "b.ko"]


@needs_busybox
def test_initrd_holds_unpacked_modules_in_loading_order_and_a_busybox_that_runs(tmp_path: Path) -> None:
    unpack(build_initrd(guest().get, "6.1"), tmp_path)
    order = (tmp_path / "lib/modules/order").read_text().split()
    assert order.index("jbd2.ko") < order.index("ext4.ko")
    assert (tmp_path / "lib/modules/ext4.ko").read_bytes() == b"ext4"
    assert (tmp_path / "lib/modules/jbd2.ko").read_bytes() == b"jbd2"
    done = subprocess.run([tmp_path / "bin/busybox", "sh", "-n", tmp_path / "init"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = {path.name for path in (tmp_path / "bin").iterdir()} - {"busybox"}
    assert links <= set(applets)


@needs_busybox
def test_initrd_of_zstd_modules_has_them_unpacked(tmp_path: Path) -> None:
    require(programs("zstd"))
    packed = subprocess.run(["zstd", "-c"], input=b"overlay!", capture_output=True, check=True).stdout
    files = guest()
    files[f"{BASE}/modules.dep"] = b"overlay.ko.zst:\n"
    files[f"{BASE}/overlay.ko.zst"] = packed
    unpack(build_initrd(files.get, "6.1"), tmp_path)
    assert (tmp_path / "lib/modules/overlay.ko").read_bytes() == b"overlay!"


def zstd(content: bytes) -> bytes:
    require(programs("zstd"))
    return subprocess.run(["zstd", "-c"], input=content, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "gz": gzip.compress, "zst": zstd}


def with_overlay(packed: bytes, ending: str) -> dict[str, bytes]:
    return {f"{BASE}/modules.dep": f"overlay.ko.{ending}:\n".encode(), f"{BASE}/overlay.ko.{ending}": packed}


@needs_busybox
@pytest.mark.parametrize("ending", PACKERS)
def test_initrd_of_a_module_that_unpacks_to_more_than_any_has_is_refused(ending: str) -> None:
    bomb = PACKERS[ending](bytes(initrd.MOST_MODULE_BYTES + 1))
    assert len(bomb) < 2**17
    with pytest.raises(DiskError, match=rf"/lib/modules/6\.1/overlay\.ko\.{ending} unpacks to more than 64.0MiB"):
        build_initrd(with_overlay(bomb, ending).get, "6.1")


@needs_busybox
@pytest.mark.parametrize("ending", PACKERS)
def test_initrd_of_a_module_that_is_damaged_is_refused(ending: str) -> None:
    packed = PACKERS[ending](bytes(range(256)) * 9)
    for damaged in (packed[:-9], b"rubbish" + packed):
        with pytest.raises(DiskError, match=rf"/lib/modules/6\.1/overlay\.ko\.{ending} is damaged: "):
            build_initrd(with_overlay(damaged, ending).get, "6.1")


@needs_busybox
def test_initrd_of_more_modules_than_any_guest_has_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd, "MOST_MODULES_BYTES", 20)
    with pytest.raises(DiskError, match=rf"{BASE}/modules.dep names have more than 20.0B"):
        build_initrd(guest().get, "6.1")


@needs_busybox
def test_initrd_of_a_module_that_is_missing_is_a_disk_error() -> None:
    files = guest()
    del files[f"{BASE}/kernel/fs/jbd2.ko.gz"]
    with pytest.raises(DiskError, match=r"names kernel/fs/jbd2\.ko\.gz"):
        build_initrd(files.get, "6.1")


def test_initrd_without_a_static_busybox_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd, "_HOST_BUSYBOX", (Path("/nowhere"),))
    files = guest(**{"/bin/busybox": Path("/bin/sh").read_bytes()})  # there, and dynamically linked
    with pytest.raises(HostError) as caught:
        build_initrd(files.get, "6.1")
    assert caught.value.hint == "apt-get install busybox-static"


def test_initrd_takes_the_guests_own_busybox_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd, "_HOST_BUSYBOX", ())
    static = b"\x7fELF\x02".ljust(64, b"\0")  # no program headers at all, so no interpreter
    assert static in build_initrd(guest(**{"/bin/busybox": static}).get, "6.1")
