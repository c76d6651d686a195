"""banger.linux.kernel: the ELF file in kernels packed in every way, and what is none."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.errors import DiskError, HostError
from banger.linux.kernel import unpack_kernel
from banger.linux.run import run
from tests.capabilities import programs, require

ELF = b"\x7fELF" + bytes(range(256)) * 300
SETUP_SECTORS = 3
PAYLOAD_OFFSET = 700


def bzimage(payload: bytes, *, version: int = 0x020F, setup_sectors: int = SETUP_SECTORS) -> bytes:
    """As the Linux/x86 boot protocol has it; the kernel's own code is left out."""
    setup = bytearray(((setup_sectors or 4) + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    setup[0x248:0x250] = struct.pack("<II", PAYLOAD_OFFSET, len(payload))
    return bytes(setup) + bytes(PAYLOAD_OFFSET) + payload + b"what comes after it"


def sized(packed: bytes) -> bytes:
    """With the size that the kernel's build puts after what is packed."""
    return packed + struct.pack("<I", len(ELF))


def lz4(content: bytes) -> bytes:
    require(programs("lz4"))
    return sized(run(["lz4", "-lc"], input=content, timeout_s=60).stdout)


def zstd(content: bytes) -> bytes:
    require(programs("zstd"))
    return sized(run(["zstd", "-c"], input=content, timeout_s=60).stdout)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda content: sized(bz2.compress(content)),
    "lzma": lambda content: sized(lzma.compress(content, lzma.FORMAT_ALONE)),
    "xz": lambda content: sized(lzma.compress(content)),
    "lz4": lz4,
    "zstd": zstd,
}


@pytest.mark.parametrize("way", PACKED)
def test_kernel_packed_in_this_way_is_unpacked(way: str, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(bzimage(PACKED[way](ELF)))
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == ELF
    assert (tmp_path / "vmlinux").stat().st_mode & 0o777 == 0o644


def test_kernel_of_an_old_loader_has_four_setup_sectors(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(bzimage(gzip.compress(ELF), setup_sectors=0))
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == ELF


def test_kernel_that_is_an_elf_file_gets_a_second_name(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(ELF)
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").samefile(tmp_path / "vmlinuz")


def test_kernel_that_is_an_elf_file_on_another_file_system_is_copied(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm to be a file system of its own")
    source = elsewhere / f"vmlinuz-{os.getpid()}"
    source.write_bytes(ELF)
    try:
        unpack_kernel(source, tmp_path / "vmlinux")
    finally:
        source.unlink()
    assert (tmp_path / "vmlinux").read_bytes() == ELF


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"MZ not a kernel", "is no Linux kernel for x86-64"),
        (bzimage(gzip.compress(ELF), version=0x0207), "is no Linux kernel for x86-64"),
        (bzimage(b"\x89LZO" + ELF), "packed in a way that is not known here (it begins with 894c5a4f7f45)"),
        (bzimage(gzip.compress(ELF)[:-12]), "is damaged: it is cut off"),
        (bzimage(sized(lzma.compress(ELF)[:-50])), "is damaged"),
        (bzimage(gzip.compress(b"MZ" + ELF)), "there is no ELF file in the kernel"),
        (bzimage(bytes.fromhex("28b52ffd") + b"rubbish" * 9), "is damaged"),
    ],
)
def test_kernel_that_is_none_is_refused_and_leaves_nothing(content: bytes, said: str, tmp_path: Path) -> None:
    if content.find(bytes.fromhex("28b52ffd")) > 0:
        require(programs("zstd"))
    (tmp_path / "vmlinuz").write_bytes(content)
    with pytest.raises(HostError) as caught:
        unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert said in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["vmlinuz"]


@pytest.mark.parametrize("way", PACKED)
def test_kernel_that_unpacks_to_more_than_any_has_is_refused(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinuz").write_bytes(bzimage(PACKED[way](ELF)))
    monkeypatch.setattr("banger.linux.kernel.MOST_KERNEL_BYTES", len(ELF) - 1)
    with pytest.raises(DiskError, match=rf"the kernel {tmp_path}/vmlinuz unpacks to more than 75.0KiB"):
        unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert [path.name for path in tmp_path.iterdir()] == ["vmlinuz"]
    monkeypatch.setattr("banger.linux.kernel.MOST_KERNEL_BYTES", len(ELF))
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "vmlinux")
