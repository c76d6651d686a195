"""The ELF file inside a Linux kernel as distributions ship it (bzImage), for VMMs that load nothing else.

The layout is that of the Linux/x86 boot protocol (Linux Documentation/arch/x86/boot.rst): the setup header at 0x1f1
says where in the file the compressed payload begins and how long it is.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from banger.errors import CommandError, HostError
from banger.linux.compressed import bounded, by_program
from banger.linux.publish import publishing

_ELF = b"\x7fELF"
_SETUP_SECTORS = 0x1F1
_HEADER_MAGIC, _HEADER_VERSION = 0x202, 0x206
_PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 0x248, 0x24C  # since version 2.08 of the protocol (Linux 2.6.26)
_FIRST_WITH_PAYLOAD = 0x0208
_SIZE_BYTES = 4
"""After the compressed data comes the size of what is in it, which is none of the compressor's (arch/x86/boot)."""
MOST_KERNEL_BYTES = 512 * 2**20
"""Of a kernel, packed or not; one with all its debug information has less."""
_Unpack = Callable[[bytes, str], bytes]
"""Of compressed data, and a name for messages."""


def unpack_kernel(source: Path, destination: Path) -> None:
    """The kernel at `source` as an ELF file at `destination`, whole or not at all; an ELF file gets that second name.

    Raises HostError when it is no kernel for x86, when the program that unpacks it is missing, or it is damaged,
    DiskError when it is larger than any.
    """
    content = source.read_bytes()
    with publishing(destination, 0o644) as temporary:
        if not content.startswith(_ELF):
            temporary.write_bytes(elf_in(content, str(source)))
        elif source.stat().st_dev == temporary.stat().st_dev:
            temporary.unlink()
            os.link(source, temporary)
        else:
            temporary.write_bytes(content)


def unpacked(source: Path) -> bytes:
    """The kernel at `source` as an ELF file. Raises HostError and DiskError like `unpack_kernel`."""
    content = source.read_bytes()
    return content if content.startswith(_ELF) else elf_in(content, str(source))


def elf_in(kernel: bytes, name: str) -> bytes:
    """The ELF file in a bzImage; `name` is for messages."""
    payload = _payload(kernel)
    if payload is None:
        raise HostError(f"{name} is no Linux kernel for x86-64", hint="name one (bzImage or vmlinux) in `kernel`")
    for magic, unpack in _UNPACKERS.items():
        if payload.startswith(magic):
            try:
                unpacked = unpack(payload, f"the kernel {name}")
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, CommandError) as error:
                raise HostError(f"the kernel {name} is damaged: {error}") from error
            if not unpacked.startswith(_ELF):
                raise HostError(f"there is no ELF file in the kernel {name}")
            return unpacked
    raise HostError(
        f"the kernel {name} is packed in a way that is not known here (it begins with {payload[:6].hex()})",
        hint="name an unpacked kernel (vmlinux) in `kernel`",
    )


def _payload(kernel: bytes) -> bytes | None:
    def number(offset: int, width: int) -> int:
        return int.from_bytes(kernel[offset : offset + width], "little")

    if kernel[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS" or number(_HEADER_VERSION, 2) < _FIRST_WITH_PAYLOAD:
        return None
    begin = ((number(_SETUP_SECTORS, 1) or 4) + 1) * 512 + number(_PAYLOAD_OFFSET, 4)
    return kernel[begin : begin + number(_PAYLOAD_LENGTH, 4)]


def _by_library(make: Callable[[], Any]) -> _Unpack:
    """By a decompressor of Python's own library, which stops where the compressed data ends."""

    def unpack(payload: bytes, name: str) -> bytes:
        decompressor = make()
        unpacked = bounded(decompressor.decompress(payload, MOST_KERNEL_BYTES + 1), name, MOST_KERNEL_BYTES)
        if not decompressor.eof:
            raise EOFError("it is cut off")
        return unpacked

    return unpack


def _by_program(*argv: str) -> _Unpack:
    """The program would take what comes after the compressed data for more of it, and fail."""
    return lambda payload, name: by_program(argv, payload[:-_SIZE_BYTES], name, MOST_KERNEL_BYTES)


_UNPACKERS: dict[bytes, _Unpack] = {
    b"\x1f\x8b": _by_library(lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    b"\xfd7zXZ\0": _by_library(lzma.LZMADecompressor),
    b"\x5d\0\0": _by_library(lzma.LZMADecompressor),
    b"BZh": _by_library(bz2.BZ2Decompressor),
    bytes.fromhex("02214c18"): _by_program("lz4", "-dc"),
    bytes.fromhex("28b52ffd"): _by_program("zstd", "-dcq"),
}
"""By what the compressed data begins with. Of the kernel's compressors only LZO is left out, which few ever used."""
